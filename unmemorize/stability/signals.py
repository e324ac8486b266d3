"""Stability regions: notice memorization from the steps of a run, and correct it ("Broken Memories", arXiv 2605.22050).

Steps are numbered from the noisy end. In variance-preserving coordinates `z = (a x0 + b eps) / sqrt(a^2 + b^2)`, so that
`z = cos(angle) x0 + sin(angle) eps` with `angle = atan(b / a)` for every kind of model: VE, VP and flow models give the same numbers.
All norms are RMS (L2 / sqrt of the number of values), by sample: profiles then serve several resolutions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_SD = 1e-5
FEW_RUNS = 20
SIGNALS = ("latent", "update", "prediction", "guidance", "revision", "sharpness")
"""What is observed at a step, [n] each:

latent      ||y||, the proposed latent after the step (paper)
update      ||y - z|| over the angle the step covers (paper; divided, so that one profile serves other step counts)
prediction  ||x0_hat||, the guided D (paper)
guidance    ||D_c - D_u|| (for R2, and for comparison)
revision    log ||D_u(t) - D_u(t-1)|| - log ||D_c(t) - D_c(t-1)||: how much less the conditional prediction is still revised
            than the unconditional one. A memory is known from the start.
sharpness   log RMS gradient of D_c: at the first steps an honest prediction is a blur, a memory is not.
"""
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


@dataclass(frozen=True)
class Rule:
    """The paper's correction, each part switchable (constants reported as the paper's, at 50 steps)."""

    tau_mild: float = 3.0
    tau_strong: float = 14.0
    gamma: float = 3.0
    mild_until: float = 0.2
    """Share of the steps in which mild cases are edited (k = 10 of 50)."""
    rescale: bool = True
    """1. x0_hat is scaled to its mean norm, the noise part held."""
    clamp_update: bool = True
    """2. Strong cases: the update's norm is clamped into its region."""
    reflect: bool = False
    """R1': instead of clamping, the update's norm is mirrored at its mean."""
    clamp_latent: bool = True
    """3. The latent's norm is clamped into its region."""
    renormalise_guidance: bool = False
    """R2: while active, the guidance difference gets its mean norm (a change of guidance, outside the paper's claim)."""
    renoise: bool = False
    """R3: at the first active step the mean-norm x0_hat with fresh noise takes the place of y, once; nothing else is edited."""


def rms(x: Tensor, region: Tensor | None = None) -> Tensor:
    """RMS of each sample of [n, c, ...], where `region` (broadcastable, 1 = counts) says; [n], float32."""
    return rms_of_each(x[None], region)[0]


def rms_of_each(several: Tensor, region: Tensor | None = None) -> Tensor:
    """The same for several tensors at once, [k, n, c, ...] -> [k, n]."""
    if region is None:
        return several.float().square().flatten(2).mean(2).sqrt()
    return torch.stack([_mean_square(x, region) for x in several]).sqrt()


def _mean_square(x: Tensor, region: Tensor | None) -> Tensor:
    """[n, c, ...] -> [n]."""
    squares = x.float().square()
    if region is None:
        return squares.flatten(1).mean(1)
    weight = region.to(squares).expand_as(squares)
    return (squares * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1)


def sharpness(x: Tensor, region: Tensor | None = None) -> Tensor:
    """log RMS difference of neighbours of [n, c, ..., h, w], along both sides of the picture; [n]."""
    across, down = (_mean_square(torch.diff(x.float(), dim=dim), _both_inside(x, region, dim)) for dim in (-1, -2))
    return 0.5 * (0.5 * (across + down)).clamp_min(1e-20).log()


def _both_inside(x: Tensor, region: Tensor | None, dim: int) -> Tensor | None:
    """1 where two neighbours both lie in the region."""
    if region is None:
        return None
    inside = region.expand_as(x)
    count = x.shape[dim] - 1
    return inside.narrow(dim, 0, count) * inside.narrow(dim, 1, count)


def revision(change_uncond: Tensor, change_cond: Tensor) -> Tensor:
    """log ratio of the RMS changes of the unconditional and the conditional prediction over a step; [n]."""
    return (change_uncond.clamp_min(1e-10) / change_cond.clamp_min(1e-10)).log()


