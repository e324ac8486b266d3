"""Watch the steps of a run through the model calls ComfyUI makes anyway: no extra call, any sampler.

A step is known by the noise level of its model call. Samplers that look ahead (heun) call twice at a level: the later call counts.
Calls between the schedule's levels (midpoint methods) belong to no step.

What is noted stays on the device until somebody asks for it, and the level of a call is not read where the sampler has shown that it
calls once a step: a run does not wait for the device. Such levels are read with the notes; what was none of its step is then forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import comfy.patcher_extension
import torch
from torch import Tensor

from ...unmemorize.stability.signals import revision, rms_of_each, sharpness
from ..core.coverage import covered
from ..core.guiders import cached
from ..core.hooks import as_function
from ..core.influences import distilled_guidance
from ..core.latents import KEPT
from ..core.noise import noise_levels
from ..core.sampler_call import CALLBACK_OF_SAMPLER, DRAWN_AGAIN, RunCall, arguments_of, end_of, run_arguments_of

KEY = "unmemorize_stability_watch"
SAME_LEVEL = 2e-3
"""Relative difference of noise levels that is rounding (uni_pc converts them to times and back)."""
LEAST_PLACES = 16
"""Places of a latent; norms over fewer say nothing."""
FIRST_READ = 2
"""Calls whose level is read; one call a step so far, at its level, and the others are taken to come in their turn."""
COMPARED = ("latent", "update", "change_uncond", "change_cond")
"""What is noted of a call beside the one before."""
OF_THE_GAP = 1 / 3
"""Levels may lie nearer to each other: a call belongs to a step if it is nearer to its level than this share of the gap beside it.
Half of the gap is where midpoint methods call."""


@dataclass(frozen=True)
class Call:
    """One evaluation of the guided model at the beginning of a step, in VP coordinates."""

    step: int
    z: Tensor
    prediction: Tensor
    cond: Tensor
    uncond: Tensor | None


@dataclass
class Watch:
    """Observations of one run: what `unmemorize.stability.signals.SIGNALS` says, by step and sample, beside the schedule they belong to."""

    angles: list[float]
    """Of each level of the schedule, steps + 1, descending."""
    scales: list[float]
    """x = scale * z at each level of the schedule, the last one included."""
    sigmas: list[float]
    region: Tensor | None
    every_sharpness: bool = False
    """Of every step, for a profile; else of the first, which is all that a score needs."""
    shape: tuple[int, ...] | None = None
    """Of the latent that is sampled, [n, c, ...]; None: whatever comes."""
    obstacle: str = ""
    """Why no verdict can rest on this run, in words."""
    other_guidance: str = ""
    """Why the profile does not serve this run's guidance, in words."""
    other_beginning: str = ""
    """Why the profile does not serve what this run begins with, or what other nodes do in it, in words."""
    _notes: dict[int, tuple[tuple[str, ...], Tensor]] = field(default_factory=dict)
    """Step of a call -> names and values [k, n]."""
    cond_scale: float = math.nan
    told: float | None = None
    """The distilled guidance of the prompt, where the model is told any."""
    keeps_from: float = math.inf
    """Calls at angles from here up are kept, for what is measured on them afterwards."""
    kept: dict[int, Call] = field(default_factory=dict)
    """Step -> its call."""
    agreements: dict[int, Tensor] = field(default_factory=dict)
    """Step -> how far the prompt asks for the same under a LoRA, [n]; measured after the run (`lora_watch`)."""
    before: Call | None = None
    now: Call | None = None
    ended: int | None = None
    """Steps that the sampler has told its callback of (see `counted`); None: nobody counts."""
    _calls: int = 0
    _in_turn: bool = True
    """Did the sampler call once a step, at its level, so far?"""
    _fresh: dict[int, Tensor | None] = field(default_factory=dict)
    """Steps noted since somebody last asked, with the level [1] of their call where it was not read."""
    _of_no_step: set[int] = field(default_factory=set)

    @property
    def steps(self) -> int:
        return len(self.angles) - 1

    @property
    def compared(self) -> set[int]:
        """Steps whose predictions, of the prompt and of the empty prompt, could be compared with those of the step before."""
        self._settle()
        return {step for step, (names, _) in self._notes.items() if "change_cond" in names}

    def step_of(self, sigma: float) -> int | None:
        """The step that begins at a noise level, if any: the nearest of those to come, runs go downward."""
        start = 0 if self.now is None else self.now.step
        step = min(range(start, self.steps), key=lambda k: abs(self.sigmas[k] - sigma))
        if self.now is not None and step == start < self.steps - 1 and self.sigmas[step + 1] == self.sigmas[step]:
            step += 1  # a schedule that stays at a level for two steps
        return step if self._is_level(step, sigma) else None

    def _is_level(self, step: int, sigma: float) -> bool:
        """Is this the level that a step begins at?"""
        gaps = (abs(self.sigmas[step] - self.sigmas[k]) for k in (step - 1, step + 1) if 0 <= k <= self.steps)
        allowed = min([SAME_LEVEL * max(sigma, 1e-8), *(OF_THE_GAP * gap for gap in gaps if gap > 0)])
        return abs(self.sigmas[step] - sigma) <= allowed

    def _step_of_call(self, level: Tensor) -> tuple[int | None, bool]:
        """The step that a call at a level [1] belongs to, and whether that was read, or is yet to be."""
        number, self._calls = self._calls, self._calls + 1
        self._in_turn = self._in_turn and number == self.ended and number < self.steps
        if self._in_turn and number >= FIRST_READ:
            return number, False
        step = self.step_of(float(level))
        self._in_turn = self._in_turn and step == number
        return step, True

    def see(self, facts: dict[str, Any]) -> int | None:
        """Note a model call, given what ComfyUI tells its post-CFG functions; returns the step it belongs to."""
        level = facts["sigma"].reshape(-1)[:1]
        step, read = self._step_of_call(level)
        if step is None or self._of_other_shape(facts["input"]) or not self._covers(facts):
            return None
        uncond = facts["uncond_denoised"] if facts["uncond"] is not None else None
        call = Call(step, facts["input"] / self.scales[step], facts["denoised"], facts["cond_denoised"], uncond)
        if self.now is None or step > self.now.step:
            self.before = self.now
        self.now = call
        if self.angles[step] >= self.keeps_from:
            self.kept[step] = call
        self.cond_scale = float(facts["cond_scale"])
        self._note(call)
        self._fresh[step] = None if read else level
        return step

    def _of_other_shape(self, x: Tensor) -> bool:
        if self.shape is None or tuple(x.shape) == self.shape:
            return False
        if len(x) != self.shape[0]:
            self.obstacle = f"The sampler draws {len(x)} of the {self.shape[0]} pictures at a time, so that its steps cannot be told apart."
        else:
            sizes = " to ".join("x".join(map(str, shape[2:])) for shape in (self.shape, x.shape))
            self.obstacle = f"The sampler changed the latent's size on the way, from {sizes}: its steps cannot be compared."
        return True

    def _covers(self, facts: dict[str, Any]) -> bool:
        """Places without a prompt count for nothing, from the first step at which there are some. False: there is no prompt at all."""
        sides = [side for side in (facts["cond"], facts["uncond"]) if side is not None]
        inside = covered(sides, facts["input"], facts["sigma"])
        if inside is None:
            return True
        if not inside.any():
            return False
        self.region = inside if self.region is None else self.region.to(inside) * inside
        return True

    @property
    def samples(self) -> int:
        """How many pictures are sampled."""
        return 1 if self.shape is None else self.shape[0]

    @property
    def seen(self) -> set[int]:
        """Steps that were noted."""
        self._settle()
        return {step for step, (names, _) in self._notes.items() if "prediction" in names}

    def empty(self) -> list[bool]:
        """By sample: is there hardly a place that counts, generated and under a prompt?"""
        if self.region is None:
            return [False] * self.samples
        return (self._counted().sum(1) < LEAST_PLACES).tolist()

    def share(self) -> list[float]:
        """By sample: the part of its places that counts."""
        return [1.0] * self.samples if self.region is None else self._counted().mean(1).tolist()

    def _counted(self) -> Tensor:
        """[n, places], 1 = counts."""
        assert self.region is not None
        return self.region.expand(self.samples, *self.region.shape[1:])[:, :1].flatten(1)

    def broken(self) -> list[bool]:
        """By sample: was anything noted that is no number?"""
        self._settle()
        values = [v for _, v in self._notes.values()]
        return (~torch.cat(values).isfinite().all(0)).tolist() if values else [False] * self.samples

    def finish(self, end: Tensor) -> None:
        """Note the last step, given the latent it ended with, in the model's own space and coordinates."""
        last = self.now
        if last is not None and last.step == self.steps - 1 and end.shape == last.z.shape:
            y = end.to(last.z) / self.scales[self.steps]
            norms = rms_of_each(torch.stack([y, y - last.z]), self._region_like(y))
            self._notes[self.steps] = ("latent", "update"), norms
            self._fresh[self.steps] = None
        self.before = self.now = None

    def _note(self, call: Call) -> None:
        """Everything a call tells, in one go: many small operations would cost more than all the numbers are worth."""
        last = self.before if self.before is not None and self.before.step == call.step - 1 else None
        names, parts = ["prediction"], [call.prediction]
        if call.uncond is not None:
            names.append("guidance")
            parts.append(call.cond - call.uncond)
        if last is not None:
            names += ["latent", "update"]
            parts += [call.z, call.z - last.z]
            if call.uncond is not None and last.uncond is not None:
                names += ["change_uncond", "change_cond"]
                parts += [call.uncond - last.uncond, call.cond - last.cond]
        region = self._region_like(call.z)
        values = rms_of_each(torch.stack(parts), region)
        if self.every_sharpness or last is None:
            names.append("sharpness")
            values = torch.cat([values, sharpness(call.cond, region)[None]])
        self._notes[call.step] = tuple(names), values

    def _settle(self) -> None:
        """Bring what was noted to the CPU, in one copy, and forget what was noted of calls that were no step's."""
        fresh, self._fresh = self._fresh, {}
        if not fresh:
            return
        levels = {step: level for step, level in fresh.items() if level is not None}
        values = [self._notes[step][1] for step in fresh]
        together = torch.cat([*(v.flatten() for v in values), *(level.to(values[0]) for level in levels.values())]).cpu()
        pieces = iter(together.split([v.numel() for v in values] + [1] * len(levels)))
        for step, there in zip(fresh, values, strict=True):
            self._notes[step] = self._notes[step][0], next(pieces).reshape(there.shape)
        self._of_no_step |= {step for step, level in zip(levels, pieces, strict=True) if not self._is_level(step, float(level))}
        for step in self._of_no_step:
            self._notes.pop(step, None)
            self.kept.pop(step, None)
            if step + 1 in self._notes:
                names, rows = self._notes[step + 1]
                kept = [k for k, name in enumerate(names) if name not in COMPARED]
                self._notes[step + 1] = tuple(names[k] for k in kept), rows[kept]

    def observed(self) -> dict[str, Tensor]:
        """Signal -> [steps, n] of everything noted so far; NaN where there is nothing (yet)."""
        found: dict[str, Tensor] = {}
        self._settle()
        for step, (names, values) in self._notes.items():
            rows = dict(zip(names, values, strict=True))
            if "change_uncond" in rows:
                rows["revision"] = revision(rows.pop("change_uncond"), rows.pop("change_cond"))
            if "update" in rows:  # noted with the call that follows its step
                rows["update"] = rows["update"] / max(self.angles[step - 1] - self.angles[step], 1e-6)
            for name, row in rows.items():
                if name not in found:
                    found[name] = torch.full((self.steps, len(row)), math.nan)
                found[name][step - 1 if name in ("latent", "update") else step] = row
        for step, values in self.agreements.items():
            found.setdefault("agreement", torch.full((self.steps, len(values)), math.nan))[step] = values
        return found

    def _region_like(self, x: Tensor) -> Tensor | None:
        return None if self.region is None else self.region.to(x.device)

    def followed_by(self, later: Watch) -> Watch:
        """Two stages of one run, the later one begun with what this one ended with, as the watch of the whole."""
        self._settle()
        later._settle()
        notes, steps = dict(self._notes), self.steps
        for step, (names, values) in later._notes.items():
            known = notes.get(steps + step)
            notes[steps + step] = (names, values) if known is None else ((*known[0], *names), torch.cat([known[1], values]))
        levels = ((*a[:-1], *b) for a, b in ((self.angles, later.angles), (self.scales, later.scales), (self.sigmas, later.sigmas)))
        angles, scales, sigmas = map(list, levels)
        obstacle, guidance = self.obstacle or later.obstacle, self.other_guidance or later.other_guidance
        beginning = self.other_beginning
        agreements = self.agreements | {steps + step: values for step, values in later.agreements.items()}
        return Watch(
            angles, scales, sigmas, later.region, shape=later.shape, obstacle=obstacle, other_guidance=guidance,
            other_beginning=beginning, _notes=notes, agreements=agreements,
        )  # fmt: skip


