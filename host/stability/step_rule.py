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
from ..core.sampler_call import SamplerCall, end_of
from ..core.seeds import derived_seed
from .watching import Watch


@dataclass(frozen=True)
class FirstEdit:
    """Where a sample leaves its region: step, and in VP coordinates the latent before it, the one proposed after it, x0_hat; [1, ...]."""

    step: int
    grade: int
    z: Tensor
    y: Tensor
    prediction: Tensor


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

    options = s.extra_args["model_options"]
    listening = {**options, "sampler_post_cfg_function": [*options.get("sampler_post_cfg_function", []), hear]}
    # a seed of its own for each step: samplers that add noise would add the same one every time
    arguments = {**s.extra_args, "model_options": listening, "seed": derived_seed("step", int(s.extra_args.get("seed") or 0), step)}
    latent = one(s.latent, i, n)
    level = noise_level(s.guider.inner_model.model_sampling, float(sigmas[0]))
    noise = (watch.scales[step] * z - level.a * latent) / level.b
    result = single_step_sampler(s.sampler).sample(
        s.guider, sigmas, arguments, _shifted(s.callback, step, watch.steps), noise, latent, one(s.mask, i, n), True
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
