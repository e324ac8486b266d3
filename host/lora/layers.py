"""The layers that a LoRA changes, and the one loop that judges them: of a file, or applied to a MODEL already.

Base weights are read one at a time, and only where the score asks for them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...unmemorize.lora.channels import Channels
from ...unmemorize.lora.filtering import Verdict, judge
from ...unmemorize.lora.gates import GATES, Settings, threshold_of_file
from ...unmemorize.lora.subspace import Subspace
from ..core.progress import Progress
from ..core.weights import PLAIN, Weights
from .adapters import Adapter
from .linalg import linalg_device
from .prompt_layers import reads_the_prompt
from .subspaces import Subspaces

NUMBERS = (*PLAIN, torch.float8_e4m3fn, torch.float8_e5m2)
"""What a factor may be stored in."""
UNDEFINED = "the base layer is too small or zero: it has no principal subspace"
ODD_FUNCTION = "the core rearranges this layer in a way that cannot be undone here"
OTHER_SHAPE = "its shape is not the layer's"
NOTHING = "it changes nothing"
TOO_LARGE = "its numbers are so large that what is computed from them overflows"


class Unjudged(Exception):
    """There is no verdict on this layer; the text says why."""


@dataclass(frozen=True)
class Layer:
    """A weight, and what is added to it."""

    target: str
    """The weight's key."""
    offset: tuple[int, int, int] | None
    """(dim, start, length) of the part of the weight, as with fused qkv."""
    function: Any
    """Applied by the core to dW, as with swapped halves; None for most."""
    text_encoder: bool
    adapter: Adapter

    @property
    def block(self) -> str:
        """The layer's block: its key up to the first number."""
        found = re.match(r"(.*?\.\d+)(\.|$)", self.target)
        return (found.group(1) if found else self.target).removeprefix("diffusion_model.")


class LayerAtWork:
    """A layer as scores see it (`unmemorize.lora.scores.LayerFacts`): everything is found when it is first asked for."""

    def __init__(self, layer: Layer, weights: Weights, subspaces: Subspaces) -> None:
        self._layer, self._weights, self._subspaces = layer, weights, subspaces
        self.device = linalg_device()

    @property
    def reads_prompt(self) -> bool:
        """All of a text encoder does."""
        return self._layer.text_encoder or reads_the_prompt(self._layer.target)

    @property
    def rank(self) -> int:
        """As the file says it; no more than the layer can have."""
        return min(self._layer.adapter.rank, *self._layer.adapter.shape)

    @cached_property
    def norm(self) -> Tensor:
        """||dW||_F, [1]. Unjudged if it is 0."""
        norm = self._layer.adapter.norm(self.device)
        if float(norm) == 0:
            raise Unjudged(NOTHING)
        return norm

    @cached_property
    def channels(self) -> Channels:
        """Of dW. Unjudged if there are none."""
        channels = self._layer.adapter.channels(self.device)
        if not len(channels):
            raise Unjudged(NOTHING)
        return channels

    @cached_property
    def base(self) -> Subspace:
        """Of the base's weight, from the cache where it is known. Unjudged where it cannot be read, is undefined, or does not fit."""
        layer = self._layer
        try:
            name = cache_name(self._weights.digest(layer.target), layer.offset, layer.function)
            found = self._subspaces.of(layer.adapter.shape, name, lambda: base_of(layer, self._weights, self.device))
        except ValueError as error:
            raise Unjudged(str(error)) from error
        if found is None:
            raise Unjudged(UNDEFINED)
        if (len(found.u), len(found.v)) != layer.adapter.shape:
            raise Unjudged(OTHER_SHAPE)
        return found


Judged = tuple[Layer, LayerAtWork, Verdict | str]
"""A verdict, or why there is none."""


