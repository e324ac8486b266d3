"""The paper's correction: a sample goes on alone from its first edit, one step of the schedule at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.extra_samplers.uni_pc
import comfy.samplers
import torch
from torch import Tensor

from ...unmemorize.stability.profile import Profile, deviation, region_at
from ...unmemorize.stability.rule import Rule, active, corrected, renoised, renormalised_guidance, severity
from ...unmemorize.stability.signals import rms
from ..core.noise import noise_level
from ..core.one_sample import one, prompts_of_one
from ..core.sampler_call import DRAWN_AGAIN, SamplerCall, callback_of_one, end_of, with_schedule
from ..core.seeds import derived_seed
from .strategies import Correction
from .watching import Call, Watch


@dataclass(frozen=True)
class StepRule:
    """Edit flagged samples step by step, from the first step at which they leave their region."""

    profile: Profile
    rule: Rule
    redraws = False
    same_prompt = False

    def obstacle(self, guider: Any, _sigmas: Tensor) -> str:
        """It edits latents, whatever the guider is."""
        return ""

    def begin(self, watch: Watch) -> Correction:
        """Where each sample would be edited first is noted while the run goes on."""
        return _Editing(self.profile, self.rule, watch)


@dataclass(frozen=True)
class FirstEdit:
    """Where a sample leaves its region: step, and in VP coordinates the latent before it, the one proposed after it, x0_hat; [1, ...]."""

    step: int
    grade: int
    z: Tensor
    y: Tensor
    prediction: Tensor


class _Editing(Correction):
    def __init__(self, profile: Profile, rule: Rule, watch: Watch) -> None:
        super().__init__()
        self._profile, self._rule, self._watch = profile, rule, watch
        self._grades: Tensor | None = None
        """Severity of the first departure so far, [steps, n]."""
        self._first: dict[int, FirstEdit] = {}

    def saw(self, call: Call, proposed: Tensor) -> None:
        """Keep, for each sample, the first step after which the rule would edit it. A step seen again (heun) is judged again."""
        profile, rule, watch, t = self._profile, self._rule, self._watch, call.step
        observed = watch.observed()
        z_update, z_prediction = (deviation(profile, name, watch.angles[t], observed[name][t]) for name in ("update", "prediction"))
        n = len(proposed)
        if self._grades is None:
            self._grades = torch.zeros(watch.steps, n, dtype=torch.long)
        before = self._grades[t - 1] if t else self._grades.new_zeros(n)
        self._grades[t] = torch.where(before > 0, before, severity(z_update, z_prediction, rule))
        acts = active(self._grades[t], z_update, t, watch.steps, rule)
        for i in range(n):
            known = self._first.get(i)
            if known is not None and known.step != t:
                continue
            self._first.pop(i, None)
            if acts[i]:
                parts = (x[i : i + 1].detach().clone() for x in (call.z, proposed, call.prediction))
                self._first[i] = FirstEdit(t, int(self._grades[t, i]), *parts)

    def within(self, call: SamplerCall, result: Tensor) -> Tensor:
        """`result` with each noted sample replaced by its edited run; the others keep their bits."""
        if not self._first:
            return result
        result = result.clone()
        for i, first in self._first.items():
            result[i : i + 1], self.edited[i] = step_by_step(call, self._watch, first, i, len(result), self._profile, self._rule)
        return result


def step_by_step(s: SamplerCall, watch: Watch, first: FirstEdit, i: int, n: int, profile: Profile, rule: Rule) -> tuple[Tensor, list[int]]:
    """Sample i of n from its first edit to the end, [1, c, ...] as a sampler returns it, and the steps that were edited."""
    step, grade, z, y, prediction = first.step, first.grade, first.z, first.y, first.prediction
    region = one(watch.region, i, n)
    edited: list[int] = []
    with prompts_of_one(s.guider, i, n):
        while True:
            covered = watch.angles[step] - watch.angles[step + 1]
            z_update = deviation(profile, "update", watch.angles[step], rms(y - z, region).cpu() / max(covered, 1e-6))
            z_prediction = deviation(profile, "prediction", watch.angles[step], rms(prediction, region).cpu())
            grade = grade or int(severity(z_update, z_prediction, rule))
            acts = bool(active(torch.tensor([grade]), z_update, step, watch.steps, rule)) and not (rule.renoise and edited)
            if acts:
                y = _edited(z, y, prediction, watch, step, grade, profile, rule, region, int(s.extra_args.get("seed") or 0))
                edited.append(step)
            step += 1
            if step == watch.steps:
                end = watch.scales[step] * y
                return s.guider.inner_model.model_sampling.inverse_noise_scaling(s.sigmas[-1], end), edited
            z = y
            mean = (
                region_at(profile, "guidance", watch.angles[step])[0]
                if acts and rule.renormalise_guidance and "guidance" in profile.mean
                else None
            )
            y, prediction = _one_step(s, watch, step, z, i, n, mean)


def _edited(
    z: Tensor,
    y: Tensor,
    prediction: Tensor,
    watch: Watch,
    step: int,
    grade: int,
    profile: Profile,
    rule: Rule,
    region: Tensor | None,
    seed: int,
) -> Tensor:
    if rule.renoise:
        generator = torch.Generator().manual_seed(derived_seed("renoise", seed, step))
        return renoised(prediction, torch.randn(y.shape, generator=generator).to(y), watch.angles[step + 1], profile)
    return corrected(z, y, prediction, watch.angles[step], watch.angles[step + 1], torch.tensor([grade]), profile, rule, region)


def _one_step(s: SamplerCall, watch: Watch, step: int, z: Tensor, i: int, n: int, guidance_norm: float | None) -> tuple[Tensor, Tensor]:
    """One step of the schedule from z by the user's sampler: the proposed latent and the first D, VP coordinates."""
    sigmas = s.sigmas[step : step + 2]
    heard: list[Tensor] = []

    def hear(facts: dict[str, Any]) -> Tensor:
        denoised = facts["denoised"]
        if guidance_norm is not None and facts["uncond"] is not None:
            difference = renormalised_guidance(facts["cond_denoised"], facts["uncond_denoised"], guidance_norm)
            denoised = facts["uncond_denoised"] + facts["cond_scale"] * difference
        heard.append(denoised)
        return denoised

    options = with_schedule(s.extra_args["model_options"], s.sigmas)
    listening = {**options, DRAWN_AGAIN: True, "sampler_post_cfg_function": [*options.get("sampler_post_cfg_function", []), hear]}
    # a seed of its own for each step: samplers that add noise would add the same one every time
    arguments = {**s.extra_args, "model_options": listening, "seed": derived_seed("step", int(s.extra_args.get("seed") or 0), step)}
    latent = one(s.latent, i, n)
    level = noise_level(s.guider.inner_model.model_sampling, float(sigmas[0]))
    noise = (watch.scales[step] * z - level.a * latent) / level.b
    result = single_step_sampler(s.sampler).sample(
        s.guider, sigmas, arguments, _shifted(callback_of_one(s.callback, i), step, watch.steps), noise, latent, one(s.mask, i, n), True
    )
    return end_of(s.guider.inner_model.model_sampling, result, sigmas) / watch.scales[step + 1], heard[0]


def _shifted(callback: Callable[..., None] | None, step: int, steps: int) -> Callable[..., None] | None:
    if callback is None:
        return None
    return lambda i, x0, x, _total: callback(step + i, x0, x, steps)


def single_step_sampler(sampler: Any) -> Any:
    """The sampler itself, or euler for those that cannot take a single step (uni_pc, dpm_fast, dpm_adaptive)."""
    function = getattr(sampler, "sampler_function", None)
    uni_pc = comfy.extra_samplers.uni_pc
    if function in (uni_pc.sample_unipc, uni_pc.sample_unipc_bh2) or getattr(function, "__name__", "") in (
        "dpm_fast_function",
        "dpm_adaptive_function",
    ):
        return comfy.samplers.ksampler("euler")
    return sampler
