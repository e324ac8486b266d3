"""The stability guard: watches a run of any sampler, and corrects the samples that leave the region.

The stock sampler runs untouched. A sample that is flagged is sampled again alone; its neighbours keep their bits.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from typing import Any

import comfy.patcher_extension
import torch
from torch import Tensor

from ...unmemorize.pictures.views import MOST_SAMPLES, MOST_STEPS, curves, guard_view
from ...unmemorize.stability.profile import WINDOW, default_score, deviation, deviations, paper_score, region_along
from ...unmemorize.stability.rule import Rule, active, severity
from ..core.sampler_call import arguments_of, end_of
from ..curvature.recording import marks
from . import restart, step_rule
from .live_view import Live, live
from .profiles import StoredProfile, check_guidance, warnings_for
from .watching import Call, Watch, new_watch

KEY = "unmemorize_stability_guard"
MODES = ("detect", "correct", "off")
METHODS = ("recommended", "paper")
LIMIT = 3.0
"""A default score from here, in standard deviations of clean runs, is called memorized."""


@dataclass(frozen=True)
class Guard:
    """What to watch with, and what to do. Methods: `recommended` restarts a flagged sample, `paper` edits it step by step."""

    stored: StoredProfile
    mode: str = "detect"
    method: str = "recommended"
    parent: Any = None
    limit: float = LIMIT
    rule: Rule = field(default_factory=Rule)
    how: restart.How | None = None
    """None: `restart.how_for(parent)`."""
    sampling: dict[str, Any] = field(default_factory=dict)
    """What is known of the run beforehand: sampler_name, scheduler ..., for warnings."""


class _Enough(Exception):
    """Every sample of the batch is flagged and will be sampled again: the rest of this run is not needed."""


@dataclass
class Run:
    """One run of a sampler under guard."""

    watch: Watch
    score: Tensor = field(default_factory=lambda: torch.zeros(0))
    flagged: Tensor | None = None
    """None until the verdict."""
    looked: bool = False
    """Was it asked, when the score was complete, whether the rest of the run is needed?"""
    observed: dict[str, Tensor] = field(default_factory=dict)
    """Of the finished run."""
    detector: str = ""
    grades: Tensor | None = None
    """Severity of the first departure so far, [steps, n]."""
    first: dict[int, step_rule.FirstEdit] = field(default_factory=dict)
    """Sample -> where the paper's rule would edit it first."""
    edits: dict[int, list[int]] = field(default_factory=dict)
    """Sample -> steps that the paper's rule edited."""
    restarted: list[int] = field(default_factory=list)


def guarded(model: Any, guard: Guard) -> tuple[Any, dict[str, Any]]:
    """A clone of MODEL under guard, and a record that each finished run replaces. Mode off: the model itself, an empty record."""
    record: dict[str, Any] = {}
    if guard.mode == "off":
        return model, record
    clone, line = model.clone(), live()
    state: dict[str, Any] = {"run": None, "busy": False, "restarting": False}

    def whole_run(executor: Any, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, *rest: Any, **more: Any) -> Tensor:
        if state["busy"]:
            return executor(noise, latent_image, sampler, sigmas, *rest, **more)
        state["busy"] = True
        try:
            result = executor(noise, latent_image, sampler, sigmas, *rest, **more)
            run, state["run"] = state["run"], None
            if run is not None:
                if guard.mode == "correct" and guard.method == "recommended" and run.flagged is not None and bool(run.flagged.any()):
                    state["restarting"] = True
                    how = guard.how or restart.how_for(guard.parent)
                    line.send("restart", {"samples": torch.nonzero(run.flagged).flatten().tolist()})
                    arguments = (result, noise, latent_image, sampler, sigmas, *rest)
                    result = restart.replace_flagged(executor.class_obj, run.flagged, how, *arguments, **more)
                    run.restarted = torch.nonzero(run.flagged).flatten().tolist()
                record.clear()
                record.update(record_of(run, guard, result))
                line.send("done", {"view": guard_view(record)})
            return result
        finally:
            state.update(busy=False, restarting=False, run=None)

    def sampling(executor: Any, *arguments: Any, **more: Any) -> Tensor:
        s = arguments_of(executor.class_obj, *arguments, **more)
        if state["run"] is not None or state["restarting"] or len(s.sigmas) < 2:
            return executor(*arguments, **more)
        run = state["run"] = Run(new_watch(s.guider.inner_model.model_sampling, s.sigmas, s.mask))
        try:
            result = executor(*arguments, **more)
        except _Enough:
            return torch.zeros_like(s.noise)
        finish(run, guard, end_of(s.guider.inner_model.model_sampling, result, s.sigmas))
        if guard.mode == "correct" and run.first:
            result = result.clone()
            for i, first in run.first.items():
                profile = guard.stored.profile
                result[i : i + 1], run.edits[i] = step_rule.step_by_step(s, run.watch, first, i, len(result), profile, guard.rule)
        return result

    def listen(facts: dict[str, Any]) -> Tensor:
        if state["run"] is not None and state["run"].flagged is None:
            _listen(state["run"], guard, facts)
            if line.open():
                _tell(line, state["run"], guard)
        return facts["denoised"]

    wrappers = comfy.patcher_extension.WrappersMP
    clone.add_wrapper_with_key(wrappers.OUTER_SAMPLE, KEY, whole_run)
    clone.add_wrapper_with_key(wrappers.SAMPLER_SAMPLE, KEY, sampling)
    clone.set_model_sampler_post_cfg_function(listen)
    return clone, record


