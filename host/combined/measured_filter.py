"""Filter a LoRA by measuring: what it does to prompts in use is learnt anew, and nothing else.

Runs of the model with the LoRA and without it say what is to be learnt (`unmemorize/lora/relearning.py`); no picture is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import comfy.sample
import comfy.sd
import torch
from torch import Tensor

from ...unmemorize.lora.measured import projected
from ...unmemorize.lora.relearning import STEPS, wanted
from ...unmemorize.stability.everyday import EVERYDAY
from ..core.identity import identity, shown
from ..core.progress import Progress
from ..core.prompts import encoded
from ..core.seeds import later_seed
from ..core.settings import check_range, check_sampling
from ..lora import keys
from ..lora.filter_file import weights_of
from ..lora.report import TOOL, earlier
from .change_measuring import PLACES, Changes, Latents, changes_of, usual_limit
from .lessons import EMPTY, ROWS, Lesson, teach
from .new_factors import Factors, factors_of, written

METHOD = "learnt anew (ours)"
PROMPTS = 24
"""Everyday prompts that are drawn where none are given."""
LEAST_RUNS = 24
"""Of prompts: fewer prompts are drawn with several seeds each."""
ASKED = 12
"""Prompts at which it is measured what is kept."""
SEEDS = 2
"""Runs of every caption with the LoRA, and as many without it."""


@dataclass(frozen=True)
class MeasuredJob:
    """A LoRA's tensors, the MODEL and CLIP it belongs to, captions it may remember (or none), prompts that must stay as they are under it
    (none: everyday ones); `reference`: the trigger word alone, or nothing."""

    tensors: dict[str, Tensor]
    model: Any
    clip: Any
    captions: list[str]
    prompts: list[str]
    reference: str
    latent: dict[str, Any]
    use: dict[str, Any]
    """seed, steps, cfg, sampler_name, scheduler"""
    keep: float
    """Least share of what the LoRA changes for the prompts."""
    learning_steps: int = STEPS

    def kept_prompts(self) -> list[str]:
        """Prompts that must stay: those given, or everyday ones, the trigger word before half; behind a trigger word the empty one too."""
        several = self.prompts or [f"{self.reference}, {p}" if self.reference and i % 2 else p for i, p in enumerate(EVERYDAY[:PROMPTS])]
        return [*several, ""] if self.reference else several


@dataclass
class Measured:
    """The filtered LoRA, how it was found, and what it cost."""

    kept: dict[str, Tensor]
    removed: dict[str, Tensor]
    passed: dict[str, list[str]]
    prompts_kept: float
    """Of what the LoRA changes for the prompts, measured with the model at their latents; 1 where nothing was removed."""
    agreements: list[float]
    """Of every caption's runs with the whole LoRA, its mean."""
    limit: float
    """Below it a caption leaks."""
    leak_left: float = 1.0
    """Of what the LoRA does for the captions that leak, alone; drawn again with what was kept; 1 where nothing was removed."""
    learnt: bool = False
    """Did what was learnt keep enough?"""
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
    """Kind of layer -> its layers, and the strength that is left of what the LoRA adds to them."""
    evaluations: int = 0

    @property
    def leaks(self) -> bool:
        """Does the LoRA change any of the captions' pictures in a way of their own?"""
        return any(value < self.limit for value in self.agreements)


def filter_by_measuring(job: MeasuredJob) -> Measured:
    """ValueError before any work on settings or files that do not fit. Captions of which none leaks leave the LoRA as it is; without any
    it is learnt anew."""
    check_sampling(job.use)
    check_range("keep", job.keep, 0, 1)
    check_range("learning_steps", job.learning_steps, 1, math.inf)
    contents = keys.check(keys.take_apart(job.tensors, job.model, job.clip), weights_of(job.model, job.clip))
    if all(update.layer.text_encoder for update in contents.updates):
        raise ValueError("This LoRA changes no layer of the model, so that there is nothing to learn anew. Filter it by its weights.")
    measuring = _Measuring(job, contents)
    found = Measured(job.tensors, {}, dict(contents.passed), 1.0, measuring.agreements, measuring.limit)
    if found.leaks or not job.captions:
        kept, removed, groups, passed = measuring.learnt()
        share = measuring.prompts_kept(kept)
        found.passed |= passed
        if share >= job.keep:
            found.kept, found.removed, found.groups, found.prompts_kept, found.learnt = kept, removed, groups, share, True
            found.leak_left = measuring.leak_left(kept)
    found.evaluations = measuring.evaluations
    return found


