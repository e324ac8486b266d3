"""Record score differences while any sampler runs: no extra model call, and the picture stays the same to the bit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import comfy.patcher_extension
import torch
from torch import Tensor

from ...unmemorize.curvature.differences import channel_sum, score_difference
from ...unmemorize.curvature.maps import make_map
from ...unmemorize.pictures.pages import counted
from ..core.coverage import covered
from ..core.guiders import cached, other_prompts
from ..core.hooks import as_function
from ..core.influences import exchanging
from ..core.latents import both, check_picture, check_somewhere, flat, generated, is_marked, marks
from ..core.noise import NEARLY, noise_level
from ..core.sampler_call import DRAWN_AGAIN, arguments_of, run_arguments_of

KEY = "unmemorize_score_difference"
ANOTHER = "A guard drew this picture again, or changed its steps: what was recorded is of the picture that it threw away."
CACHED = "EasyCache or LazyCache answered some steps from earlier ones: what was recorded there is of other noise levels."
RECORD_START, RECORD_END = 0.0, 0.3
"""Early steps place things; `nox -s sweep -- curvature` compares windows."""


@dataclass
class Sums:
    """What the calls of one run add up to."""

    total: Tensor | None = None
    """b^2 ds_0, channels summed, [n, h, w]; None: nothing was added."""
    steps: set[int] = field(default_factory=set)
    count: int = 0
    """Model calls in the sum."""
    channels: int = 0
    unguided: bool = False
    """There were calls without the empty prompt."""
    obstacle: str = ""
    """Why nothing that was recorded can be mapped, in words."""
    covered: Tensor | None = None
    """1 where both prompts were active at every call, [n, h, w]; None: everywhere."""
    uncovered: set[int] = field(default_factory=set)
    """Steps that were left out: one of the prompts was not active."""
    again: bool = False
    """Does a guard draw a picture again in this run?"""
    samples: int = 1
    """Pictures of the run."""
    heard: bool = False
    """Was the guided model called in this run?"""
    made: Tensor | None = None
    """Marks of what the sampler made."""
    part: str = ""
    """What is missing of a run that does not go from pure noise to the picture, in words."""

    def add(self, facts: dict[str, Any], start: float, end: float) -> None:
        """A call between two shares of the run, given what ComfyUI tells its post-CFG functions; others are left out."""
        sigmas = facts["model_options"].get("transformer_options", {}).get("sample_sigmas")
        sigma = facts["sigma"].reshape(-1)[0]
        steps = 1 if sigmas is None else max(len(sigmas) - 1, 1)
        step = 0 if sigmas is None else min(int((sigmas.to(sigma) - sigma).abs().argmin()), steps - 1)
        if not start <= step / max(steps - 1, 1) <= end:
            return
        if facts["uncond"] is None:  # CFG 1: ComfyUI skips the empty prompt and hands out zeros in its place
            self.unguided = True
            return
        self.part = _missing(sigmas, facts["model"].model_sampling)
        inside = flat(covered([facts["cond"], facts["uncond"]], facts["input"], facts["sigma"]))
        if inside is not None and not inside.any():
            self.uncovered.add(step)
            return
        level = noise_level(facts["model"].model_sampling, float(sigma))
        gap = facts["cond_denoised"].float() - facts["uncond_denoised"].float()
        values = channel_sum(score_difference(gap, level)).cpu()
        if len(values) != self.samples:
            self.obstacle = f"The sampler draws {len(values)} of the {self.samples} pictures at a time: its steps cannot be told apart."
            return
        if self.total is not None and values.shape != self.total.shape:
            self.obstacle = "The recorded sampler changed the latent's size on the way, so that its steps cannot be added up."
            return
        self.covered = both(self.covered, inside)
        self.channels = gap.shape[1]
        self.total = values if self.total is None else self.total + values
        self.count += 1
        self.steps.add(step)


def _missing(sigmas: Tensor | None, model_sampling: Any) -> str:
    """What a run over `sigmas` [steps + 1] leaves out, in words; "" if it begins with pure noise and ends with a picture."""
    if sigmas is None:
        return ""
    first, last, most = float(sigmas[0]), float(sigmas[-1]), float(model_sampling.sigma_max)
    left_out = [f"begins at noise level {first:.3g} of {most:.3g}"] if first < NEARLY * most else []
    left_out += [f"stops at {last:.3g}"] if last > 0 else []
    if not left_out:
        return ""
    return f"The recorded sampler made a part of a run: it {' and '.join(left_out)}. Steps, start and end count within that part."


def _warnings(sums: Sums) -> list[str]:
    """What makes a recording speak of less than a whole run."""
    left_out = f"Left out: {counted(len(sums.uncovered), 'step')}, because one of the prompts is not active there (a range of steps)."
    return [*([sums.part] if sums.part else []), *([left_out] if sums.uncovered else [])]


def _obstacle(guider: Any) -> str:
    """Why what a guider tells of its two predictions is not what the model makes of two prompts, in words; "" if it is."""
    if exchanged := exchanging(guider.model_options):
        return f"Other nodes change the model's predictions before they were recorded ({', '.join(exchanged)})."
    return CACHED if cached(guider) else other_prompts(guider)


@dataclass
class Recording:
    """The sums of the recorded model's last run. Empty until one ends; one that is cancelled, or that only measures, changes nothing."""

    start: float
    end: float
    """Shares of a run between which steps are recorded."""
    sums: Sums | None = None
    marks: Tensor | None = None
    """Of the latent that the run made."""
    shape: tuple[int, ...] = ()


