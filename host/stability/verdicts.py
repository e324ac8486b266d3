"""Is a run the recall of a memory? The detectors, given what was observed and a profile; no verdict where it would rest on too little."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...unmemorize.stability.agreement import AgreementRegion, agreement_score
from ...unmemorize.stability.profile import WINDOW, Profile, default_score, deviations, paper_score, region_along
from ...unmemorize.stability.redrawn import UNMOVED
from ...unmemorize.stability.rule import Rule, severity
from .watching import Watch

LIMIT = 3.0
"""A default score from here, in standard deviations of clean runs, is called memorized."""
MOST_STEPS_RATIO = 2
"""Profiles of half and of twice as many steps were measured to serve (`nox -s benchmark -- stability`), and of no other count."""
LEAST_SHARE = 1 / 3
"""Of a picture that must be generated. Of clean pictures of which a sixteenth, a seventh, a quarter was, 3, 3 and 1 in 12 were called
memorized (demo model); of two fifths none: what is kept makes the rest sure from the start."""
SMALL = (
    "Less than a third of this picture is generated: what is kept makes the rest sure from the start, as a memory is. The stability "
    "profile was measured on whole pictures."
)
EMPTY = "Hardly anything of this picture counts: nowhere is it both generated (noise mask) and under a prompt (areas, masks)."
NOTHING_CHANGED = (
    "The LoRA changes nothing of this prompt's predictions, or the prompt asks for nothing that the negative prompt does not: there is "
    "nothing to judge by. Check the LoRA's strength, and that it fits the model."
)
HARDLY = (
    "Under this LoRA even ordinary prompts hardly ask for what they asked for before (agreement {0.centre:.2f} +- {0.spread:.2f} while "
    "calibrating), so that a memory cannot be told from them. For a trigger word connect a prompt of that word alone as reference; or "
    "lower the LoRA's strength."
)
BROKEN = "This run produced values that are not numbers: check the model's precision."


@dataclass(frozen=True)
class Verdict:
    """What was found in a run, by sample."""

    score: Tensor
    """[n], in standard deviations of clean runs; NaN for a run that broke."""
    flagged: Tensor
    """[n], boolean."""
    detector: str
    observed: dict[str, Tensor]
    """What it rests on: signal -> [steps, n], NaN where there is nothing."""
    not_judged: list[str] = field(default_factory=list)
    """Why a sample has no verdict, in words, by sample; "" for those that have one."""
    by_lora: Tensor | None = None
    """[n], boolean: flagged by a LoRA's changes; None: they were not compared."""


Detector = Callable[[Watch, Profile, float, Rule], Verdict]


def judged(detect: Detector, watch: Watch, profile: Profile, limit: float, rule: Rule) -> Verdict:
    """A detector's verdict, or why there is none: of a run that was seen in part, of another kind, or that broke."""
    reason = why_not(watch, profile)
    if reason:
        return _none(watch, reason)
    found = detect(watch, profile, limit, rule)
    reasons = [why or ("" if share >= LEAST_SHARE else SMALL) for why, share in zip(_sound(watch, found.score), watch.share(), strict=True)]
    sound = torch.tensor([not why for why in reasons])
    return Verdict(found.score.masked_fill(~sound, math.nan), found.flagged & sound, found.detector, found.observed, reasons)


def _none(watch: Watch, reason: str) -> Verdict:
    nothing = torch.full((watch.samples,), math.nan)
    return Verdict(nothing, nothing > 0, "none", watch.observed(), [BROKEN if broken else reason for broken in watch.broken()])


def _sound(watch: Watch, score: Tensor, no_number: str = BROKEN) -> list[str]:
    """By sample: why its score counts for nothing, in words, or ""; `no_number`: what a score that is none means."""
    facts = zip(watch.empty(), watch.broken(), score.isfinite().tolist(), strict=True)
    return [EMPTY if empty else BROKEN if broken else "" if finite else no_number for empty, broken, finite in facts]


def judged_by_agreement(
    watch: Watch, region: AgreementRegion, limit: float, trouble: str = "", acquitted: Mapping[int, float] | None = None
) -> Verdict:
    """Does a LoRA give back a picture here? By what the prompt asks for alone; `trouble`: why that could not be compared, in words;
    `acquitted`: samples that were tried and are no memory, and how alike they stayed, which is their score."""
    observed = watch.observed()
    reason = _seen_in_part(watch) or trouble or ("" if region.tells else HARDLY.format(region))
    if reason or "agreement" not in observed:
        return _none(watch, reason or "The LoRA's changes were not compared in this run.")
    score = agreement_score(observed["agreement"], region, LIMIT)
    for i, alike in (acquitted or {}).items():
        score[i] = min(limit, LIMIT * (1 - alike) / (1 - UNMOVED))
    reasons = _sound(watch, score, NOTHING_CHANGED)
    sound = torch.tensor([not why for why in reasons])
    flagged = (score > limit) & sound
    return Verdict(score.masked_fill(~sound, math.nan), flagged, "agreement", observed, reasons, flagged)


