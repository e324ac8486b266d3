"""Run control of the stability guard: watches the runs of a MODEL, asks for a verdict, lets a strategy correct.

The stock sampler runs untouched. A sample that is flagged is corrected alone; its neighbours keep their bits.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import replace
from typing import Any

import comfy.model_patcher
import comfy.patcher_extension
import comfy.sampler_helpers
import torch
from torch import Tensor

from ...unmemorize.pictures.views import guard_view
from ...unmemorize.stability.agreement import EARLY
from ...unmemorize.stability.profile import WINDOW
from ..core.guiders import cached, hooked_loras, other_prompts
from ..core.hooks import as_function
from ..core.identity import identity
from ..core.influences import distilled_guidance
from ..core.latents import is_empty, marks
from ..core.noise import NEARLY, noise_level
from ..core.one_sample import call_of_one
from ..core.sampler_call import (
    DRAWN_AGAIN,
    RECORDING,
    BatchCallback,
    RunCall,
    SamplerCall,
    arguments_of,
    end_of,
    run_arguments_of,
    with_callback,
)
from .live_view import live
from .lora_watch import Lora, note_agreement
from .methods import Guard, lora_of, redrawing, strategy_of
from .profiles import report as profile_report
from .records import Record, numbers, so_far
from .restart import Phase, Restart, restarted
from .runs import Run, Stage
from .strategies import Correction, Draw, Look, Redrawing, compared_with, looks_of, of_redrawn
from .trial import acquitted
from .verdicts import Verdict, regions_of
from .watching import Watch, counted, new_watch

KEY = "unmemorize_stability_guard"
PACKED = "Only runs of single pictures can be judged so far: this one samples several kinds of latents at once (video and audio)."
UNWATCHED = (
    "What a LoRA (or another patch) adds to this checkpoint was not watched: its copies look like ordinary runs here. Connect the model "
    "before the LoRA as parent, with the recommended method, or ask LoRA Leak Probe."
)
ACQUITTED = (
    "Picture {} of the batch (counted from 0) looked like a memory of the LoRA's at first. Drawn on trial without what the LoRA makes of "
    "this prompt alone it hardly changed: it is no memory of the LoRA's."
)
UNTRIED = "Whether a picture would be drawn without the LoRA's answer too could not be tried, so that the limit alone decides: "
MOST_STAGES = 8
LEAST_NOISE = 0.5
"""Of a latent at the beginning of a run, in VP coordinates: pure noise has 1."""
HIGHEST = 1.55
"""Angles from here up (radians; sigma 48) are one level: nothing is left of a picture there."""


def guarded(model: Any, guard: Guard) -> tuple[Any, Record]:
    """A clone of MODEL under guard, and the record of its runs. Mode off: the model itself, a record that stays empty."""
    if guard.mode == "off":
        return model, Record()
    control, clone = _Control(guard, lora_of(guard, model)), model.clone()
    wrappers = comfy.patcher_extension.WrappersMP
    clone.add_wrapper_with_key(wrappers.OUTER_SAMPLE, KEY, as_function(control.whole_run))
    clone.add_wrapper_with_key(wrappers.SAMPLER_SAMPLE, KEY, as_function(control.sampling))
    clone.set_model_sampler_post_cfg_function(as_function(control.listen))
    return clone, control.record


class _Enough(Exception):
    """Every sample of the batch is flagged and will be drawn again: the rest of this run is not needed."""

    def __init__(self, owner: _Control) -> None:
        super().__init__()
        self.owner = owner


class _Control:
    """Who acts when in the runs of one guarded model. A run that samples inside another (a restart) passes unwatched."""

    def __init__(self, guard: Guard, lora: Lora | None) -> None:
        self.record = Record()
        self._guard, self._lora, self._line = guard, lora, live()
        self._strategy = strategy_of(guard, lora) if guard.mode == "correct" else None
        self._run: Run | None = None
        self._stages: list[Stage] = []
        """The last ones that stopped on the way, for samplers that go on: again and again, if that is what the user does."""
        self._before: Stage | None = None
        self._inside = False
        """A whole run is going on."""
        self._correcting = False
        self._packed = False
        """Are several latents of different kinds sampled as one?"""

    def whole_run(self, executor: Any, *arguments: Any, **more: Any) -> Tensor:
        """Around everything: the run is watched, corrected if need be, recorded."""
        if self._inside or executor.class_obj.model_options.get(DRAWN_AGAIN, False):
            return executor(*arguments, **more)
        self._inside = True
        call = run_arguments_of(executor.class_obj, *arguments, **more)
        self._packed = call.packed
        if self._strategy is not None:
            call = replace(call, callback=BatchCallback(call.callback))
            arguments, more = with_callback(arguments, more, call.callback)
        self._before = next((stage for stage in reversed(self._stages) if stage.goes_on_in(call)), None)
        try:
            result = executor(*arguments, **more)
            run, self._run = self._run, None
            if run is not None and run.verdict is not None:
                self._compare(run, result, call)
                result = self._corrected(run, run.verdict, result, call)
                self._finish(run, run.verdict, result, call)
            return result
        finally:
            self._inside = self._correcting = False
            self._run = self._before = None

    def _compare(self, run: Run, result: Tensor, call: RunCall) -> None:
        """Ask the model before the LoRA about the run that has ended, unless it ended early because all of it is flagged anyway; what is
        flagged so is tried."""
        if self._lora is None or run.cut:
            return
        if run.watch.obstacle:  # there is no verdict, whatever the models would say
            run.watch.kept.clear()
            return
        self._correcting = True
        trouble = note_agreement(run.watch, self._lora, call)
        if run.before is not None and run.before.watch.agreements:
            trouble = ""  # the first steps were those of an earlier stage
        run.watch.kept.clear()
        run.verdict = verdict = self._guard.judge(run.whole, self._lora, trouble)
        suspected = verdict.by_lora is not None and bool(verdict.by_lora.any())
        run.untried = run.held_by(call) if suspected else ""
        if verdict.by_lora is not None and suspected and not run.untried:
            self._line.send("trial", {"samples": torch.nonzero(verdict.by_lora).flatten().tolist()})
            run.acquitted, run.untried = acquitted(call, self._lora, verdict.by_lora, result, run.watch.region)
            run.verdict = self._guard.judge(run.whole, self._lora, trouble, run.acquitted)
        self._correcting = False

    def _corrected(self, run: Run, verdict: Verdict, result: Tensor, call: RunCall) -> Tensor:
        if run.correction is None or not bool(verdict.flagged.any()):
            return result
        self._correcting = True
        if self._redraws():
            self._line.send("restart", {"samples": torch.nonzero(verdict.flagged).flatten().tolist()})
        if isinstance(run.correction, Redrawing) and run.correction.look is None:
            run.correction.look = compared_with(run.first(result, call), run.watch.region)
        if self._lora is None or self._guard.strategy is not None:
            result = run.correction.after(call, verdict.flagged, result)
            return self._to_the_end(run, call, result)
        by_lora = torch.zeros_like(verdict.flagged) if verdict.by_lora is None else verdict.by_lora
        result = run.correction.after(call, verdict.flagged & by_lora, result)
        return self._without_lora(run, call, verdict.flagged & ~by_lora, result)

    def _to_the_end(self, run: Run, call: RunCall, result: Tensor) -> Tensor:
        """Samples that could not be drawn again, of a run that ended early since they were to be: drawn as it would have gone on."""
        if run.cut and run.correction is not None:
            for i in run.correction.broken:
                result[i : i + 1] = restarted(call_of_one(call, i, len(call.noise)), Restart((Phase(1.0),)))
        return result

    def _without_lora(self, run: Run, call: RunCall, flagged: Tensor, result: Tensor) -> Tensor:
        """The model's own memories, which the model before the LoRA would draw as well, are corrected without it."""
        other = redrawing(self._guard, None)
        if not bool(flagged.any()):
            return result
        obstacle = other.obstacle(call.guider, call.sigmas)
        if obstacle:
            run.remark = obstacle
            return result
        without, correction = other.begin(run.watch), run.correction or Correction()
        if isinstance(without, Redrawing):
            without.look = compared_with(run.first(result, call), run.watch.region)
        result = without.after(call, flagged, result)
        correction.restarted = sorted([*correction.restarted, *without.restarted])
        correction.unchanged = sorted([*correction.unchanged, *without.unchanged])
        correction.broken = sorted([*correction.broken, *without.broken])
        if isinstance(without, Redrawing) and isinstance(correction, Redrawing):
            correction.looks |= without.looks
        return result

    def _finish(self, run: Run, verdict: Verdict, result: Tensor, call: RunCall) -> None:
        if run.watch.sigmas[-1] > 0:
            stage = Stage(run.whole, marks(result), not any(verdict.not_judged), run.firsts(call))
            self._stages = [*self._stages, stage][-MOST_STAGES:]
        self.record.facts = facts_of(self._guard, self._lora, run, verdict, result, identity(call.guider.model_patcher))
        self._line.send("done", {"view": guard_view(self.record.facts)})

    def sampling(self, executor: Any, *arguments: Any, **more: Any) -> Tensor:
        """Around the sampler: its steps belong to one run."""
        call = arguments_of(executor.class_obj, *arguments, **more)
        if self._run is not None or self._correcting or len(call.sigmas) < 2:
            return executor(*arguments, **more)
        watch = new_watch(call.guider.inner_model.model_sampling, call.sigmas, call.mask, shape=tuple(call.noise.shape))
        watch.keeps_from = math.inf if self._lora is None else EARLY
        watch.obstacle = (
            (PACKED if self._packed else "") or cached(call.guider) or other_prompts(call.guider) or self._unseen_beginning(call)
        )
        watch.other_beginning = self._later_beginning(call, watch) or self._guard.other_influences(call.guider)
        obstacle = "" if self._strategy is None else self._strategy.obstacle(call.guider, call.sigmas)
        correction = None if self._strategy is None or obstacle else self._strategy.begin(watch)
        judgeable = self._lora is None and not (self._before is not None and self._before.first)
        if isinstance(correction, Redrawing) and judgeable and self._strategy is not None and self._strategy.same_prompt:
            correction.look = self._look
        run = self._run = Run(
            watch, correction, self._before, remark=obstacle, hooked=hooked_loras(getattr(call.guider, "original_conds", {}))
        )
        arguments, more = counted(watch, arguments, more)
        try:
            result = executor(*arguments, **more)
        except _Enough as enough:
            if enough.owner is not self:
                raise
            return torch.zeros_like(call.noise)
        return self._finished(run, call, result)

    def _look(self, call: RunCall, draw: Draw, _sample: int) -> tuple[Tensor, Look]:
        """A picture drawn again with the same words by the same model, and judged as its first run was."""
        model_sampling, noise = call.guider.model_patcher.get_model_object("model_sampling"), call.noise
        mask = None if call.mask is None else comfy.sampler_helpers.prepare_mask(call.mask, noise.shape, noise.device)
        watch = new_watch(model_sampling, call.sigmas, mask, shape=tuple(noise.shape))

        def see(facts: dict[str, Any]) -> Tensor:
            if not facts["model_options"].get(RECORDING, False):
                self._note_guidance(watch, facts)
                watch.see(facts)
            return facts["denoised"]

        guider = copy.copy(call.guider)
        options = comfy.model_patcher.create_model_options_clone(guider.model_options)
        guider.model_options = comfy.model_patcher.set_model_options_post_cfg_function(options, as_function(see))
        latent = draw(replace(call, guider=guider))
        found = self._guard.judge(watch if self._before is None else self._before.watch.followed_by(watch))
        known = not found.not_judged[0]
        return latent, Look(float(found.score[0]) if known else math.nan, bool(found.flagged[0]) if known else None)

    def _unseen_beginning(self, call: SamplerCall) -> str:
        """Why a run without noise of its own cannot be judged, in words: it goes on from steps that nobody watched, or from none."""
        if self._before is not None or bool(call.noise.any()):
            return ""
        model_sampling, sigma = call.guider.inner_model.model_sampling, float(call.sigmas[0])
        if sigma < NEARLY * float(model_sampling.sigma_max):
            return (
                f"The run goes on at noise level {sigma:.3g} from a latent whose first steps were not watched. Let one guarded MODEL go "
                "into all samplers of the picture."
            )
        level = noise_level(model_sampling, sigma)
        if level.a * float(call.latent.float().square().mean().sqrt()) >= LEAST_NOISE * math.hypot(level.a, level.b):
            return ""  # noise that another node has put into the latent
        return "The run begins without any noise, so that nothing in it is as in an ordinary one. Let noise be added."

    def _later_beginning(self, call: SamplerCall, watch: Watch) -> str:
        """Why a profile of runs from pure noise says nothing of a picture that is drawn over another one, in words."""
        profile = self._guard.profile
        if profile is None or self._before is not None:
            return ""
        began = math.tan(min(float(profile.angles.max()), HIGHEST))  # some schedules begin below the highest level
        if is_empty(call.latent) or math.tan(min(watch.angles[0], HIGHEST)) >= NEARLY * began:
            return ""
        return (
            f"The run begins at noise level {float(call.sigmas[0]):.3g}, from a picture (denoise below 1): what is drawn is sure "
            "from the start, as a memory is. The profile was measured from pure noise."
        )

    def _finished(self, run: Run, call: SamplerCall, result: Tensor) -> Tensor:
        watch, correction = run.watch, run.correction
        last, end = watch.now, end_of(call.guider.inner_model.model_sampling, result, call.sigmas)
        watch.finish(end)
        run.last = None if last is None else last.prediction
        if correction is not None and last is not None and last.step == watch.steps - 1:
            correction.saw(last, end.to(last.z) / watch.scales[-1])
        run.verdict = self._guard.judge(run.whole, self._lora)
        return result if correction is None or not bool(run.verdict.flagged.any()) else correction.within(call, result)

    def listen(self, facts: dict[str, Any]) -> Tensor:
        """After each call of the guided model."""
        run = self._run
        if run is not None and run.verdict is None and not facts["model_options"].get(DRAWN_AGAIN, False):
            self._step(run, facts)
            if self._line.open():
                began = time.monotonic()
                view = so_far(run.watch, self._guard.profile)
                if view is not None:
                    self._line.send("step", view, began)
        return facts["denoised"]

    def _note_guidance(self, watch: Watch, facts: dict[str, Any]) -> None:
        """A profile serves its own guidance, also that which a distilled model is told."""
        if facts["uncond"] is not None:
            watch.other_guidance = watch.other_guidance or self._guard.other_guidance(float(facts["cond_scale"]))
        told = distilled_guidance(facts["model"].diffusion_model, facts["cond"])
        watch.other_guidance = watch.other_guidance or self._guard.other_distilled(told)

    def _redraws(self) -> bool:
        return self._strategy is not None and self._strategy.redraws

    def _step(self, run: Run, facts: dict[str, Any]) -> None:
        watch, correction = run.watch, run.correction
        self._note_guidance(watch, facts)
        step = watch.see(facts)
        if step is None or correction is None or watch.now is None:
            return
        if watch.before is not None and watch.before.step == step - 1:
            correction.saw(watch.before, watch.now.z)
        alone = len(facts["model_options"].get("sampler_post_cfg_function", ())) == 1  # others that listen get the whole run
        whole = self._lora is not None  # whose memory it is, is asked when the run has ended
        if self._redraws() and alone and not whole and not run.looked and watch.angles[step] < WINDOW:
            run.looked = True
            verdict = self._guard.judge(run.whole, self._lora)
            if bool(verdict.flagged.all()):
                run.verdict, run.cut, run.last = verdict, True, watch.now.prediction
                raise _Enough(self)


