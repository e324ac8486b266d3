"""Filter a LoRA by measuring: see what enters its layers under captions it gives back and under other prompts, and solve for a LoRA that
goes on doing what it does to the latter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import comfy.samplers
import comfy.sd
from torch import Tensor

from ...unmemorize.lora.channels import refactored
from ...unmemorize.lora.least_squares import spared
from ...unmemorize.lora.measured import projected
from ...unmemorize.stability.everyday import EVERYDAY
from ..core.identity import identity, shown
from ..core.progress import Progress
from ..core.prompts import encoded
from ..core.settings import check_range, check_sampling
from ..lora import keys
from ..lora.filter_file import kernel_of, weights_of
from ..lora.groups import group_of
from ..lora.keys import Update
from ..lora.layers import NOTHING, TOO_LARGE, is_finite
from ..lora.linalg import linalg_device
from ..lora.report import TOOL, earlier
from ..lora.rewriting import Rewritten, with_changes
from .change_measuring import PLACES, Latents, changes_of, usual_limit
from .layer_inputs import LayerInputs

METHOD = "least squares on layer inputs (ours)"
WEIGHTS = (0.1, 0.03, 0.01)
"""Of the captions' inputs against those of the prompts, in the order in which they are tried: the first that keeps enough is taken."""
RIDGE = 0.01
PROMPTS = 24
"""Everyday prompts that are drawn where none are given."""
ASKED = 12
"""Prompts at which it is measured what is kept, and how much a LoRA's changes usually agree."""
NO_ROWS = "nothing entered it in these runs, so that nothing is known of it"
PART_OF_INPUTS = "it changes a part of the layer's inputs, or rearranges them"


@dataclass(frozen=True)
class MeasuredJob:
    """A LoRA's tensors, the MODEL and CLIP it belongs to, captions it may remember, prompts that must stay as they are under it
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

    def kept_prompts(self) -> list[str]:
        """Prompts that must stay: those given, or everyday ones, the trigger word before half; the empty one is always there."""
        if self.prompts:
            return self.prompts
        stride = max(1, PROMPTS // ASKED)  # half of those that are asked have the word as well
        return [f"{self.reference}, {p}" if self.reference and i // stride % 2 else p for i, p in enumerate(EVERYDAY[:PROMPTS])]


@dataclass
class Measured:
    """The filtered LoRA, how it was found, and what it cost."""

    kept: dict[str, Tensor]
    removed: dict[str, Tensor]
    passed: dict[str, list[str]]
    prompts_kept: float
    """Of what the LoRA changes for the prompts, measured with the model at their latents; 1 where nothing was removed."""
    agreements: list[float]
    """Of every caption's run with the whole LoRA, its mean."""
    limit: float
    """Below it a caption leaks."""
    leak_left: float = 1.0
    """Of what the LoRA does for the captions that leak, alone; drawn again with what was kept; 1 where nothing was removed."""
    weight: float | None = None
    """Of the solution that was taken; None: none kept enough, or nothing leaks."""
    groups: dict[str, dict[str, float]] = field(default_factory=dict)
    """Kind of layer -> its layers, and the shares that are left of what they do to the prompts' inputs and to the captions'."""
    evaluations: int = 0

    @property
    def leaks(self) -> bool:
        """Does the LoRA change any of the captions' pictures in a way of their own?"""
        return any(value < self.limit for value in self.agreements)


def filter_by_measuring(job: MeasuredJob) -> Measured:
    """ValueError before any work on settings, captions or files that do not fit."""
    check_sampling(job.use)
    check_range("keep", job.keep, 0, 1)
    if not job.captions:
        raise ValueError(
            "There is no caption. Write some that the LoRA may have been trained with, one a line; LoRA Leak Probe finds them."
        )
    contents = keys.check(keys.take_apart(job.tensors, job.model, job.clip), weights_of(job.model, job.clip))
    measuring = _Measuring(job, contents)
    found = Measured(job.tensors, {}, measuring.passed, 1.0, measuring.agreements, measuring.limit)
    for weight in WEIGHTS if found.leaks else ():
        kept, removed, groups = measuring.solved(weight)
        share = measuring.prompts_kept(kept)
        if share >= job.keep:
            found.kept, found.removed, found.groups, found.prompts_kept = kept, removed, groups, share
            found.leak_left, found.weight = measuring.leak_left(kept), weight
            break
    found.evaluations = measuring.evaluations
    return found