def both(model: Verdict, lora: Verdict) -> Verdict:
    """Of the model's own memories and of the LoRA's: memorized if either says so, nothing found only if both do."""
    flagged = model.flagged | lora.flagged
    reasons = ["" if hit else a or b for hit, a, b in zip(flagged.tolist(), model.not_judged, lora.not_judged, strict=True)]
    judged_ones = torch.tensor([not why for why in reasons])
    score = torch.fmax(model.score, lora.score).masked_fill(~judged_ones, math.nan)
    detector = " + ".join(name for name in (model.detector, lora.detector) if name != "none") or "none"
    return Verdict(score, flagged, detector, lora.observed, reasons, lora.flagged)


def why_not(watch: Watch, profile: Profile) -> str:
    """Why no verdict can rest on what was seen of a run, in words; "" if one can. Memories show in the steps above WINDOW."""
    reason = _seen_in_part(watch) or watch.other_guidance or watch.other_beginning
    if reason or "revision" not in profile.mean:
        return reason or _other_steps(watch, profile)
    early = _early(watch)
    if "guidance" not in watch.observed():
        return "The run has no guidance (CFG 1), but the runs of the stability profile had. Calibrate a profile at CFG 1."
    if len(early) == 1:
        return (
            f"Only the first step, at noise level {watch.sigmas[0]:.3g}, lies where memories show, and there is none to compare it with. "
            "Guard the run from its start, or take more steps."
        )
    compared = len(watch.compared.intersection(early))
    if compared == 0 or 2 * compared < len(early) - 1:
        return (
            f"Of the {len(early)} steps in which memories show, only {compared} could be compared with the step before: the others ran "
            "without guidance, or the sampler passed them by."
        )
    return _other_steps(watch, profile)


def _early(watch: Watch) -> list[int]:
    """Steps in which memories show."""
    return early_steps(watch.angles[:-1])


def early_steps(angles: list[float]) -> list[int]:
    """Which of the steps that begin at these angles are such in which memories show."""
    return [k for k, angle in enumerate(angles) if angle >= WINDOW]


def serves_steps(here: int, there: int) -> bool:
    """Do runs with `there` steps where memories show tell what a run with `here` of them should look like? Twice a number of steps has one
    more or less there."""
    return there <= here * MOST_STEPS_RATIO + 1 and here <= there * MOST_STEPS_RATIO + 1


def _other_steps(watch: Watch, profile: Profile) -> str:
    """Why a profile says nothing of a run with so many steps, in words, or "": from step to step predictions change with their length."""
    here, there = len(_early(watch)), len(early_steps(profile.angles.tolist()))
    if serves_steps(here, there):
        return ""
    return (
        f"The run takes {here} steps where memories show, the runs of the stability profile took {there}; it serves half to twice as many. "
        "Change the steps, or let Stability Profile for This Model measure one for them."
    )


def _seen_in_part(watch: Watch) -> str:
    """Why too little of a run was seen for any verdict, in words, or ""."""
    if watch.obstacle:
        return watch.obstacle
    if "update" not in watch.observed():
        return (
            "This sampler did not evaluate the model at the steps of its schedule, so that nothing was seen. Use another sampler "
            "(euler, dpmpp_2m ...)."
        )
    if not _early(watch):
        return f"The run begins at noise level {watch.sigmas[0]:.3g}, after the steps in which memories show. Guard the run from its start."
    if 0 not in watch.seen:
        return "The first step was not seen: one of the prompts is not active there (a range of steps), or the sampler passed it by."
    if watch.angles[-1] >= WINDOW:
        return (
            f"The run stops at noise level {watch.sigmas[-1]:.3g}, before all the steps in which memories show. It is judged when a "
            "sampler goes on with its latent and the same guarded MODEL."
        )
    return ""


def default_verdict(watch: Watch, profile: Profile, limit: float, rule: Rule) -> Verdict:
    """By the default score; with a profile of runs without guidance, by the paper's region."""
    if "revision" not in profile.mean:
        return paper_verdict(watch, profile, limit, rule)
    observed = watch.observed()
    score = default_score(profile, torch.tensor(watch.angles[:-1]), observed)
    return Verdict(score, score > limit, "default", observed)


def paper_verdict(watch: Watch, profile: Profile, limit: float, rule: Rule) -> Verdict:
    """Has a sample left the paper's region at any step? (Section 4.3; the score is that of Section 4.2)"""
    observed, angles = watch.observed(), torch.tensor(watch.angles[:-1])
    z = [deviations(profile, name, angles, observed[name]) for name in ("update", "prediction")]
    return Verdict(paper_score(profile, angles, observed), (severity(*z, rule) > 0).any(0), "paper", observed)


def regions_of(
    watch: Watch, profile: Profile | None, names: dict[str, Any], agreement: AgreementRegion | None = None
) -> dict[str, list[list[float]]]:
    """Mean and standard deviation of clean runs by step, [steps][2], of those signals that the profile knows.

    `agreement`: what a LoRA is judged by, with its limit at the edge of what is drawn as ordinary.
    """
    angles = torch.tensor(watch.angles[:-1])
    known = {} if profile is None else profile.mean
    found = {name: torch.stack(region_along(profile, name, angles), 1).tolist() for name in names if profile is not None and name in known}
    if agreement is not None and "agreement" in names:
        found["agreement"] = [[agreement.centre, (agreement.centre - agreement.limit) / LIMIT]] * watch.steps
    return found
