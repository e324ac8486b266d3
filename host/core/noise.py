"""Noise levels of ComfyUI's models: the model's own sigma, and a and b of x = a x0 + b eps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...unmemorize.core.noise import NoiseLevel

NEARLY = 0.95
"""Of a model's highest noise level: schedules begin a little below it."""


def noise_level(model_sampling: Any, sigma: float) -> NoiseLevel:
    """a and b of x = a x0 + b eps as the model's own `noise_scaling` mixes them. `sigma` is the model's own."""
    return noise_levels(model_sampling, torch.tensor([sigma]))[0]


def noise_levels(model_sampling: Any, sigmas: Tensor) -> list[NoiseLevel]:
    """The same for each of several sigmas [s]."""
    sigmas = sigmas.detach().float().cpu()
    one, nothing = torch.ones(len(sigmas), 1, 1, 1), torch.zeros(len(sigmas), 1, 1, 1)
    a = model_sampling.noise_scaling(sigmas, nothing.clone(), one.clone())
    b = model_sampling.noise_scaling(sigmas, one.clone(), nothing.clone())
    return [NoiseLevel(*pair) for pair in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)]


def model_sigma(model: Any, ratio: float) -> float:
    """The model's own sigma for a noise-to-signal ratio b / a; ValueError where the model has none.

    VE models mix x0 + sigma eps, flow models (1 - s) x0 + k s eps (k is 1 for all but a few).
    """
    sampling = model.get_model_object("model_sampling")
    half = noise_level(sampling, 0.5)
    if half.b == 0 or half.a not in (0.5, 1.0):
        raise ValueError("This kind of model does not start from noise, so no noise level of it can be measured.")
    k = half.b / 0.5

    def to_ratio(s: float) -> float:
        return k * s if half.a == 1 else k * s / max(1 - s, 1e-6)

    value = ratio / k if half.a == 1 else ratio / (k + ratio)
    low, high = float(sampling.sigma_min), float(sampling.sigma_max)
    if not low <= value <= high:
        raise ValueError(
            f"sigma {ratio:g} is outside this model's noise levels ({to_ratio(low):.4g} to {to_ratio(high):.4g}). Choose one inside."
        )
    return value