class _Measuring:
    """Runs of the captions and prompts under the whole LoRA: what enters its layers, and what LoRAs change at their latents."""

    def __init__(self, job: MeasuredJob, contents: keys.Contents) -> None:
        self._job, self._contents = job, contents
        self.passed = {reason: list(several) for reason, several in contents.passed.items()}
        prompts = job.kept_prompts()
        asked, more = prompts[:: max(1, len(prompts) // ASKED)], [p for p in prompts if p not in prompts[:: max(1, len(prompts) // ASKED)]]
        runs = len(job.captions) + len(prompts)
        tries = 2 + len(WEIGHTS)
        self._progress = progress = Progress(
            (runs + len(job.captions)) * job.use["steps"] + (tries * len(asked) + 4 * len(job.captions)) * 2 * len(PLACES)
        )
        model, clip = comfy.sd.load_lora_for_models(job.model, job.clip, job.tensors, 1.0, 1.0)
        self._inputs = LayerInputs([update.layer for update in contents.updates], model, clip)
        self._read_texts(clip, [*prompts, job.reference])
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), job.use["scheduler"], job.use["steps"])
        with self._inputs.of_runs(model, sigmas) as heard:
            common = (job.reference, job.latent, job.use, progress)
            self._captions = Latents(heard, clip, job.captions, *common, started=self._begin)
            self._inputs.label = None
            self._prompts = Latents(heard, clip, asked, *common)
            rest = Latents(heard, clip, more, *common)
        self._drawn = rest.evaluations
        self._before = self._prompts.predicted(job.model, job.clip)
        self._whole = changes_of(self._prompts.predicted(model, clip), self._before)
        before = self._captions.predicted(job.model, job.clip)
        self._caption_changes = changes_of(self._captions.predicted(model, clip), before)
        self.agreements = self._captions.agreements(self._caption_changes, before)
        self.limit = usual_limit(self._prompts.agreements(self._whole, self._before))
        self._leaking = [i for i, value in enumerate(self.agreements) if value < self.limit]

    def _begin(self, caption: int) -> None:
        self._inputs.label = caption

    def _read_texts(self, clip: Any, kept: list[str]) -> None:
        """What enters the text encoder's layers, captions apart from the others."""
        if clip is None:
            return
        with self._inputs.of_text():
            for i, caption in enumerate(self._job.captions):
                self._inputs.label = i
                encoded(clip, [caption])
            self._inputs.label = None
            encoded(clip, kept)

    @property
    def evaluations(self) -> int:
        """Of the model, so far."""
        return self._captions.evaluations + self._prompts.evaluations + self._drawn

    def _under(self, tensors: dict[str, Tensor]) -> tuple[Any, Any]:
        return comfy.sd.load_lora_for_models(self._job.model, self._job.clip, tensors, 1.0, 1.0)

    def prompts_kept(self, tensors: dict[str, Tensor]) -> float:
        """Of what the whole LoRA changes for the prompts, what a changed one still does: its projection."""
        now = changes_of(self._prompts.predicted(*self._under(tensors)), self._before)
        return projected([(x, whole) for (x, _), (whole, _) in zip(now, self._whole, strict=True)])

    def leak_left(self, tensors: dict[str, Tensor]) -> float:
        """Mean square of what a changed LoRA does for the captions alone, over that of the whole one, each in runs of its own: a part of a
        LoRA draws other pictures, and at the whole one's latents it would still seem to lead to them. Only captions that leak count."""
        if not self._leaking:
            return 1.0
        model, clip = self._under(tensors)
        runs = Latents(model, clip, self._job.captions, self._job.reference, self._job.latent, self._job.use, self._progress)
        changes = changes_of(runs.predicted(model, clip), runs.predicted(self._job.model, self._job.clip))
        self._drawn += runs.evaluations
        return self._alone(changes) / self._alone(self._caption_changes)

    def _alone(self, changes: Any) -> float:
        """Mean square of what is done for the leaking captions and not for every prompt."""
        each = len(changes) // len(self._job.captions)
        return sum(float((c - u).double().square().sum()) for i, (c, u) in enumerate(changes) if i // each in self._leaking)

    def solved(self, weight: float) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, dict[str, float]]]:
        """What is kept, what is removed, and how much of each kind of layer: a solution for every layer."""
        changes: Rewritten = []
        removed: dict[str, Tensor] = {}
        groups: dict[str, dict[str, float]] = {}
        sizes = weights_of(self._job.model, self._job.clip)
        for update, kept, leaked in self._rows():
            channels = update.layer.adapter.channels(linalg_device())
            b, a = refactored(channels, channels.sigma)
            new = spared(a.cpu(), kept, leaked, weight, RIDGE).to(a)
            kernel = kernel_of(update, sizes[update.layer.text_encoder])
            written, gone = (update.layer.adapter.rewritten(b, part, update.names, kernel) for part in (new, a - new))
            if not len(channels) or not all(is_finite(t) for t in (*written.values(), *gone.values())):
                self._pass(TOO_LARGE if len(channels) else NOTHING, update)
                continue
            changes.append((update, written))
            removed |= gone
            group = groups.setdefault(group_of(update.layer), {"layers": 0})
            group["layers"] += 1
            for name, rows in (("prompts", kept), ("captions", leaked)):
                if rows is not None:
                    for kind, factor in ((name, new), (f"{name}_whole", a)):
                        group[kind] = group.get(kind, 0.0) + _done(b, factor, rows)
        return with_changes(self._job.tensors, changes), removed, {name: _shares(g) for name, g in groups.items()}

    def _rows(self) -> Iterator[tuple[Update, Tensor, Tensor | None]]:
        """Layers and the rows that entered them; the others are noted as passed through."""
        for update in self._contents.updates:
            layer = update.layer
            kept, leaked = self._inputs.kept(layer), self._inputs.leaked(layer, self._leaking)
            reason = PART_OF_INPUTS if (layer.offset or (0,))[0] != 0 or layer.function is not None else NO_ROWS if kept is None else ""
            if not reason and kept is not None and kept.shape[1] != layer.adapter.shape[1]:
                reason = PART_OF_INPUTS
            if kept is not None and not reason:
                yield update, kept, leaked
            else:
                self._pass(reason, update)

    def _pass(self, reason: str, update: Update) -> None:
        """Every try meets the same layers."""
        known = self.passed.setdefault(reason, [])
        known.extend(key for key in update.keys if key not in known)