def _listen(run: Run, guard: Guard, facts: dict[str, Any]) -> None:
    watch = run.watch
    if watch.now is None:
        check_guidance(guard.stored, float(facts["cond_scale"]), facts["uncond"] is not None)
    step = watch.see(facts)
    if step is None:
        return
    if guard.method == "paper" and watch.before is not None and watch.before.step == step - 1:
        _note_first_edits(run, guard, watch.before, facts["input"] / watch.scales[step])
    can_stop = guard.mode == "correct" and guard.method == "recommended" and not run.looked
    if can_stop and watch.angles[step] < WINDOW:
        run.looked = True
        found = judged(run, guard)
        if bool(found[1].all()):
            run.score, run.flagged, run.detector = found
            raise _Enough


def _tell(line: Live, run: Run, guard: Guard) -> None:
    """Show the browser the steps so far. They are on the CPU already: nothing waits for the device."""
    began, watch = time.monotonic(), run.watch
    if watch.now is None or watch.steps > MOST_STEPS:
        return
    observed = {k: _numbers(v[:, :MOST_SAMPLES]) for k, v in watch.observed().items()}
    signals = curves(observed, regions_of(run, guard, observed))
    line.send("step", {"step": watch.now.step, "steps": watch.steps, "signals": signals}, began)


def regions_of(run: Run, guard: Guard, observed: dict[str, Any]) -> dict[str, list[list[float]]]:
    """Mean and standard deviation of clean runs by step, [steps][2], of those observed signals that the profile knows."""
    profile, angles = guard.stored.profile, torch.tensor(run.watch.angles[:-1])
    return {name: torch.stack(region_along(profile, name, angles), 1).tolist() for name in observed if name in profile.mean}


def finish(run: Run, guard: Guard, end: Tensor) -> None:
    """The verdict on a run that reached its end, given the latent it ended with."""
    now = run.watch.now
    if guard.method == "paper" and now is not None and now.step == run.watch.steps - 1:
        call, y = now, end.to(now.z) / run.watch.scales[-1]
        run.watch.finish(end)
        _note_first_edits(run, guard, call, y)
    else:
        run.watch.finish(end)
    run.score, run.flagged, run.detector = judged(run, guard)


def _note_first_edits(run: Run, guard: Guard, call: Call, y: Tensor) -> None:
    """Keep, for each sample, the first step after which the rule would edit it. A step that is seen again (heun) is judged again."""
    profile, watch, t = guard.stored.profile, run.watch, call.step
    observed = watch.observed()
    z_update, z_prediction = (deviation(profile, name, watch.angles[t], observed[name][t]) for name in ("update", "prediction"))
    if run.grades is None:
        run.grades = torch.zeros(watch.steps, len(y), dtype=torch.long)
    before = run.grades[t - 1] if t else run.grades.new_zeros(len(y))
    run.grades[t] = torch.where(before > 0, before, severity(z_update, z_prediction, guard.rule))
    acts = active(run.grades[t], z_update, t, watch.steps, guard.rule)
    for i in range(len(y)):
        known = run.first.get(i)
        if known is not None and known.step != t:
            continue
        run.first.pop(i, None)
        if acts[i]:
            parts = (x[i : i + 1].detach().clone() for x in (call.z, y, call.prediction))
            run.first[i] = step_rule.FirstEdit(t, int(run.grades[t, i]), *parts)