def new_watch(
    model_sampling: Any, sigmas: Tensor, denoise_mask: Tensor | None, every_sharpness: bool = False, shape: tuple[int, ...] | None = None
) -> Watch:
    """A watch for a run over `sigmas` [steps + 1]; `denoise_mask` [n, c, h, w] or None: where the picture is generated."""
    levels = noise_levels(model_sampling, sigmas)
    return Watch(
        [math.atan2(level.b, level.a) for level in levels],
        [math.hypot(level.a, level.b) for level in levels],
        sigmas.tolist(),
        None if denoise_mask is None else (denoise_mask > KEPT).float(),
        every_sharpness,
        shape,
    )


def counted(watch: Watch, arguments: tuple[Any, ...], more: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a sampler's `sample`, with a callback by which the watch knows how many steps have ended."""
    place = CALLBACK_OF_SAMPLER
    before = arguments[place] if len(arguments) > place else more.get("callback")
    watch.ended = 0

    def callback(*told: Any, **also: Any) -> None:
        watch.ended = (watch.ended or 0) + 1
        if before is not None:
            before(*told, **also)

    if len(arguments) > place:
        return (*arguments[:place], callback, *arguments[place + 1 :]), more
    return arguments, {**more, "callback": callback}


class Watcher:
    """Only notes. `runs` gets a Watch when a run of the model that it is attached to ends; a run that is cancelled leaves none.

    `afterwards` is given each watch and what the whole run was asked with, to measure more on the calls that were kept: those at angles
    from `keeps_from` up.
    """

    def __init__(self, afterwards: Callable[[Watch, RunCall], None] | None = None, keeps_from: float = math.inf) -> None:
        self.runs: list[Watch] = []
        self._now: Watch | None = None
        self._afterwards, self._keeps_from = afterwards, keeps_from

    def attached(self, model: Any) -> Any:
        """A clone of MODEL that is watched."""
        clone, wrappers = model.clone(), comfy.patcher_extension.WrappersMP
        clone.add_wrapper_with_key(wrappers.SAMPLER_SAMPLE, KEY, as_function(self._sampling))
        if self._afterwards is not None:
            clone.add_wrapper_with_key(wrappers.OUTER_SAMPLE, KEY, as_function(self._whole_run))
        clone.set_model_sampler_post_cfg_function(as_function(self._listen))
        return clone

    def _whole_run(self, executor: Any, *arguments: Any, **more: Any) -> Tensor:
        if executor.class_obj.model_options.get(DRAWN_AGAIN, False) or self._afterwards is None:
            return executor(*arguments, **more)
        result = executor(*arguments, **more)
        self._afterwards(self.runs[-1], run_arguments_of(executor.class_obj, *arguments, **more))
        return result

    def _sampling(self, executor: Any, *arguments: Any, **more: Any) -> Tensor:
        call = arguments_of(executor.class_obj, *arguments, **more)
        if call.extra_args["model_options"].get(DRAWN_AGAIN, False):
            return executor(*arguments, **more)
        if remedy := cached(call.guider):
            raise ValueError(remedy)
        model_sampling = call.guider.inner_model.model_sampling
        watch = self._now = new_watch(model_sampling, call.sigmas, call.mask, every_sharpness=True)
        watch.keeps_from = self._keeps_from
        arguments, more = counted(watch, arguments, more)
        try:
            result = executor(*arguments, **more)
        finally:
            self._now = None
        watch.finish(end_of(model_sampling, result, call.sigmas))
        self.runs.append(watch)
        return result

    def _listen(self, facts: dict[str, Any]) -> Tensor:
        if self._now is not None:
            self._now.see(facts)
            self._now.told = distilled_guidance(facts["model"].diffusion_model, facts["cond"])
        return facts["denoised"]


def watched(model: Any) -> tuple[Any, list[Watch]]:
    """A clone of MODEL that only notes: the list gets a Watch for each finished run."""
    watcher = Watcher()
    return watcher.attached(model), watcher.runs
