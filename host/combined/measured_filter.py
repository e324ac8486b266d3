"""Filter a LoRA by measuring: what it does to prompts in use is learnt anew, and nothing else.

Runs of the model with the LoRA and without it say what is to be learnt (`unmemorize/lora/relearning.py`); no picture is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import comfy.sd
import torch
from torch import Tensor

from ...unmemorize.lora.measured import explained
from ...unmemorize.lora.relearning import STEPS, wanted
from ...unmemorize.stability.everyday import EVERYDAY
from ..core.progress import Progress
from ..core.prompts import encoded
from ..core.sampling import empty_of
from ..core.seeds import later_seed
from ..core.settings import check_range, check_sampling
from ..lora import keys
from ..lora.filter_file import weights_of
from .change_measuring import PLACES, Changes, Latents, changes_of, usual_limit
from .lessons import CAPTION, EMPTY, PROMPT, Lesson, rows_of, teach
from .new_factors import OF_TEXT, Factors, factors_of, module_of, written

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
    """Of what the LoRA changes for the prompts, in runs that were not learnt from; 1 where nothing was removed."""
    agreements: list[float]
    """Of every caption's runs with the whole LoRA, its mean."""
    limit: float
    """Below it a caption leaks."""
    leak_left: float = 1.0
    """Of what the LoRA does for the captions that leak, alone; drawn again with what was kept; 1 where nothing was removed."""
    learnt: bool = False
    """Did what was learnt keep enough?"""
    reached: float | None = None
    """What it kept, also where that is too little; None: nothing was learnt."""
    odd_prompts: int = 0
    """Of the prompts, those that ask for something else under the LoRA: they are taught as captions that leak are."""
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
    """Kind of layer -> its layers, and the strength that is left of what the LoRA adds to them."""
    evaluations: int = 0

    @property
    def leaks(self) -> bool:
        """Does the LoRA change any of the captions' pictures in a way of their own?"""
        return any(value < self.limit for value in self.agreements)


def check_settings(job: MeasuredJob) -> None:
    """ValueError on settings out of range."""
    check_sampling(job.use)
    check_range("keep", job.keep, 0, 1)
    check_range("learning_steps", job.learning_steps, 1, math.inf)


def filter_by_measuring(job: MeasuredJob) -> Measured:
    """ValueError before any work on settings or files that do not fit. Captions of which none leaks leave the LoRA as it is; without any
    it is learnt anew."""
    check_settings(job)
    contents = keys.check(keys.take_apart(job.tensors, job.model, job.clip), weights_of(job.model, job.clip))
    if not learns(contents, job.model):
        raise ValueError("None of this LoRA's layers can be learnt anew. Filter it by its weights: BAF Filter LoRA.")
    measuring = _Measuring(job, contents)
    found = Measured(job.tensors, {}, dict(contents.passed), 1.0, measuring.agreements, measuring.limit, odd_prompts=measuring.odd_prompts)
    if (found.leaks or not job.captions) and measuring.ordinary:
        kept, removed, groups, passed = measuring.learnt()
        found.reached = measuring.prompts_kept(kept)
        if found.reached >= job.keep:
            found.kept, found.removed, found.groups, found.prompts_kept, found.learnt = kept, removed, groups, found.reached, True
            for reason, several in passed.items():
                found.passed[reason] = [*found.passed.get(reason, []), *several]
            found.leak_left = measuring.leak_left(kept)
    found.evaluations = measuring.evaluations
    return found


def learns(contents: keys.Contents, model: Any) -> bool:
    """Is there a layer that can be learnt anew?"""
    return any(module_of(update.layer, model)[0] is not None for update in contents.updates)


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

    def lessons(self, kind: str, names: dict[str, str], same: list[bool]) -> list[Lesson]:
        """What is to be predicted of each prompt, and of the empty one at the same latents; `same`: does it ask for the same under L?"""
        found = []
        for i, (prompt, points) in enumerate(zip(self.prompts, self.runs.points, strict=True)):
            part = slice(i * len(points), (i + 1) * len(points))
            sides = [torch.cat(side) for pairs in (self.after[part], self.before[part]) for side in zip(*pairs, strict=True)]
            targets = wanted(*sides, torch.full((len(points),), same[i]))
            found += [Lesson(kind, names[prompt], points, targets), Lesson(EMPTY, EMPTY, points, sides[1])]
        return found


