"""Measure curvature maps on a ComfyUI model."""

from __future__ import annotations

from typing import Any

import comfy.utils
import torch
import torch.nn.functional as F
from torch import Tensor

from ..unmemorize.curvature import channel_sum, probe_step, rademacher, retained_variance_difference
from ..unmemorize.maps import make_map
from .denoising import Denoiser, check_channels, derived_seed, unit_noise, with_denoiser
from .progress import Progress

EVALUATIONS_PER_PROBE = 4
"""Two sides of the central difference, each with and without the prompt."""


def measure_map(
    model: Any, positive: Any, negative: Any, latent: dict[str, Any], sigma: float, probes: int, noises: int, seed: int
) -> dict[str, Any]:
    """dh_0 of every picture of a LATENT by central differences, averaged over noises. Raises ValueError on bad input."""
    samples = latent["samples"]
    _check(model, positive, negative, samples, probes, noises)
    progress = Progress(2 * probes * noises)
    total = torch.zeros(samples.shape[0], *samples.shape[2:])
    facts: dict[str, Any] = {}

    def work(denoiser: Denoiser) -> None:
        def difference(x: Tensor) -> Tensor:
            progress.advance()
            conditional, unconditional = denoiser.pair(x)
            return unconditional - conditional

        level = denoiser.level
        for k in range(noises):
            x = denoiser.noised(unit_noise(samples, derived_seed("noise", seed, k)))
            step = probe_step(x, level, denoiser.compute_dtype)
            probe = rademacher((1, *samples.shape[1:]), probes, derived_seed("probe", seed, k))
            total.add_(channel_sum(retained_variance_difference(difference, x, level, probe, step)).cpu() / noises)
        facts.update(a=level.a, b=level.b, step=step, dtype=str(denoiser.compute_dtype).removeprefix("torch."))

    with_denoiser(model, positive, negative, latent, sigma, seed, work)
    if not torch.isfinite(total).all():
        raise ValueError(
            f"The model returned values that are not numbers (NaN or infinite) at sigma {sigma:g}. Start ComfyUI with --force-fp32, "
            "or choose a larger sigma."
        )
    settings = {
        "method": "dh_0", "estimator": "central difference", "sigma": sigma, **facts, "probes": probes, "noises": noises,
        "seed": seed, "evaluations": EVALUATIONS_PER_PROBE * probes * noises,
    }  # fmt: skip
    values = total if total.ndim == 3 else total[:, 0]
    return make_map(values, samples.shape[1], settings, _generated(latent, values.shape))


def _check(model: Any, positive: Any, negative: Any, samples: Tensor, probes: int, noises: int) -> None:
    if not negative:
        raise ValueError(
            "The map compares the prompt with the empty prompt, but nothing is connected to `negative`. "
            "Connect a CLIP Text Encode without text."
        )
    if not positive:
        raise ValueError("`positive` is empty. Connect the CLIP Text Encode of the prompt the picture was made with.")
    if probes < 1 or noises < 1:
        raise ValueError(f"At least one probe and one noise are needed (probes = {probes}, noises = {noises}).")
    is_picture = samples.ndim == 4 or (samples.ndim == 5 and samples.shape[2] == 1)
    if not is_picture:
        raise ValueError(
            f"Only latents of single pictures can be mapped so far, not of video or audio: this one has the shape {tuple(samples.shape)}."
        )
    check_channels(model, samples)
    if not torch.isfinite(samples).all():
        raise ValueError(
            "The latent holds values that are not numbers (NaN or infinite): the run that made it failed. Check its VAE and precision."
        )


def _generated(latent: dict[str, Any], shape: torch.Size) -> Tensor | None:
    """[n, h, w] of 0 and 1: what an inpainting latent left untouched was not generated. None without a mask."""
    mask = latent.get("noise_mask")
    if mask is None:
        return None
    resized = F.interpolate(mask.reshape(-1, 1, *mask.shape[-2:]).float().cpu(), size=shape[1:], mode="bilinear")[:, 0]
    return (comfy.utils.repeat_to_batch_size(resized, shape[0]) > 0.5).float()
