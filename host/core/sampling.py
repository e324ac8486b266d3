"""ComfyUI's own samplers, called from Python: prompts, settings and pictures as a graph makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.sample
import comfy.samplers
import torch

import nodes

from .settings import check_range, check_sampling


def samplers() -> list[str]:
    """ComfyUI's samplers, by name."""
    return list(comfy.samplers.KSampler.SAMPLERS)


def schedulers() -> list[str]:
    """ComfyUI's schedulers, by name."""
    return list(comfy.samplers.KSampler.SCHEDULERS)


def draw(
    model: Any, positive: Any, negative: Any, latent: dict[str, Any], use: dict[str, Any], on_step: Callable[[], None] | None = None
) -> torch.Tensor:
    """A LATENT sampled as KSampler does it, all samples of the batch; `use`: seed, steps, cfg, sampler_name, scheduler.

    With `last_step`, sampling stops before that step and leaves its noise. ValueError on settings that ComfyUI does not have.
    """
    check_sampling(use)
    ratios = {k: latent[k] for k in ("downscale_ratio_spacial", "downscale_ratio_temporal") if k in latent}  # ComfyUI 0.33's empties
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"], **ratios)
    return comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(samples, use["seed"]),
        use["steps"],
        use["cfg"],
        use["sampler_name"],
        use["scheduler"],
        positive,
        negative,
        samples,
        last_step=use.get("last_step"),
        noise_mask=latent.get("noise_mask"),
        callback=None if on_step is None else lambda *_: on_step(),
        disable_pbar=True,
        seed=use["seed"],
    )


def ksampler(
    model: Any, seed: int, use: dict[str, Any], positive: Any, negative: Any, latent: dict[str, Any], denoise: float
) -> dict[str, Any]:
    """The running ComfyUI's own KSampler, with its previews and all it does; `use`: steps, cfg, sampler_name, scheduler."""
    check_sampling(use)
    check_range("denoise", denoise, 0, 1)
    settings = (use["steps"], use["cfg"], use["sampler_name"], use["scheduler"])
    return nodes.common_ksampler(  # type: ignore[attr-defined]
        model, seed, *settings, positive, negative, latent, denoise=denoise
    )[0]