class _Measuring:
    """Runs of the captions and prompts under the whole LoRA and under the base, what both predict there, and what is learnt from it."""

    def __init__(self, job: MeasuredJob, contents: keys.Contents) -> None:
        self._job, self._contents = job, contents
        prompts, steps = job.kept_prompts(), job.use["steps"]
        times = math.ceil(LEAST_RUNS / len(prompts))
        runs = times * len(prompts) + 2 * SEEDS * len(job.captions)
        learnt = job.learning_steps * rows_of([PROMPT, EMPTY, *([CAPTION] if job.captions else [])])
        again = (len(job.captions) * 2 + min(ASKED, len(prompts))) * (steps + 6 * len(PLACES))
        self._progress = Progress(5 * runs * steps + learnt + again)
        self._evaluations = 0
        self._base, self._whole = (job.model, job.clip), self._under(job.tensors)
        self._prompts = [self._seen(*self._whole, prompts, k) for k in range(times)]
        self._captions = [self._seen(*way, job.captions, k) for k in range(SEEDS) for way in (self._whole, self._base) if job.captions]
        agreements = dict(zip(prompts, _mean([seen.agreements() for seen in self._prompts]), strict=True))
        worded = {p: value for p, value in agreements.items() if p}
        self.limit = usual_limit(list(worded.values()))
        self.ordinary = [p for p, value in worded.items() if not value < self.limit]
        """Prompts that ask for the same under the LoRA."""
        self.odd_prompts = len(worded) - len(self.ordinary)
        self.agreements = _mean([seen.agreements() for seen in self._captions[::2]])
        self._leaking = [c for c, value in zip(job.captions, self.agreements, strict=True) if value < self.limit]

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
        job, model = self._job, _not_dynamic(self._whole[0])
        factors, passed = factors_of(self._contents.updates, model, model.load_device)
        names = {p: f"prompt {i}" for i, p in enumerate(dict.fromkeys([*self._prompts[0].prompts, *job.captions]))}
        lessons = []
        for kind, several, same in (
            (PROMPT, self._prompts, {*self.ordinary, ""}),
            (CAPTION, self._captions, {*job.captions} - {*self._leaking}),
        ):
            for seen in several:
                lessons += seen.lessons(kind, names, [p in same for p in seen.prompts])
        self._teach(model, factors, names, lessons)
        kept, removed, groups = written(factors, self._contents.updates, job.tensors, weights_of(job.model, job.clip))
        of_text = passed.pop(OF_TEXT, [])
        groups |= {"text encoder": {"layers": float(len(of_text)), "strength_left": 0.0}} if of_text else {}
        return kept, removed, groups, passed

    def _teach(self, model: Any, factors: list[Factors], names: dict[str, str], lessons: list[Lesson]) -> None:
        job = self._job
        prompts = dict(zip([*names.values(), EMPTY], encoded(job.clip, [*names, job.reference]), strict=True))
        latent = empty_of(job.model, job.latent)
        self._evaluations += teach(model, factors, prompts, lessons, latent, job.learning_steps, job.use["seed"], self._progress)

    def _changes(self, ways: list[tuple[Any, Any]], runs: Latents) -> list[Changes]:
        """What LoRAs change at the latents of runs."""
        before = runs.predicted(*self._base)
        found = [changes_of(runs.predicted(*way), before) for way in ways]
        self._evaluations += runs.evaluations
        return found

    def prompts_kept(self, tensors: dict[str, Tensor]) -> float:
        """Of what the LoRA changes for prompts that ask for the same under it, what a changed one does too, in runs of other seeds."""
        asked = self.ordinary[:: max(1, len(self.ordinary) // ASKED)][:ASKED]
        runs = self._drawn(*self._whole, asked, LEAST_RUNS + len(self._prompts) * len(self._prompts[0].prompts), list(PLACES))
        now, whole = self._changes([self._under(tensors), self._whole], runs)
        return explained([(x, w) for (x, _), (w, _) in zip(now, whole, strict=True)])

    def leak_left(self, tensors: dict[str, Tensor]) -> float:
        """Mean square of what a changed LoRA does for the captions alone, over that of the whole one, each in runs of its own: a part of a
        LoRA draws other pictures, and at the whole one's latents it would still seem to lead to them. Only captions that leak count."""
        if not self._leaking:
            return 1.0
        now, whole = (
            _alone(self._changes([way], self._drawn(*way, self._leaking, 0, list(PLACES)))[0])
            for way in (self._under(tensors), self._whole)
        )
        return now / whole if whole else 1.0


def _not_dynamic(model: Any) -> Any:
    """The MODEL with its weights at their places: newer cores lend a layer its weights for a call, and autograd needs them longer."""
    if not getattr(model, "is_dynamic", lambda: False)():
        return model
    try:
        return model.clone(disable_dynamic=True)
    except RuntimeError as error:
        raise ValueError("This model is loaded piece by piece, and cannot learn so. Start ComfyUI with --disable-dynamic-vram.") from error


def _mean(agreements: list[list[float]]) -> list[float]:
    """Of every prompt over its runs, NaN where none says anything; nothing without runs."""
    return torch.tensor(agreements).nanmean(0).tolist() if agreements else []


def _alone(changes: Changes) -> float:
    """Of what is done for captions and not for every prompt, the sum of squares."""
    return sum(float((c - u).double().square().sum()) for c, u in changes)
