"""One layer, start to end: scored, gated, and what becomes of its channels."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from .alignment import null_deviation
from .gates import GATES, Settings, gate, new_sigma
from .scores import SCORES, LayerFacts


@dataclass(frozen=True)
class Verdict:
    """What becomes of a layer: of each of its channels [c], or of the layer as one [1], whose sigma is then ||dW||_F."""

    scores: Tensor
    sigma: Tensor
    new_sigma: Tensor
    rank_before: int
    whole: bool = False
    """The layer was judged as one."""
    k: int = 0
    """Of the base's subspace; 0 where none was asked for."""
    deviation: float = 0.0
    """Standard deviation of a random channel's score in this layer."""
    flat: bool = False
    """The base's spectrum is flat: alignment means nothing."""

    @property
    def changed(self) -> bool:
        """False: dW stays as it is, to the bit."""
        return bool((self.sigma != self.new_sigma).any())

    @property
    def removed(self) -> Tensor:
        """Singular values of what was taken out: dW - dW'."""
        return self.sigma - self.new_sigma

    @property
    def rank(self) -> int:
        """Rank that is left."""
        return int((self.new_sigma != 0).sum()) * self.stands_for

    def factor_of(self, sigma: Tensor) -> float:
        """By what a layer that was judged as one is multiplied for another sigma [1]."""
        return float(sigma / self.sigma)

    @property
    def stands_for(self) -> int:
        """How many channels each entry stands for: one, or all of a layer that was judged as one."""
        return self.rank_before if self.whole else 1


def judge(layer: LayerFacts, settings: Settings, seed: int = 0, of_the_file: float | None = None) -> Verdict:
    """Scores and new singular values of a layer; `seed` tells layers apart in the random control."""
    score = SCORES[settings.score]
    whole = score.whole and not GATES[settings.gate].ranks
    sigma = layer.norm if whole else layer.channels.sigma
    k, deviation, flat = 0, 0.0, False
    if score.needs_base:
        base = layer.base
        k, deviation, flat = base.k, null_deviation(base.u.shape[0], base.v.shape[0], base.k), base.flat
    scores = score.of(layer, settings.seed + seed)
    scores = scores if whole else scores.expand_as(sigma)
    g = gate(scores, sigma, settings, deviation, of_the_file)
    return Verdict(scores, sigma, new_sigma(sigma, g, settings), layer.rank if whole else len(sigma), whole, k, deviation, flat)


def gated_by_file(before: Verdict, settings: Settings, threshold: float) -> Verdict:
    """A verdict once more, now that the whole file's threshold is known: nothing is scored again."""
    g = gate(before.scores, before.sigma, settings, before.deviation, threshold)
    return replace(before, new_sigma=new_sigma(before.sigma, g, settings))
