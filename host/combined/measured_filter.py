"""Filter a LoRA by measuring: weaken groups of its layers, ask the model each time, keep what takes memory and spares the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import comfy.sd
from torch import Tensor

from ...unmemorize.lora.measured import LEVELS, Changes, Effect, Trial, effect_of, search
from ..core.identity import identity, shown
from ..core.progress import Progress
from ..core.settings import check_range, check_sampling
from ..lora import keys
from ..lora.filter_file import weights_of
from ..lora.groups import group_of
from ..lora.report import TOOL
from ..lora.weakened import weakened
from .change_measuring import AGREES, PLACES, Latents, agreements, changes_of

METHOD = "measured filter (ours)"
GOAL = 0.02
"""Of the memory: less is none."""


@dataclass(frozen=True)
class MeasuredJob:
    """A LoRA's tensors, the MODEL and CLIP it belongs to, captions it may remember; `reference`: the trigger word alone, or nothing."""

    tensors: dict[str, Tensor]
    model: Any
    clip: Any
    captions: list[str]
    reference: str
    latent: dict[str, Any]
    use: dict[str, Any]
    """seed, steps, cfg, sampler_name, scheduler"""
    keep: float
    """Least share of the LoRA's common change."""


@dataclass
class Measured:
    """The filtered LoRA, how it was found, and what it cost."""

    kept: dict[str, Tensor]
    removed: dict[str, Tensor]
    layers: dict[str, int]
    """Group -> its layers."""
    path: list[Trial]
    passed: dict[str, list[str]]
    agreements: list[float]
    """Of every caption's run with the whole LoRA, its mean."""
    after: list[float] = field(default_factory=list)
    """The same with what was kept, at the same latents."""
    evaluations: int = 0

    @property
    def leaks(self) -> bool:
        """Does the LoRA change any of the captions' pictures in a way of their own?"""
        return any(value < AGREES for value in self.agreements)


def filter_by_measuring(job: MeasuredJob) -> Measured:
    """Try groups of layers, from the whole LoRA down. ValueError before any work on settings, captions or files that do not fit."""
    check_sampling(job.use)
    check_range("keep", job.keep, 0, 1)
    if not job.captions:
        raise ValueError(
            "There is no caption. Write some that the LoRA may have been trained with, one a line; LoRA Leak Probe finds them."
        )
    contents = keys.check(keys.take_apart(job.tensors, job.model, job.clip), weights_of(job.model, job.clip))
    layers: dict[str, int] = {}
    for update in contents.updates:
        layers[group_of(update.layer)] = layers.get(group_of(update.layer), 0) + 1
    measuring = _Measuring(job, contents.updates, Progress(len(job.captions) * (job.use["steps"] + _trials(layers) * 2 * len(PLACES))))
    path = [Trial(dict.fromkeys(layers, 1.0), Effect(1.0, 1.0))]
    found_before = measuring.by_caption(measuring.whole)
    if any(measuring.leaking):
        path = search(list(layers), measuring.effect, GOAL, job.keep)
    strengths = path[-1].strengths
    found = Measured(measuring.written(strengths), measuring.written(strengths, removed=True), layers, path, contents.passed, [])
    found.agreements = found_before
    found.after = measuring.by_caption(measuring.changes(strengths))
    found.evaluations = measuring.evaluations
    return found


def _trials(layers: dict[str, int]) -> int:
    """About how many LoRAs are measured: the base, the whole, each group at each level, and some again."""
    return 2 + len(layers) * len(LEVELS)