def facts_of(guard: Guard, lora: Lora | None, run: Run, verdict: Verdict, result: Tensor, here: dict[str, str]) -> dict[str, Any]:
    """What a run left: verdicts, scores, norms and their regions, by step; for the chart and the report. JSON-able."""
    observed, watch = {k: numbers(v) for k, v in verdict.observed.items()}, run.whole
    done, earlier = run.correction or Correction(), watch.steps - run.watch.steps
    remarks = [run.remark] if run.remark and bool(verdict.flagged.any()) else []
    if run.before is not None:
        remarks.append("This picture was sampled in several stages. They are judged as one run.")
        if (done.restarted or done.unchanged) and not run.before.judged:
            remarks.append("Only the last stage could be drawn again: before it, there was no verdict yet.")
    if run.acquitted:
        remarks.append(ACQUITTED.format(", ".join(map(str, run.acquitted))))
    remarks += [UNTRIED + run.untried] if run.untried else []
    looks = looks_of(done)
    remarks += of_redrawn(done, looks, guard.parent is not None or guard.alternatives is not None)
    unwatched = (lora is None and bool(here["patches"])) or run.hooked
    remarks += [UNWATCHED] if unwatched else []
    return {
        "mode": guard.mode, "method": guard.method, "detector": verdict.detector, "limit": guard.limit, "rule": vars(guard.rule),
        "memorized": verdict.flagged.tolist(), "not_judged": verdict.not_judged, "scores": numbers(verdict.score),
        "unwatched": unwatched,
        "acquitted": {str(i): round(alike, 4) for i, alike in run.acquitted.items()}, "restarted": done.restarted, "redrawn": looks,
        "edited_steps": {str(i): [step + earlier for step in steps] for i, steps in done.edited.items()},
        "angles": watch.angles, "sigmas": watch.sigmas,
        "observed": observed, "regions": regions_of(watch, guard.profile, observed, lora.region if lora else None),
        "warnings": [*remarks, *guard.warnings(result, here), *(lora.warnings() if lora else [])],
        "profile": None if guard.stored is None else profile_report(guard.stored),
        "marks": marks(result).tolist(),
    }  # fmt: skip
