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


RATIOS = ("downscale_ratio_spacial", "downscale_ratio_temporal")
"""Of a LATENT: what ComfyUI 0.33's empty ones were made for."""


def fitted(model: Any, latent: dict[str, Any]) -> dict[str, Any]:
    """A LATENT as a model draws it: an empty one gets its channels and, on ComfyUI 0.33, its size; fitted again it stays as it is."""
    ratios = {k: latent[k] for k in RATIOS if k in latent}
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"], **ratios)
    return {**{k: v for k, v in latent.items() if k not in RATIOS}, "samples": samples}


def first_of(model: Any, latent: dict[str, Any]) -> dict[str, Any]:
    """The first sample of a LATENT, fitted; it keeps its own place in the noise of a batch that it was cut out of."""
    index = {"batch_index": latent["batch_index"][:1]} if latent.get("batch_index") is not None else {}
    return fitted(model, {**latent, **index, "samples": latent["samples"][:1]})


def empty_of(model: Any, latent: dict[str, Any]) -> torch.Tensor:
    """An empty latent of one picture [1, c, ...], of a LATENT's size, as a model draws it."""
    samples: torch.Tensor = fitted(model, {**latent, "samples": torch.zeros_like(latent["samples"][:1])})["samples"]
    return samples


def draw(
    model: Any, positive: Any, negative: Any, latent: dict[str, Any], use: dict[str, Any], on_step: Callable[[], None] | None = None
) -> torch.Tensor:
    """A LATENT sampled as KSampler does it, all samples of the batch; `use`: seed, steps, cfg, sampler_name, scheduler.

    With `last_step`, sampling stops before that step and leaves its noise. ValueError on settings that ComfyUI does not have.
    """
    check_sampling(use)
    samples = fitted(model, latent)["samples"]
    return comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(samples, use["seed"], latent.get("batch_index")),
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