def _done(b: Tensor, a: Tensor, rows: Tensor) -> float:
    """Mean square of what B A does to rows."""
    return float((rows.to(a) @ a.T @ b.T).square().sum()) / len(rows)


def _shares(sums: dict[str, float]) -> dict[str, float]:
    """Of what a kind of layers did to the prompts' and the captions' inputs, the shares that are left."""
    names = [n for n in ("prompts", "captions") if sums.get(f"{n}_whole")]
    return {"layers": sums["layers"]} | {f"{n}_left": round(sums[n] / sums[f"{n}_whole"], 4) for n in names}


def report(found: Measured, job: MeasuredJob) -> dict[str, Any]:
    """What was done and what it cost; JSON-able."""
    return {
        "method": METHOD,
        "verdict": _in_words(found),
        "leak_left": round(found.leak_left, 4) if found.leaks else None,
        "prompts_kept": round(found.prompts_kept, 4),
        "agreement": [_number(value) for value in found.agreements],
        "agreement_limit": round(found.limit, 4),
        "weight": found.weight,
        "groups": found.groups,
        "evaluations": found.evaluations,
        "settings": job.use
        | {"keep": job.keep, "captions": len(job.captions), "prompts": len(job.kept_prompts()), "everyday": not job.prompts},
        "passed_through": found.passed,
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _in_words(found: Measured) -> str:
    several, leaking = len(found.agreements), sum(value < found.limit for value in found.agreements)
    if all(math.isnan(value) for value in found.agreements):
        return "The LoRA changes nothing in the runs of these captions: there was nothing to judge."
    if not leaking:
        return "None of these captions moves the LoRA in a way of its own: nothing was removed. It may still remember others."
    kept = f"of what it changes for the other prompts {found.prompts_kept:.0%} is left"
    if found.weight is None:
        return "Nothing was removed: every solution would cost more of what the LoRA is for than `keep` allows."
    return (
        f"{leaking} of {several} captions leak. Of what the LoRA does for them alone {found.leak_left:.0%} is left, {kept}. Whether that "
        "is no copy any more only pictures show: draw them, or use LoRA Leak Probe."
    )


def provenance(info: dict[str, Any] | None, job: MeasuredJob, found: Measured) -> dict[str, Any]:
    """Settings, source and base model, for the metadata of a filtered file; no caption."""
    info = info or {}
    return {
        "tool": TOOL, "method": METHOD, "weight": found.weight, "keep": job.keep,
        "source": {k: info.get(k, "") for k in ("name", "sha256")}, "base": shown(identity(job.model)) | {"patches": ""},
        **earlier(info),
    }  # fmt: skip
