"""Measure curvature maps on a ComfyUI model."""

from __future__ import annotations

from typing import Any

import comfy.utils
import torch
import torch.nn.functional as F
from torch import Tensor

from ..unmemorize.curvature import channel_sum, rademacher, retained_variance_difference
from ..unmemorize.maps import make_map
from .denoising import Denoiser, check_channels, unit_noise, with_denoiser
from .progress import Progress

EVALUATIONS_PER_PROBE = 4
"""Two sides of the central difference, each with and without the prompt."""


def measure_map(
    model: Any, positive: Any, negative: Any, latent: dict[str, Any], sigma: float, probes: int, noises: int, seed: int
) -> dict[str, Any]:
    """dh_0 of every picture of a LATENT by central differences, averaged over noises. Raises ValueError on bad input."""
    samples = latent["samples"]
    _check(model, positive, negative, samples)
    progress = Progress(2 * probes * noises)
    total = torch.zeros(samples.shape[0], *samples.shape[2:])
    levels: list[tuple[float, float]] = []

    def work(denoiser: Denoiser) -> None:
        def difference(x: Tensor) -> Tensor:
            progress.advance()
            conditional, unconditional = denoiser.pair(x)
            return unconditional - conditional

        levels.append((denoiser.level.a, denoiser.level.b))
        for k in range(noises):
            x = denoiser.noised(unit_noise(samples, seed + k))
            probe = rademacher((1, *samples.shape[1:]), probes, seed + 10_000 * (k + 1))
            total.add_(channel_sum(retained_variance_difference(difference, x, denoiser.level, probe)).cpu() / noises)

    with_denoiser(model, positive, negative, samples, sigma, seed, work)
    values = total * _noise_mask(latent, total.shape)
    a, b = levels[0]
    settings = {
        "method": "dh_0",
        "estimator": "central difference",
        "sigma": sigma,
        "a": a,
        "b": b,
        "probes": probes,
        "noises": noises,
        "seed": seed,
        "evaluations": EVALUATIONS_PER_PROBE * probes * noises,
    }
    return make_map(values, samples.shape[1], settings)


def _check(model: Any, positive: Any, negative: Any, samples: Tensor) -> None:
    if not negative:
        raise ValueError(
            "The map compares the prompt with the empty prompt, but nothing is connected to `negative`. "
            "Connect a CLIP Text Encode without text."
        )
    if not positive:
        raise ValueError("`positive` is empty. Connect the CLIP Text Encode of the prompt the picture was made with.")
    if samples.ndim != 4:
        raise ValueError(f"Only picture latents can be mapped so far, this one has {samples.ndim} dimensions (video, audio?).")
    check_channels(model, samples)
    if not torch.isfinite(samples).all():
        raise ValueError(
            "The latent holds values that are not numbers (NaN or infinite): the run that made it failed. Check its VAE and precision."
        )


def _noise_mask(latent: dict[str, Any], shape: torch.Size) -> Tensor:
    """What an inpainting latent left untouched was not generated: it counts as zero. [n, h, w] or 1."""
    mask = latent.get("noise_mask")
    if mask is None:
        return torch.ones(())
    resized = F.interpolate(mask.reshape(-1, 1, *mask.shape[-2:]).float(), size=shape[1:], mode="bilinear")[:, 0]
    return (comfy.utils.repeat_to_batch_size(resized, shape[0]) > 0.5).float()