def make_profile(angles: Tensor, observed: dict[str, Tensor]) -> Profile:
    """A profile of R runs: `angles` [s] of their steps, descending, `observed` signal -> [s, R]; NaN where a signal has no value.

    Few runs (R < 20) give deviations that are too small by chance: they are inflated by 1 + 2/R. ValueError if a run is broken.
    """
    runs = next(iter(observed.values())).shape[1]
    inflation = 1 + 2 / runs if runs < FEW_RUNS else 1.0
    mean, sd = {}, {}
    for name, values in observed.items():
        present = ~torch.isnan(values).all(1)
        if not present.any() or not torch.isfinite(values[present]).all():
            raise ValueError("A calibration run produced values that are not numbers (NaN or infinite). Check the model's precision.")
        filled = torch.stack([_nearest(values[:, r], present) for r in range(runs)], 1)
        mean[name] = filled.mean(1).flip(0)
        sd[name] = (filled.std(1) * inflation if runs > 1 else torch.zeros(len(filled))).clamp_min(LEAST_SD).flip(0)
    profile = Profile(angles.flip(0).float(), mean, sd, runs, 0.0, 1.0)
    scores = raw_score(profile, angles, observed)
    if torch.isnan(scores).any():
        return profile
    centre, spread = upper_spread(scores)
    return Profile(profile.angles, mean, sd, runs, centre, max(spread * inflation, LEAST_SD))


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


def severity(z_update: Tensor, z_prediction: Tensor, rule: Rule) -> Tensor:
    """0 = inside, 1 = mild, 2 = strong, at one step; [n]. Both norms must have left their regions (Section 4.3)."""
    outside = (z_update.abs() > rule.tau_mild) & (z_prediction.abs() > rule.tau_mild)
    return outside.long() * (1 + (z_prediction.abs() > rule.tau_strong).long())


def active(grade: Tensor, z_update: Tensor, step: int, steps: int, rule: Rule) -> Tensor:
    """Which samples are edited after `step` of `steps`; `grade` is the severity of their first departure, which sticks; [n]."""
    early = step < round(rule.mild_until * steps)
    return (z_update.abs() > rule.tau_mild) & ((grade == 2) | ((grade == 1) & torch.tensor(early)))


def clamp_norm(x: Tensor, low: float, high: float, region: Tensor | None = None) -> Tensor:
    """Each sample of [n, c, ...] scaled so that its RMS lies in [max(low, 0), high]; the identity inside, to the bit."""
    norm = rms(x, region)
    wanted = norm.clamp(max(low, 0.0), high)
    scale = torch.where(wanted == norm, 1.0, wanted / norm.clamp_min(1e-12))
    return x * _by_sample(scale, x)


def reflected_norm(x: Tensor, mean: float, region: Tensor | None = None) -> Tensor:
    """R1': each sample scaled so that its RMS is mirrored at the mean, never below zero."""
    norm = rms(x, region)
    return x * _by_sample((2 * mean - norm).clamp_min(0.0) / norm.clamp_min(1e-12), x)


def corrected(
    z: Tensor,
    y: Tensor,
    prediction: Tensor,
    angle: float,
    angle_next: float,
    grade: Tensor,
    profile: Profile,
    rule: Rule,
    region: Tensor | None = None,
) -> Tensor:
    """The proposed latent y [n, c, ...] after an active step from z, edited by the rule (Section 4.3); all in VP coordinates.

    `region` (1 = generated) is where norms are taken, as while calibrating an inpainting run.
    """
    mean, _ = region_at(profile, "prediction", angle)
    if rule.rescale:
        scale = mean / rms(prediction, region).clamp_min(1e-12)
        y = y + math.cos(angle_next) * prediction * _by_sample(scale - 1, prediction)
    mean, sd = (v * (angle - angle_next) for v in region_at(profile, "update", angle))
    strong = _by_sample(grade == 2, y)
    if rule.reflect:
        y = torch.where(strong, z + reflected_norm(y - z, mean, region), y)
    elif rule.clamp_update:
        y = torch.where(strong, z + clamp_norm(y - z, mean - rule.gamma * sd, mean + rule.gamma * sd, region), y)
    if rule.clamp_latent:
        mean, sd = region_at(profile, "latent", angle)
        y = clamp_norm(y, mean - rule.gamma * sd, mean + rule.gamma * sd, region)
    return y


def renoised(prediction: Tensor, noise: Tensor, angle: float, profile: Profile) -> Tensor:
    """R3: the mean-norm x0_hat with fresh unit noise at an angle, VP coordinates."""
    mean, _ = region_at(profile, "prediction", angle)
    return math.cos(angle) * prediction * _by_sample(mean / rms(prediction).clamp_min(1e-12), prediction) + math.sin(angle) * noise


def renormalised_guidance(cond: Tensor, uncond: Tensor, mean: float) -> Tensor:
    """R2: the guidance difference D_c - D_u at the reference's mean RMS (a change of guidance, outside the paper's claim)."""
    difference = cond - uncond
    return difference * _by_sample(mean / rms(difference).clamp_min(1e-12), difference)


def _by_sample(values: Tensor, like: Tensor) -> Tensor:
    """[n] shaped to broadcast over [n, c, ...]."""
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like.device)
