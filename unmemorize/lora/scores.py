"""How the channels of a layer are ranked: every score is an object that says what it needs and what it says of a layer.

BAF (arXiv 2605.10439, our reconstruction) asks how far a channel lies inside the principal subspace of its base layer, see `alignment`:

    score      a = (lL + lR) / 2                # 1 = inside, 0 = as a random direction, < 0 = worse

`cross-attention` is ours, no paper's, and measured in benchmarks/lora.py: a memory is called up by its caption. Without the LoRA's changes
of cross-attention's queries, keys and values the picture attends to the words as the base does, and the caption finds the memory no more;
what the LoRA does whatever the words, a style, stays in the other layers. A word that the LoRA taught goes with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .alignment import alignments, lift, lifts
from .channels import Channels
from .subspace import Subspace

BAF = "BAF, experimental reconstruction (arXiv 2605.10439)"


class LayerFacts(Protocol):
    """What a score may look at. Each is found when it is asked for: what no score asks for is neither read nor decomposed."""

    @property
    def reads_prompt(self) -> bool:
        """Does this layer decide how the picture reads the prompt?"""

    @property
    def rank(self) -> int:
        """Of the update dW, as its file says it."""

    @property
    def norm(self) -> Tensor:
        """||dW||_F, [1]."""

    @property
    def channels(self) -> Channels:
        """Singular channels of dW."""

    @property
    def base(self) -> Subspace:
        """Principal subspace of the weight that dW is added to."""


@dataclass(frozen=True)
class Score:
    """One way to rank. High = keep."""

    of: Callable[[LayerFacts, int], Tensor]
    """(layer, seed) -> [c], a number for each channel; of a score for whole layers [1]. The seed serves the random control."""
    described: str = BAF
    """What a filter by this score is called in reports."""
    needs_base: bool = True
    """Only layers with a principal subspace are judged, and thresholds can be given in deviations of a random channel."""
    whole: bool = False
    """A layer is kept or weakened as one, and its channels need not be known."""
    useless: str = ""
    """What to tell a user where it would remove nothing at any threshold; "" where that cannot be known."""


def _reading(layer: LayerFacts, seed: int) -> Tensor:
    return torch.full_like(layer.norm, -1.0 if layer.reads_prompt else 1.0)


def _mean(layer: LayerFacts, seed: int) -> Tensor:
    left, right = lifts(layer.channels, layer.base)
    return 0.5 * (left + right)


def _min(layer: LayerFacts, seed: int) -> Tensor:
    return torch.minimum(*lifts(layer.channels, layer.base))


def _left(layer: LayerFacts, seed: int) -> Tensor:
    return lifts(layer.channels, layer.base)[0]


def _right(layer: LayerFacts, seed: int) -> Tensor:
    return lifts(layer.channels, layer.base)[1]


def _product(layer: LayerFacts, seed: int) -> Tensor:
    base = layer.base
    left, right = alignments(layer.channels, base)
    return lift(left * right, base.k / len(base.u) * base.k / len(base.v))


def _weighted(layer: LayerFacts, seed: int) -> Tensor:
    sigma = layer.channels.sigma
    return _mean(layer, seed) * (sigma / sigma.max())


def _inverted(layer: LayerFacts, seed: int) -> Tensor:
    return -_mean(layer, seed)


def _singular_value(layer: LayerFacts, seed: int) -> Tensor:
    return layer.channels.sigma


def _random(layer: LayerFacts, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(len(layer.channels), generator=generator) - 1).to(layer.channels.sigma)


SCORES: dict[str, Score] = {
    "cross-attention": Score(
        _reading,
        "no changes of cross-attention (Unmemorize's own, no paper's)",
        needs_base=False,
        whole=True,
        useless="No layer that can be filtered is known to read the prompt, so the score 'cross-attention' removes nothing. Choose the "
        "score mean or singular value.",
    ),
    "mean": Score(_mean),
    "min": Score(_min),
    "left": Score(_left),
    "right": Score(_right),
    "product": Score(_product),
    "mean x singular value": Score(_weighted),
    "inverted": Score(_inverted, "BAF inverted (control)"),
    "singular value": Score(_singular_value, "rank reduction (control)"),
    "random": Score(_random, "random channels (control)"),
}
"""The first is the default. The last three are controls: aligned channels first to go, plain rank reduction, chance; they judge the same
layers as BAF."""
DEFAULT = next(iter(SCORES))
