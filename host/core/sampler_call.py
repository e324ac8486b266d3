"""What ComfyUI calls a sampler with, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .noise import noise_level


@dataclass(frozen=True)
class SamplerCall:
    """What ComfyUI's samplers are called with."""

    sampler: Any
    guider: Any
    sigmas: Tensor
    extra_args: dict[str, Any]
    callback: Callable[..., None] | None
    noise: Tensor
    latent: Tensor
    mask: Tensor | None


def arguments_of(
    sampler: Any, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor,
    latent_image: Tensor | None = None, denoise_mask: Tensor | None = None, disable_pbar: bool = False, **_: Any,
) -> SamplerCall:  # fmt: skip
    """The arguments of comfy.samplers.Sampler.sample, by name."""
    latent = torch.zeros_like(noise) if latent_image is None else latent_image
    return SamplerCall(sampler, guider, sigmas, extra_args, callback, noise, latent, denoise_mask)


def end_of(model_sampling: Any, result: Tensor, sigmas: Tensor) -> Tensor:
    """The latent a sampler ended with, before `inverse_noise_scaling`: flow models divide it by a."""
    end = noise_level(model_sampling, float(sigmas[-1]))
    return result * (end.a if not math.isclose(end.a, 0.0) else 1.0)


@dataclass(frozen=True)
class RunCall:
    """What ComfyUI's guiders are asked for a whole run with, around the sampler: latents as nodes see them."""

    guider: Any
    noise: Tensor
    latent: Tensor
    sampler: Any
    sigmas: Tensor
    mask: Tensor | None
    callback: Callable[..., None] | None
    disable_pbar: bool
    seed: int | None


def run_arguments_of(
    guider: Any, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, denoise_mask: Tensor | None = None,
    callback: Any = None, disable_pbar: bool = False, seed: int | None = None, **_: Any,
) -> RunCall:  # fmt: skip
    """The arguments of comfy.samplers.CFGGuider.outer_sample, by name."""
    return RunCall(guider, noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed)