class _Measuring:
    """What weaker LoRAs change at the latents of the whole one's runs."""

    def __init__(self, job: MeasuredJob, updates: list[keys.Update], progress: Progress) -> None:
        self._job, self._updates = job, updates
        self._known: dict[tuple[float, ...], Changes] = {}
        self._latents = Latents(*self._applied({}), job.captions, job.reference, job.latent, job.use, progress)
        self._before = self._latents.predicted(job.model, job.clip)
        self.whole = self.changes({})
        self.leaking = self._leaking()

    def _leaking(self) -> list[bool]:
        """At which points does the LoRA change the picture of a caption that leaks as a whole?"""
        values = agreements(self.whole, self._before)
        leaks = [value < AGREES for value in self.by_caption(self.whole)]
        each = len(values) // len(leaks)
        return [value < AGREES and leaks[i // each] for i, value in enumerate(values)]

    @property
    def evaluations(self) -> int:
        """Of the model, so far."""
        return self._latents.evaluations

    def written(self, strengths: dict[str, float], removed: bool = False) -> dict[str, Tensor]:
        """The LoRA's tensors with groups weakened, or what was taken from them; a group that is not named is whole."""

        def strength_of(update: keys.Update) -> float:
            strength = strengths.get(group_of(update.layer), 1.0)
            return 1.0 - strength if removed else strength

        found = weakened(self._job.tensors, self._updates, strength_of)
        ours = {key for update in self._updates for key in (*update.keys, *update.shadowed)}
        return {key: tensor for key, tensor in found.items() if key in ours} if removed else found

    def effect(self, strengths: dict[str, float]) -> Effect:
        """Of a weaker LoRA."""
        return effect_of(self.changes(strengths), self.whole, self.leaking)

    def changes(self, strengths: dict[str, float]) -> Changes:
        """What a LoRA with these strengths changes, at every point of every run."""
        name = tuple(strengths.values())
        if name not in self._known:
            self._known = {name: changes_of(self._latents.predicted(*self._applied(strengths)), self._before)}
        return self._known[name]

    def by_caption(self, changes: Changes) -> list[float]:
        """Mean agreement of every caption's run; NaN where the LoRA changed nothing."""
        return self._latents.by_caption(agreements(changes, self._before))

    def _applied(self, strengths: dict[str, float]) -> tuple[Any, Any]:
        return comfy.sd.load_lora_for_models(self._job.model, self._job.clip, self.written(strengths), 1.0, 1.0)


def report(found: Measured, job: MeasuredJob) -> dict[str, Any]:
    """What was done and what it cost; JSON-able."""
    last = found.path[-1]
    return {
        "method": METHOD,
        "verdict": _in_words(found),
        "leak_left": round(last.effect.leak, 4) if found.leaks else None,
        "common_kept": round(last.effect.kept, 4),
        "agreement_before": [_number(value) for value in found.agreements],
        "agreement_after": [_number(value) for value in found.after],
        "groups": {name: {"layers": n, "strength": last.strengths[name]} for name, n in found.layers.items()},
        "path": [
            {"strengths": t.strengths, "leak": round(t.effect.leak, 4), "kept": round(t.effect.kept, 4)} for t in found.path
        ],
        "evaluations": found.evaluations,
        "settings": job.use | {"keep": job.keep, "captions": len(job.captions), "reference": bool(job.reference)},
        "passed_through": found.passed,
    }  # fmt: skip


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _in_words(found: Measured) -> str:
    leaking = sum(value < AGREES for value in found.agreements)
    if all(math.isnan(value) for value in found.agreements):
        return "The LoRA changes nothing in the runs of these captions: there was nothing to judge."
    if not leaking:
        return "None of these captions moves the LoRA in a way of its own: nothing was removed. It may still remember others."
    last = found.path[-1]
    changed = [name for name, strength in last.strengths.items() if strength < 1]
    if not changed:
        return f"{leaking} of {len(found.agreements)} captions leak, but no group of layers can go without what the LoRA is for."
    return (
        f"{leaking} of {len(found.agreements)} captions leaked; of what the LoRA changes for them alone {last.effect.leak:.0%} is left, of "
        f"what it changes for every prompt {last.effect.kept:.0%}. Weakened: {', '.join(changed)}."
    )


def provenance(info: dict[str, Any] | None, job: MeasuredJob, found: Measured) -> dict[str, Any]:
    """Settings, source and base model, for the metadata of a filtered file; no caption."""
    info = info or {}
    return {
        "tool": TOOL, "method": METHOD, "strengths": found.path[-1].strengths, "keep": job.keep,
        "source": {k: info.get(k, "") for k in ("name", "sha256")}, "base": shown(identity(job.model)) | {"patches": ""},
    }  # fmt: skip
