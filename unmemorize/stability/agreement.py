"""Does a LoRA move the prompt's prediction and the empty prompt's in the same direction? (our own measurement, no paper's)

With B the model without the LoRA and L with it, at a step of L's own run: a style moves both predictions alike, a memory moves only that of
the prompt it hangs on. A trigger word moves only its prompts' too: its own prediction then takes the place of the empty prompt's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .signals import by_sample

LEAST_CHANGE = 1e-4
"""Of a prediction's norm: a smaller change is rounding, and has no direction."""
LEAST_SPREAD = 0.02
"""A LoRA whose every prompt agrees alike still has room for chance."""


@dataclass(frozen=True)
class AgreementRegion:
    """What runs of ordinary prompts under a LoRA keep to: `centre` of their mean agreement, and its `spread` downward."""

    centre: float
    spread: float


UNCALIBRATED = AgreementRegion(0.75, 1 / 12)
"""Three deviations below it lies .5, halfway between a LoRA that changes both predictions alike and one that changes the prompt's alone."""


def agreement(change_cond: Tensor, change_uncond: Tensor, prediction: Tensor, region: Tensor | None = None) -> Tensor:
    """cos(D_c^L - D_c^B, D_u^L - D_u^B) of each sample of [n, c, ...], where `region` (broadcastable, 1 = counts) says; [n].

    NaN where one of the changes is nothing beside the `prediction`: the LoRA does nothing there.
    """
    a, b, d = (_counted(x, region) for x in (change_cond, change_uncond, prediction))
    norms, least = torch.stack([a.norm(dim=1), b.norm(dim=1)]), LEAST_CHANGE * d.norm(dim=1)
    cosine = (a * b).sum(1) / norms.prod(0).clamp_min(1e-30)
    return cosine.masked_fill((norms <= least).any(0), math.nan)


def _counted(x: Tensor, region: Tensor | None) -> Tensor:
    """[n, c, ...] -> [n, values]."""
    return (x.float() if region is None else x.float() * region.to(x.device)).flatten(1)


def run_agreement(by_step: Tensor) -> Tensor:
    """Mean agreement of runs over their steps, [steps, n] -> [n]; NaN where the LoRA did nothing at any step."""
    return by_step.nanmean(0)


def agreement_score(by_step: Tensor, region: AgreementRegion) -> Tensor:
    """How far below ordinary runs the agreement lies, in their deviations, [steps, n] -> [n]; 0 = their median, large = a memory."""
    return (region.centre - run_agreement(by_step)) / region.spread


def region_of_runs(by_step: Tensor, inflation: float = 1.0) -> AgreementRegion:
    """Of ordinary runs, [steps, runs]: the median of their agreement, and the RMS distance from it of those below times `inflation`.

    ValueError if the LoRA did nothing in any of them.
    """
    means = run_agreement(by_step)
    means = means[means.isfinite()]
    if not len(means):
        raise ValueError("The LoRA changed nothing in any of these runs. Check its strength, and that it fits the model.")
    centre = means.median()
    below = centre - means[means < centre]
    spread = float(below.square().mean().sqrt()) * inflation if len(below) else 0.0
    return AgreementRegion(float(centre), max(spread, LEAST_SPREAD))


def with_common_change(base_guided: Tensor, base_uncond: Tensor, lora_uncond: Tensor) -> Tensor:
    """What the base makes of the prompt, and on top of it what the LoRA changes for every prompt: guided D^B + (D_u^L - D_u^B)."""
    return base_guided + (lora_uncond - base_uncond).to(base_guided)


def gated(agreement_now: Tensor, limit: float, lora: Tensor, without_leak: Tensor) -> Tensor:
    """The LoRA's own prediction where its changes agree at this step, [n, c, ...], else the one without the leak."""
    return torch.where(by_sample(agreement_now, lora) < limit, without_leak, lora)
