"""The region that runs without memories keep to, and how far a run is from it ("Broken Memories", arXiv 2605.22050, Section 4.2).

The default score is ours: a memory is known from the start, so its prediction is revised less, and is sharp at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .agreement import AgreementRegion, region_of_runs

LEAST_SD = 1e-5
FEW_RUNS = 20
WINDOW = 0.5
"""The default score averages revisions at angles above this (radians; sigma .55): later both predictions have settled."""


@dataclass(frozen=True)
class Profile:
    """Mean and standard deviation of each signal by angle, over runs that memorized nothing."""

    angles: Tensor
    """[s], ascending, radians."""
    mean: dict[str, Tensor]
    """Signal -> [s]."""
    sd: dict[str, Tensor]
    runs: int
    score_centre: float
    """Median of the default score of those runs, before it is standardised."""
    score_spread: float
    """RMS distance from the median of those above it. Clean prompts are of several kinds (photographs, drawings), each with scores of its
    own: how far they spread downward says nothing about where memories begin."""
    agreement: AgreementRegion | None = None
    """Of a LoRA's changes in those runs; None: the model before the LoRA was not connected."""


def make_profile(angles: Tensor, observed: dict[str, Tensor]) -> Profile:
    """A profile of R runs: `angles` [s] of their steps, descending, `observed` signal -> [s, R]; NaN where a signal has no value.

    Few runs (R < 20) give deviations that are too small by chance: they are inflated by 1 + 2/R. ValueError if a run is broken.
    """
    runs = next(iter(observed.values())).shape[1]
    inflation = 1 + 2 / runs if runs < FEW_RUNS else 1.0
    agreement = region_of_runs(observed["agreement"], inflation) if "agreement" in observed else None
    mean, sd = {}, {}
    for name, values in observed.items():
        if name == "agreement":  # no number where the LoRA changes nothing: such a run says nothing of that step
            values = torch.where(values.isnan(), values.nanmean(1, keepdim=True), values)
        present = ~torch.isnan(values).all(1)
        if not present.any() or not torch.isfinite(values[present]).all():
            raise ValueError("A calibration run produced values that are not numbers (NaN or infinite). Check the model's precision.")
        filled = torch.stack([_nearest(values[:, r], present) for r in range(runs)], 1)
        mean[name] = filled.mean(1).flip(0)
        sd[name] = (filled.std(1) * inflation if runs > 1 else torch.zeros(len(filled))).clamp_min(LEAST_SD).flip(0)
    profile = Profile(angles.flip(0).float(), mean, sd, runs, 0.0, 1.0, agreement)
    scores = raw_score(profile, angles, observed)
    if torch.isnan(scores).any():
        return profile
    centre, spread = upper_spread(scores)
    return replace(profile, score_centre=centre, score_spread=max(spread * inflation, LEAST_SD))


def upper_spread(scores: Tensor) -> tuple[float, float]:
    """Median of [n], and RMS distance from it of those above it (0 if there are none)."""
    centre = scores.median()
    above = scores[scores > centre] - centre
    return float(centre), float(above.square().mean().sqrt()) if len(above) else 0.0


def _nearest(values: Tensor, present: Tensor) -> Tensor:
    """Steps without a value take that of the nearest step that has one."""
    steps = torch.arange(len(values))
    known = steps[present]
    return values[known[(steps[:, None] - known[None]).abs().argmin(1)]]


def region_along(profile: Profile, name: str, angles: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a signal at angles [s]: linear between the profile's angles, constant beyond them; [s] each."""
    mean, sd, known = profile.mean[name], profile.sd[name], profile.angles
    if len(known) == 1:
        return mean.expand(len(angles)), sd.expand(len(angles))
    angles = angles.to(known).contiguous()
    i = torch.searchsorted(known, angles).clamp(1, len(known) - 1)
    w = ((angles - known[i - 1]) / (known[i] - known[i - 1]).clamp_min(1e-9)).clamp(0, 1)
    return torch.lerp(mean[i - 1], mean[i], w), torch.lerp(sd[i - 1], sd[i], w)


def region_at(profile: Profile, name: str, angle: float) -> tuple[float, float]:
    """The same at one angle."""
    mean, sd = region_along(profile, name, torch.tensor([angle], dtype=profile.angles.dtype))
    return float(mean), float(sd)


def deviation(profile: Profile, name: str, angle: float, value: Tensor) -> Tensor:
    """Signed distance from the profile's mean in standard deviations, [n]."""
    mean, sd = region_at(profile, name, angle)
    return (value - mean) / sd


def deviations(profile: Profile, name: str, angles: Tensor, values: Tensor) -> Tensor:
    """The same for each step: `angles` [s], `values` [s, n] -> [s, n]; 0 where a step has no value."""
    mean, sd = region_along(profile, name, angles)
    return ((values - mean[:, None]) / sd[:, None]).nan_to_num(0.0, 0.0, 0.0)


def paper_score(profile: Profile, angles: Tensor, observed: dict[str, Tensor], first: int | None = None, average: bool = False) -> Tensor:
    """S_mem = max over steps of |z| of the update's norm (Section 4.2), [n]; variants: the first steps, the mean over steps.

    NaN for a run that broke from the start.
    """
    z = deviations(profile, "update", angles, observed["update"]).abs()[:first]
    score = z.mean(0) if average else z.max(0).values
    return score.masked_fill(~torch.isfinite(observed["update"]).any(0), math.nan)


def raw_score(profile: Profile, angles: Tensor, observed: dict[str, Tensor], first: int | None = None) -> Tensor:
    """The default score before it is standardised, [n]: mean z of the revisions in the window + z of the first sharpness.

    NaN where the run had no unconditional prediction (CFG 1), a single step, no step in the window, or broke.
    """
    none = torch.full_like(next(iter(observed.values()))[0], math.nan)
    if any(name not in known for known in (profile.mean, observed) for name in ("revision", "sharpness")):
        return none
    chosen = angles[:first] >= WINDOW
    if not chosen.any():
        return none
    mean, sd = region_along(profile, "revision", angles[:first][chosen])
    revised = ((observed["revision"][:first][chosen] - mean[:, None]) / sd[:, None]).nanmean(0)
    return revised + deviation(profile, "sharpness", float(angles[0]), observed["sharpness"][0])


def default_score(profile: Profile, angles: Tensor, observed: dict[str, Tensor], first: int | None = None) -> Tensor:
    """The default score in upper deviations of clean runs (`Profile.score_spread`), [n]; 0 = their median, large = memorized."""
    return (raw_score(profile, angles, observed, first) - profile.score_centre) / profile.score_spread
