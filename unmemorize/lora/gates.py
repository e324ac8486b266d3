"""From scores to new singular values: g_i in [0, 1] says how much of a channel is kept.

hard   a_i > tau                     soft   sigmoid((a_i - tau) / T)
ratio  the best rho of the channels, of each layer or of the whole file (there weighted by sigma_i^2)

sigma_i' = sigma_i (1 - strength (1 - g_i))

Where a layer is judged as one, it has a single "channel" whose sigma is ||dW||_F.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .scores import DEFAULT, SCORES


@dataclass(frozen=True)
class Settings:
    """How a LoRA is filtered."""

    energy: float = 0.5
    """E: share of a base layer's energy that its principal subspace holds."""
    score: str = DEFAULT
    gate: str = "hard"
    threshold: float = 0.0
    """tau, of the hard and the soft gate."""
    deviations: float = 0.0
    """Added to tau, in standard deviations of a random channel's score: 2 or 3 reject random channels."""
    temperature: float = 0.05
    """T of the soft gate."""
    keep: float = 0.5
    """rho of the other gates."""
    strength: float = 1.0
    """0 = nothing is changed."""
    restore_norm: bool = False
    """Rescale each layer to its old norm; it can make the remaining memories louder."""
    seed: int = 0
    """Of the random control."""

    def check(self) -> None:
        """ValueError on what is out of range."""
        if self.score not in SCORES or self.gate not in GATES:
            raise ValueError(f"score {self.score!r} or gate {self.gate!r} is none of: {', '.join(SCORES)}; {', '.join(GATES)}.")
        if not all(math.isfinite(v) for v in (self.threshold, self.deviations, self.temperature)):
            raise ValueError(f"No numbers: threshold {self.threshold}, deviations {self.deviations} or temperature {self.temperature}.")
        if not (0 < self.energy < 1 and 0 <= self.keep <= 1 and 0 <= self.strength <= 1 and self.temperature > 0):
            raise ValueError(
                f"Out of range: energy {self.energy} (between 0 and 1), keep {self.keep} (0 to 1), strength {self.strength} (0 to 1) "
                f"or temperature {self.temperature} (above 0)."
            )


@dataclass(frozen=True)
class Gate:
    """One way to decide by scores."""

    of: Callable[[Tensor, Tensor, float, Settings], Tensor]
    """(scores, sigma, threshold, settings) -> g, [c]."""
    ranks: bool = False
    """It ranks the channels of a layer against each other, so that they must be known."""
    by_file: bool = False
    """Its threshold comes from the scores of the whole file, see `threshold_of_file`."""
    described: str = ""
    """What a filter is called where the gate alone decides; else "" and the score gives the name."""


def _hard(scores: Tensor, sigma: Tensor, threshold: float, settings: Settings) -> Tensor:
    return (scores > threshold).to(sigma)


def _soft(scores: Tensor, sigma: Tensor, threshold: float, settings: Settings) -> Tensor:
    return torch.sigmoid((scores - threshold) / settings.temperature)


def _ratio(scores: Tensor, sigma: Tensor, threshold: float, settings: Settings) -> Tensor:
    return best(scores, torch.ones_like(sigma), settings.keep)


def _ratio_of_file(scores: Tensor, sigma: Tensor, threshold: float, settings: Settings) -> Tensor:
    return (scores >= threshold).to(sigma)


def _energy(scores: Tensor, sigma: Tensor, threshold: float, settings: Settings) -> Tensor:
    return best(scores, sigma.square(), settings.keep)


def _scale(scores: Tensor, sigma: Tensor, threshold: float, settings: Settings) -> Tensor:
    return torch.full_like(sigma, settings.keep)


GATES: dict[str, Gate] = {
    "hard": Gate(_hard),
    "soft": Gate(_soft),
    "ratio": Gate(_ratio, ranks=True),
    "ratio of the file": Gate(_ratio_of_file, by_file=True),
    "energy": Gate(_energy, ranks=True),
    "scale": Gate(_scale, described="lower strength (control)"),
}
"""Beside the three above: "energy" keeps the best channels until they hold rho of the layer's energy, so that scores can be compared
at equal energy removed; "scale" weakens all channels alike, to rho (the control of a lower LoRA strength)."""


def gate(scores: Tensor, sigma: Tensor, settings: Settings, null_deviation: float, of_the_file: float | None = None) -> Tensor:
    """g of each channel, [c] in [0, 1]; `of_the_file` is the whole file's threshold where its gate is chosen."""
    chosen = GATES[settings.gate]
    if not chosen.by_file:
        # what is judged as a whole goes or stays by what it is: its score is a yes or a no
        threshold = 0.0 if SCORES[settings.score].whole else settings.threshold + settings.deviations * null_deviation
        return chosen.of(scores, sigma, threshold, settings)
    if of_the_file is None:
        raise ValueError(f"the gate {settings.gate!r} needs the scores of all layers first")
    return chosen.of(scores, sigma, of_the_file, settings)


def best(scores: Tensor, weights: Tensor, share: float) -> Tensor:
    """1 for the best channels whose weights make up `share` of all, the one that crosses it included; else 0. [c]."""
    order = scores.argsort(descending=True, stable=True)
    before = weights[order].cumsum(0) - weights[order]
    kept = torch.zeros_like(weights)
    kept[order] = (before < share * weights.sum() * (1 - 1e-6)).to(weights)
    return kept if share < 1 else torch.ones_like(weights)  # the last of them may hold less than that


def threshold_of_file(scores_and_sigmas: Iterable[tuple[Tensor, Tensor]], share: float) -> float:
    """The score from which on a channel belongs to the best `share` of the whole file, by energy."""
    several = list(scores_and_sigmas)
    if not several:
        return 0.0
    scores = torch.cat([s for s, _ in several])
    kept = best(scores, torch.cat([sigma.square() for _, sigma in several]), share)
    return float(scores[kept > 0].min()) if bool((kept > 0).any()) else float("inf")


def new_sigma(sigma: Tensor, g: Tensor, settings: Settings) -> Tensor:
    """sigma', [c]. Where nothing is gated, sigma itself to the bit."""
    if settings.strength == 0:
        return sigma
    changed = sigma * (1 - settings.strength * (1 - g))
    if settings.restore_norm and not SCORES[settings.score].whole:  # what is weakened as one would be as strong again
        norm = changed.norm()
        changed = torch.where(norm > 0, changed * (sigma.norm() / norm), changed)
    return torch.where((g == 1).all(), sigma, changed)  # chosen where the numbers are: nothing waits for a device
