"""One layer, start to end: channels against the base's subspace, gated."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .alignment import null_deviation, score
from .channels import Channels
from .gates import Settings, gate, new_sigma
from .subspace import Subspace


@dataclass(frozen=True)
class Verdict:
    """What became of a layer's channels; [c] each."""

    scores: Tensor
    sigma: Tensor
    new_sigma: Tensor
    k: int
    """Of the base's subspace."""
    deviation: float
    """Standard deviation of a random channel's score in this layer."""
    flat: bool

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
        """Channels that are left."""
        return int((self.new_sigma != 0).sum())


def judge(channels: Channels, base: Subspace, settings: Settings, seed: int = 0, of_the_file: float | None = None) -> Verdict:
    """Scores and new singular values of a layer's channels; `seed` tells layers apart in the random control."""
    scores = score(settings.score, channels, base, settings.seed + seed)
    deviation = null_deviation(len(base.u), len(base.v), base.k)
    g = gate(scores, channels.sigma, settings, deviation, of_the_file)
    return Verdict(scores, channels.sigma, new_sigma(channels.sigma, g, settings), base.k, deviation, base.flat)