@dataclass(frozen=True)
class _Seen:
    """Runs of some prompts, and what L and B predict at all of their steps."""

    prompts: list[str]
    runs: Latents
    after: Changes
    before: Changes

    def agreements(self) -> list[float]:
        """Of every prompt."""
        return self.runs.agreements(changes_of(self.after, self.before), self.before)

    def lessons(self, kind: str, same: list[bool]) -> list[Lesson]:
        """What is to be predicted of each prompt, and of the empty one at the same latents; `same`: does it ask for the same under L?"""
        found = []
        for i, (prompt, points) in enumerate(zip(self.prompts, self.runs.points, strict=True)):
            part = slice(i * len(points), (i + 1) * len(points))
            sides = [torch.cat(side) for pairs in (self.after[part], self.before[part]) for side in zip(*pairs, strict=True)]
            targets = wanted(*sides, torch.full((len(points),), same[i]))
            found += [Lesson(kind, prompt, points, targets), Lesson(EMPTY, EMPTY, points, sides[1])]
        return found


class _Measuring:
    """Runs of the captions and prompts under the whole LoRA and under the base, what both predict there, and what is learnt from it."""

    def __init__(self, job: MeasuredJob, contents: keys.Contents) -> None:
        self._job, self._contents = job, contents
        prompts, steps = job.kept_prompts(), job.use["steps"]
        times = math.ceil(LEAST_RUNS / len(prompts))
        runs = times * len(prompts) + 2 * SEEDS * len(job.captions)
        learnt = job.learning_steps * sum(count * rows for count, rows, _ in ROWS.values())
        again = len(job.captions) * (steps + 8 * len(PLACES)) + 6 * ASKED * len(PLACES)
        self._progress = Progress(5 * runs * steps + learnt + again)
        self._evaluations = 0
        self._base, self._whole = (job.model, job.clip), self._under(job.tensors)
        self._prompts = [self._seen(*self._whole, prompts, k) for k in range(times)]
        self._captions = [self._seen(*way, job.captions, k) for k in range(SEEDS) for way in (self._whole, self._base) if job.captions]
        ordinary = _mean([seen.agreements() for seen in self._prompts])
        self.limit = usual_limit(ordinary)
        self.agreements = _mean([seen.agreements() for seen in self._captions[::2]])
        self._same = {"prompt": [not value < self.limit for value in ordinary], "caption": [not a < self.limit for a in self.agreements]}

    @property
    def evaluations(self) -> int:
        """Of the model, so far; a backward pass counts as two."""
        return self._evaluations

    def _under(self, tensors: dict[str, Tensor]) -> tuple[Any, Any]:
        return comfy.sd.load_lora_for_models(self._job.model, self._job.clip, tensors, 1.0, 1.0)

    def _drawn(self, model: Any, clip: Any, prompts: list[str], seeds: int, places: list[float]) -> Latents:
        """Runs with the seeds behind so many others."""
        use = self._job.use | {"seed": later_seed(self._job.use["seed"], seeds)}
        return Latents(model, clip, prompts, self._job.reference, self._job.latent, use, self._progress, places)

    def _seen(self, model: Any, clip: Any, prompts: list[str], which: int = 0) -> _Seen:
        steps = self._job.use["steps"]
        runs = self._drawn(model, clip, prompts, which * len(prompts), [(k + 0.5) / steps for k in range(steps)])
        seen = _Seen(prompts, runs, runs.predicted(*self._whole), runs.predicted(*self._base))
        self._evaluations += runs.evaluations
        return seen

    def learnt(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, dict[str, float]], dict[str, list[str]]]:
        """What is kept and what is removed, how much is left of each kind of layer, and what stayed as it was."""
        job, (model, _) = self._job, self._whole
        factors, passed = factors_of(self._contents.updates, model, model.load_device)
        if not factors:
            raise ValueError(f"None of this LoRA's layers can be learnt anew: {'; '.join(passed)}. Filter it by its weights.")
        lessons = [lesson for seen in self._prompts for lesson in seen.lessons("prompt", self._same["prompt"])]
        lessons += [lesson for seen in self._captions for lesson in seen.lessons("caption", self._same["caption"])]
        self._teach(factors, lessons)
        return *written(factors, self._contents.updates, job.tensors, weights_of(job.model, job.clip)), passed

    def _teach(self, factors: list[Factors], lessons: list[Lesson]) -> None:
        job, (model, _) = self._job, self._whole
        texts = list(dict.fromkeys([*self._prompts[0].prompts, *job.captions]))
        prompts = dict(zip([*texts, EMPTY], encoded(job.clip, [*texts, job.reference]), strict=True))
        latent = comfy.sample.fix_empty_latent_channels(job.model, torch.zeros_like(job.latent["samples"][:1]))
        self._evaluations += teach(model, factors, prompts, lessons, latent, job.learning_steps, job.use["seed"], self._progress)

    def prompts_kept(self, tensors: dict[str, Tensor]) -> float:
        """Of what the whole LoRA changes for the prompts that ask for the same under it, what a changed one still does: its projection."""
        same = [p for p, same in zip(self._prompts[0].prompts, self._same["prompt"], strict=True) if same]
        if not same:
            return 1.0
        runs = self._prompts[0].runs.some(same[:: max(1, len(same) // ASKED)][:ASKED], PLACES)
        before = runs.predicted(*self._base)
        now, whole = (changes_of(runs.predicted(*way), before) for way in (self._under(tensors), self._whole))
        self._evaluations += runs.evaluations
        return projected([(x, w) for (x, _), (w, _) in zip(now, whole, strict=True)])

    def leak_left(self, tensors: dict[str, Tensor]) -> float:
        """Mean square of what a changed LoRA does for the captions alone, over that of the whole one, each in runs of its own: a part of a
        LoRA draws other pictures, and at the whole one's latents it would still seem to lead to them. Only captions that leak count."""
        leaking = [c for c, same in zip(self._job.captions, self._same["caption"], strict=True) if not same]
        if not leaking:
            return 1.0
        changed, first = self._under(tensors), self._captions[0].runs.some(leaking, PLACES)
        again = self._drawn(*changed, leaking, 0, list(PLACES))
        now, whole = (
            changes_of(runs.predicted(*way), runs.predicted(*self._base)) for runs, way in ((again, changed), (first, self._whole))
        )
        self._evaluations += again.evaluations + first.evaluations
        return _alone(now) / _alone(whole)


def _mean(agreements: list[list[float]]) -> list[float]:
    """Of every prompt over its runs, NaN where none says anything; nothing without runs."""
    return torch.tensor(agreements).nanmean(0).tolist() if agreements else []


def _alone(changes: Changes) -> float:
    """Of what is done for captions and not for every prompt, the sum of squares."""
    return sum(float((c - u).double().square().sum()) for c, u in changes)


def report(found: Measured, job: MeasuredJob) -> dict[str, Any]:
    """What was done and what it cost; JSON-able."""
    return {
        "method": METHOD,
        "verdict": _in_words(found),
        "leak_left": round(found.leak_left, 4) if found.leaks else None,
        "prompts_kept": round(found.prompts_kept, 4),
        "agreement": [_number(value) for value in found.agreements],
        "agreement_limit": round(found.limit, 4),
        "groups": found.groups,
        "evaluations": found.evaluations,
        "settings": job.use
        | {"keep": job.keep, "learning_steps": job.learning_steps, "captions": len(job.captions), "prompts": len(job.kept_prompts()),
           "everyday": not job.prompts},
        "passed_through": found.passed,
    }  # fmt: skip


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _in_words(found: Measured) -> str:
    several, leaking = len(found.agreements), sum(value < found.limit for value in found.agreements)
    if several and all(math.isnan(value) for value in found.agreements):
        return "The LoRA changes nothing in the runs of these captions: there was nothing to judge."
    if several and not leaking:
        return "None of these captions moves the LoRA in a way of its own: nothing was removed. It may still remember others."
    if not found.learnt:
        return "Nothing was removed: what was learnt anew keeps less of what the LoRA is for than `keep` asks. Give it more learning steps."
    kept = f"Of what it changes for the prompts {found.prompts_kept:.0%} is left"
    only = "Whether no copy comes any more only pictures show: draw them, or use LoRA Leak Probe."
    if not several:
        return f"Learnt anew from the prompts alone. {kept}. {only}"
    return f"{leaking} of {several} captions leak. Of what the LoRA does for them alone {found.leak_left:.0%} is left. {kept}. {only}"


def provenance(info: dict[str, Any] | None, job: MeasuredJob, found: Measured) -> dict[str, Any]:
    """Settings, source and base model, for the metadata of a filtered file; no caption."""
    info = info or {}
    return {
        "tool": TOOL, "method": METHOD, "keep": job.keep, "learning_steps": job.learning_steps,
        "source": {k: info.get(k, "") for k in ("name", "sha256")}, "base": shown(identity(job.model)) | {"patches": ""},
        **earlier(info),
    }  # fmt: skip