class _Recorder:
    """Fills a recording from the runs of one model. Runs may lie in each other: each call belongs to the innermost."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._running: list[Sums] = []

    def whole_run(self, executor: Any, *arguments: Any, **more: Any) -> Tensor:
        """Around everything: the sums of a run that ends become the recording's."""
        call, recording = run_arguments_of(executor.class_obj, *arguments, **more), self._recording
        again = executor.class_obj.model_options.get(DRAWN_AGAIN, False)
        sums = Sums(obstacle=_obstacle(executor.class_obj), again=again, samples=len(call.noise))
        self._running.append(sums)
        try:
            result = executor(*arguments, **more)
            if sums.made is not None and not torch.allclose(sums.made, marks(result), rtol=1e-3, atol=1e-3):
                sums.obstacle = sums.obstacle or ANOTHER
            if sums.heard and (sums.total is not None or sums.unguided or sums.obstacle):
                recording.sums, recording.marks, recording.shape = sums, marks(result), tuple(result.shape)
            return result
        finally:
            self._running.pop()

    def sampling(self, executor: Any, *arguments: Any, **more: Any) -> Tensor:
        """Around the sampler: what it made, before anybody changes that."""
        result = executor(*arguments, **more)
        if self._running:
            call = arguments_of(executor.class_obj, *arguments, **more)
            self._running[-1].made = marks(call.guider.inner_model.process_latent_out(result.float()))
        return result

    def listen(self, facts: dict[str, Any]) -> Tensor:
        """After each call of the guided model."""
        if self._running:
            self._running[-1].heard = True
        if self._running and facts["model_options"].get(DRAWN_AGAIN, False) and not self._running[-1].again:
            self._running[-1].obstacle = ANOTHER  # step by step, inside of this very run
        elif self._running:
            self._running[-1].add(facts, self._recording.start, self._recording.end)
        return facts["denoised"]


def record(model: Any, start: float, end: float) -> tuple[Any, Recording]:
    """A clone of MODEL that fills the returned recording with b^2 ds_0 of the steps between two shares of a run. ValueError on these."""
    if not 0 <= start <= end <= 1:
        raise ValueError(f"start = {start:g} and end = {end:g} are shares of the run: 0 <= start <= end <= 1.")
    recording = Recording(start, end)
    recorder, clone = _Recorder(recording), model.clone()
    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, KEY, as_function(recorder.whole_run))
    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE, KEY, as_function(recorder.sampling))
    clone.set_model_sampler_post_cfg_function(as_function(recorder.listen))
    return clone, recording


def recorded_map(recording: Any, latent: dict[str, Any]) -> dict[str, Any]:
    """The map of a finished run: mean over the recorded evaluations. ValueError if nothing fitting was recorded."""
    if not isinstance(recording, Recording):
        raise ValueError("This is not a recording of Unmemorize. Connect the recording of Record Score Difference.")
    sums = recording.sums
    if sums is not None and sums.obstacle:
        raise ValueError(f"{sums.obstacle} Use Curvature Difference Map, which asks the model itself.")
    if sums is not None and sums.unguided:
        raise ValueError(
            "The sampler ran without guidance (CFG 1), so the model never saw the empty prompt and there is nothing to compare. "
            "Use Curvature Difference Map, which asks for the empty prompt itself."
        )
    if sums is None or sums.total is None or recording.marks is None:
        raise ValueError(
            "Nothing was recorded. The MODEL of Record Score Difference must go into the sampler that made this latent, and the "
            "range from start to end must hold at least one of its steps. If that is so already, change the seed and run again."
        )
    total = sums.total
    if not torch.isfinite(total).all():
        raise ValueError("The run that was recorded produced values that are not numbers (NaN or infinite). Check its precision.")
    samples = latent["samples"]
    check_picture(samples)
    if recording.shape != tuple(samples.shape) or not is_marked(samples, recording.marks):
        raise ValueError(
            "This latent is not the one that the recorded sampler made last. Connect the latent of the sampler that uses the recorded "
            "MODEL, unchanged, and give each sampler a recorder of its own. If that is so already, change the seed and run again."
        )
    values = (total if total.ndim == 3 else total[:, 0]) / sums.count
    settings = {
        "method": "ds_0", "estimator": "recorded while sampling", "steps": sorted(sums.steps), "start": recording.start,
        "end": recording.end, "evaluations": 0, "warnings": _warnings(sums),
    }  # fmt: skip
    region = both(generated(latent, values.shape), sums.covered)
    check_somewhere(region, "mapped")
    return make_map(values, sums.channels, settings, region)
