"""Does a prompt still ask for the same under a LoRA? (our own measurement, no paper's)

With B the model without the LoRA and L with it, at the first steps of L's own run: what the prompt adds to no prompt, D_c - D_u, has a
direction. A style moves both predictions alike and leaves it as it was; a memory answers the prompt with a stored picture, whose direction
is unrelated to what the words mean. A trigger word means nothing to B: the prediction of the word alone then takes the empty prompt's
place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

GRID = 4
"""Parts of each side of a picture whose mean says nothing: a LoRA's tones live there, and a scene's in every prompt's direction."""
LEAST_CHANGE = 1e-4
"""Of a prediction's norm: a smaller change is rounding, and has no direction."""
EARLY = 1.39
"""Agreement is asked at angles above this (radians; sigma 5.6): later the layout stands, and all predictions go towards it."""
LEAST_SPREAD = 0.02
"""A LoRA under which every prompt agrees alike still has room for chance."""
UNRELATED = 0.06
"""Deviation of the mean agreement of runs that were copies, about 0 (selection set of LoRAs)."""
LEAST_LIMIT = 0.13
"""Agreement below which a run is a memory's under any LoRA: copies scatter about 0 whatever ordinary runs do, and ordinary prompts that
come so low are mostly drawn towards a memory themselves (selection set)."""

KEPT = 0.21
"""Agreement from which on a step asks for the same, however far ordinary prompts of a LoRA agree: half of what they do under the selection
set's. None of its flagged copies is acquitted so, and 45 of its 48 honest runs hardly change on trial, 44 without it (`nox -s sweep --
lora_trial`)."""


@dataclass(frozen=True)
class AgreementRegion:
    """What runs of ordinary prompts under a LoRA keep to: `centre` of their mean agreement, and its `spread` downward."""

    centre: float
    spread: float

    @property
    def limit(self) -> float:
        """Lower agreement is a memory's: as many deviations from ordinary runs as from unrelated directions, at least LEAST_LIMIT."""
        return max(self.centre * UNRELATED / (UNRELATED + self.spread), LEAST_LIMIT)

    @property
    def keeps(self) -> float:
        """Agreement of a step from which a flagged run keeps the LoRA's change for its prompt: half way from unrelated directions to
        ordinary runs, at most KEPT, and no less than what is a memory's under any LoRA."""
        return max(min(self.centre / 2, KEPT), LEAST_LIMIT)

    @property
    def tells(self) -> bool:
        """Do ordinary runs agree so much that a memory can be told from them?"""
        return self.centre >= 2 * LEAST_LIMIT


UNCALIBRATED = AgreementRegion(0.42, 0.13)
"""Of held-out scenes and cards under the LoRAs of the selection set: limit .13."""


def agreement(cond: Tensor, uncond: Tensor, cond_before: Tensor, uncond_before: Tensor, region: Tensor | None = None) -> Tensor:
    """cos(D_c^L - D_u^L, D_c^B - D_u^B) of each sample of [n, c, ...], without the means of a grid of GRID x GRID parts, where `region`
    (broadcastable, 1 = counts) says; [n].

    NaN where it says nothing: the LoRA changes nothing of the prompt's prediction, or the prompt adds nothing.
    """
    size = LEAST_CHANGE * _counted(cond, region).norm(dim=1)
    ours, before = (_counted(structure(c - u), region) for c, u in ((cond, uncond), (cond_before, uncond_before)))
    norms = torch.stack([ours.norm(dim=1), before.norm(dim=1)])
    unchanged = _counted(cond - cond_before, region).norm(dim=1) <= size
    cosine = (ours * before).sum(1) / norms.prod(0).clamp_min(1e-30)
    return cosine.masked_fill(unchanged | (norms <= size).any(0), math.nan)


def structure(x: Tensor) -> Tensor:
    """[n, c, ..., h, w] without the mean of each part of a grid; float32."""
    height, width = x.shape[-2:]
    flat = x.float().reshape(-1, 1, height, width)
    parts = F.adaptive_avg_pool2d(flat, (min(GRID, max(1, height // 2)), min(GRID, max(1, width // 2))))
    return (flat - F.interpolate(parts, size=(height, width))).view(x.shape)


def _counted(x: Tensor, region: Tensor | None) -> Tensor:
    """[n, c, ...] -> [n, values]."""
    return (x.float() if region is None else x.float() * region.to(x.device)).flatten(1)


def run_agreement(by_step: Tensor) -> Tensor:
    """Mean agreement of runs over their steps, [steps, n] -> [n]; NaN where it says nothing at any step."""
    return by_step.nanmean(0)


def agreement_score(by_step: Tensor, region: AgreementRegion, at_limit: float) -> Tensor:
    """How near a memory a run is, [steps, n] -> [n]: 0 = the median of ordinary runs, `at_limit` = the region's limit, more = a memory."""
    return at_limit * (region.centre - run_agreement(by_step)) / max(region.centre - region.limit, LEAST_SPREAD)


def region_of_runs(by_step: Tensor, inflation: float = 1.0) -> AgreementRegion:
    """Of ordinary runs, [steps, runs]: the median of their agreement, and the RMS distance from it of those below times `inflation`.

    ValueError if it says nothing in any of them.
    """
    means = run_agreement(by_step)
    means = means[means.isfinite()]
    if not len(means):
        raise ValueError("The LoRA changed nothing in any of these runs. Check its strength, and that it fits the model.")
    centre = means.median()
    below = centre - means[means < centre]
    spread = float(below.square().mean().sqrt()) * inflation if len(below) else 0.0
    return AgreementRegion(float(centre), max(spread, LEAST_SPREAD))


def kept_changes(agrees: Tensor, keeps: float, of_prompt: Tensor, of_prompts: Tensor) -> Tensor:
    """What the LoRA may change of the prompt's prediction, [n, c, ...]: its change for this prompt where the prompt still asks for the same
    (`agrees` [n] at least `keeps`, or says nothing), elsewhere what it changes for every prompt."""
    ordinary = ~(agrees < keeps)
    return torch.where(ordinary.view(-1, *[1] * (of_prompt.ndim - 1)), of_prompt, of_prompts)


def with_change(guided: Tensor, of_prompt: Tensor, of_negative: Tensor, scale: float) -> Tensor:
    """What the base makes of the prompt at guidance `scale`, with a LoRA's changes of both predictions that it is guided by.

    (D_u + of_negative) + scale (D_c + of_prompt - D_u - of_negative), all [n, c, ...]; with D_c^L - D_c^B and D_u^L - D_u^B what the
    LoRA makes of it, with D_r^L - D_r^B of a reference in place of the former what is left without its leak.
    """
    return guided + (of_negative + scale * (of_prompt - of_negative)).to(guided)