def judged(run: Run, guard: Guard) -> tuple[Tensor, Tensor, str]:
    """Score and verdict of each sample, and the detector: the default one, or the paper's where it is chosen or guidance is off."""
    profile, watch = guard.stored.profile, run.watch
    observed = run.observed = watch.observed()
    if "update" not in observed:
        raise ValueError(
            "This sampler did not evaluate the model at the steps of its schedule, so the stability guard saw nothing. "
            "Use another sampler (euler, dpmpp_2m ...), or set the guard's mode to off."
        )
    angles = torch.tensor(watch.angles[:-1])
    if guard.method == "recommended":
        score = default_score(profile, angles, observed)
        if not torch.isnan(score).all():
            return score, score > guard.limit, "default"
    score = paper_score(profile, angles, observed)
    z = [deviations(profile, name, angles, observed[name]) for name in ("update", "prediction")]
    return score, (severity(*z, guard.rule) > 0).any(0), "paper"


def record_of(run: Run, guard: Guard, result: Tensor) -> dict[str, Any]:
    """What a run left: verdicts, scores, norms and their regions, by step; for the chart and the report."""
    watch, observed = run.watch, run.observed
    return {
        "mode": guard.mode, "method": guard.method, "detector": run.detector, "limit": guard.limit, "rule": vars(guard.rule),
        "memorized": [] if run.flagged is None else run.flagged.tolist(), "scores": _numbers(run.score), "restarted": run.restarted,
        "edited_steps": {str(i): steps for i, steps in run.edits.items()}, "angles": watch.angles, "sigmas": watch.sigmas,
        "observed": {k: _numbers(v) for k, v in observed.items()}, "regions": regions_of(run, guard, observed),
        "warnings": warnings_for(guard.stored, result, guard.sampling), "profile": guard.stored.facts, "marks": marks(result).tolist(),
    }  # fmt: skip


def _numbers(values: Tensor) -> list[Any]:
    """Lists of numbers, [n] or [steps, n]; None where there is none, since JSON has no NaN."""
    if values.ndim > 1:
        return [_numbers(row) for row in values]
    return [v if math.isfinite(v) else None for v in values.tolist()]


def read_record(report: str | None, record: dict[str, Any] | None, latent: dict[str, Any] | None) -> dict[str, Any]:
    """The record of a guarded run, from a report or from the guard's own record; ValueError if there is none that fits."""
    if (report is None) == (record is None):
        raise ValueError("Connect either the report of KSampler (Stability Guard) or the record of Stability Guard, one of the two.")
    if report is not None:
        try:
            found = json.loads(report)
        except json.JSONDecodeError as error:
            raise ValueError(f"The report is not JSON ({error}). Connect the report of KSampler (Stability Guard).") from error
    else:
        found = record
    if not isinstance(found, dict) or (found and "observed" not in found):
        raise ValueError("This is not the report of a guarded run. Connect the report of KSampler (Stability Guard).")
    if not found:
        raise ValueError(
            "No guarded run was recorded: the guard's mode is off, or the guarded MODEL does not go into a sampler that ran before. "
            "Set mode to detect or correct, and connect the sampler's latent to the chart."
        )
    if record is not None and latent is not None and not _fits(found, latent["samples"]):
        raise ValueError(
            "The record belongs to another run than this latent. Connect the latent of the sampler that uses the guarded MODEL."
        )
    return found


def _fits(found: dict[str, Any], samples: Tensor) -> bool:
    theirs, ours = torch.tensor(found["marks"]), marks(samples)
    return theirs.shape == ours.shape and torch.allclose(theirs, ours, rtol=1e-2, atol=1e-2)
