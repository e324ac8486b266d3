"""The paper's correction of a step that leaves the region ("Broken Memories", arXiv 2605.22050, Section 4.3).

What four readings of it leave open is switchable (`Rule`). All latents are in variance-preserving coordinates, see `signals`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .profile import Profile, region_at
from .signals import by_sample, rms


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
    return x * by_sample(scale, x)


def reflected_norm(x: Tensor, mean: float, region: Tensor | None = None) -> Tensor:
    """R1': each sample scaled so that its RMS is mirrored at the mean, never below zero."""
    norm = rms(x, region)
    return x * by_sample((2 * mean - norm).clamp_min(0.0) / norm.clamp_min(1e-12), x)


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
        y = y + math.cos(angle_next) * prediction * by_sample(scale - 1, prediction)
    mean, sd = (v * (angle - angle_next) for v in region_at(profile, "update", angle))
    strong = by_sample(grade == 2, y)
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
    return math.cos(angle) * prediction * by_sample(mean / rms(prediction).clamp_min(1e-12), prediction) + math.sin(angle) * noise


def renormalised_guidance(cond: Tensor, uncond: Tensor, mean: float) -> Tensor:
    """R2: the guidance difference D_c - D_u at the reference's mean RMS (a change of guidance, outside the paper's claim)."""
    difference = cond - uncond
    return difference * by_sample(mean / rms(difference).clamp_min(1e-12), difference)