def judged(layers: list[Layer], weights: dict[bool, Weights], settings: Settings, subspaces: Subspaces) -> Iterator[Judged]:
    """Each layer judged, one at a time; `weights` of the diffusion model (False) and of the text encoder (True).

    Where the gate's threshold is the whole file's, all layers are judged twice.
    """
    by_file = GATES[settings.gate].by_file
    progress = Progress((2 if by_file else 1) * len(layers))
    threshold = None
    if by_file:
        first = _each(layers, weights, settings, subspaces, progress, float("-inf"))
        found = [v for _, _, v in first if isinstance(v, Verdict)]
        threshold = threshold_of_file([(v.scores.cpu(), v.sigma.cpu()) for v in found], settings.keep)
    yield from _each(layers, weights, settings, subspaces, progress, threshold)
    subspaces.tidy()


def _each(
    layers: list[Layer], weights: dict[bool, Weights], settings: Settings, subspaces: Subspaces, progress: Progress, threshold: float | None
) -> Iterator[Judged]:
    for number, layer in enumerate(layers):
        progress.advance()
        work = LayerAtWork(layer, weights[layer.text_encoder], subspaces)
        try:
            found = judge(work, settings, number, threshold)
            finite = all(is_finite(t) for t in (found.scores, found.sigma.square(), found.new_sigma))
            verdict: Verdict | str = found if finite else TOO_LARGE
        except Unjudged as reason:
            verdict = str(reason)
        except torch.linalg.LinAlgError:
            verdict = TOO_LARGE
        yield layer, work, verdict


def cache_name(digest: str, offset: tuple[int, int, int] | None, function: Any) -> str:
    """What a cached subspace is computed from: the weight's content, the part of it, its arrangement."""
    part = "" if offset is None else "-" + "_".join(str(x) for x in offset)
    return digest + part + ("" if function is None else "-arranged")


def base_of(layer: Layer, weights: Weights, device: torch.device) -> Tensor:
    """The part of a base weight that an update changes, arranged as the update is, [m, n].

    The core adds function(dW); the base is compared before it, so function must be its own inverse. Unjudged if not.
    """
    weight = weights.base(layer.target, device)
    if layer.offset is not None:
        weight = weight.narrow(*layer.offset)
    if layer.function is not None:
        arranged = layer.function(weight.clone())
        if not torch.equal(layer.function(arranged.clone()), weight):
            raise Unjudged(ODD_FUNCTION)
        weight = arranged
    return weight.flatten(1)


def fault_of(adapter: Adapter) -> str:
    """What is broken in an adapter, in words; "" if it is sound."""
    if any(t.ndim == 0 for t in adapter.tensors):
        return "does not fit together: a factor is a single number"
    if any(isinstance(part, complex) for part in adapter.parts):
        return "has a complex number as its alpha"
    try:
        adapter.shape  # noqa: B018 (asked for its ValueError)
    except (ValueError, IndexError) as error:
        return f"does not fit together: {error}"
    if adapter.rank < 1 or any(t.numel() == 0 for t in adapter.tensors):
        return "has rank 0"
    kinds = {str(t.dtype).removeprefix("torch.") for t in adapter.tensors if t.dtype not in NUMBERS}
    if kinds:
        return f"holds numbers of the kind {', '.join(sorted(kinds))}, which are no weights"
    if not all(is_finite(t) for t in adapter.tensors) or not abs(adapter.alpha or 0) < 1e30:
        return "holds values that are not numbers (NaN or infinite)"
    return ""


def shape_of(layer: Layer, weights: Weights) -> tuple[int, int]:
    """(m, n) of the part of the weight that a layer changes, as it is stored."""
    shape = list(weights.shape(layer.target))
    if layer.offset is not None:
        shape[layer.offset[0]] = layer.offset[2]
    return shape[0], math.prod(shape[1:])


def fits(layer: Layer, weights: Weights) -> bool:
    """Has the update its weight's shape? Quantised weights may hold several values in one place: there only the first size is sure."""
    size, wanted = layer.adapter.shape, shape_of(layer, weights)
    return size[0] == wanted[0] and (size[1] == wanted[1] or not weights.is_plain(layer.target))


def is_finite(values: Tensor) -> bool:
    """No NaN, no infinity: both reach the extremes, and one pass finds those."""
    if values.numel() == 0 or not values.is_floating_point():
        return True
    extremes = torch.aminmax(values.float() if values.element_size() == 1 else values)
    return bool(torch.stack(extremes).float().isfinite().all())
