"""Evaluate a model's denoiser at a noise level of our choice, through ComfyUI's own sampling machinery.

The core prepares the run (loading, hooks, ControlNet, conditioning, offload) for a sampler object; ours
takes no step but hands a `Denoiser` to the caller. So LoRAs, patches, regional prompts and every kind of
prediction work as they do while sampling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ..unmemorize.curvature import NoiseLevel


@dataclass(frozen=True)
class Denoiser:
    """D(x) of the conditional and unconditional model at one noise level, in the model's own latent space."""

    level: NoiseLevel
    x0: Tensor
    """The latent [n, c, h, w] on the model's device, scaled as the model wants it."""
    _predict: Callable[[Tensor], list[Tensor]]

    def pair(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(D_c, D_u) of the same x, one conditional and one unconditional evaluation."""
        negative, positive = self._predict(x)
        return positive, negative

    def noised(self, noise: Tensor) -> Tensor:
        """a x0 + b eps."""
        return self.level.a * self.x0 + self.level.b * noise.to(self.x0)


class _Probe(comfy.samplers.Sampler):
    """A sampler that evaluates instead of sampling; returns the latent it was given."""

    def __init__(self, work: Callable[[Denoiser], None]) -> None:
        self._work = work

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict,
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
        **_: Any,
    ) -> Tensor:
        model, conds = model_wrap.inner_model, model_wrap.conds
        sigma = sigmas[:1]
        x0 = torch.zeros_like(noise) if latent_image is None else latent_image
        options = extra_args.get("model_options", {})

        def predict(x: Tensor) -> list[Tensor]:
            timestep = sigma.expand(x.shape[0])
            return comfy.samplers.calc_cond_batch(model, [conds["negative"], conds["positive"]], x, timestep, options)

        self._work(Denoiser(noise_level(model.model_sampling, sigma), x0, predict))
        return x0


def noise_level(model_sampling: Any, sigma: Tensor) -> NoiseLevel:
    """a and b of x = a x0 + b eps as the model's own `noise_scaling` mixes them."""
    one, nothing = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    s = sigma.cpu().float()
    a = model_sampling.noise_scaling(s, nothing.clone(), one.clone())
    b = model_sampling.noise_scaling(s, one.clone(), nothing.clone())
    return NoiseLevel(float(a), float(b))


def model_sigma(model: Any, ratio: float) -> float:
    """The model's own sigma for a noise-to-signal ratio b / a: the same number, or s = r / (1 + r) for flow models."""
    sampling = model.get_model_object("model_sampling")
    is_flow = noise_level(sampling, torch.tensor([0.5])).a != 1
    value = ratio / (1 + ratio) if is_flow else ratio
    low, high = float(sampling.sigma_min), float(sampling.sigma_max)
    if not low <= value <= high:
        ends = [v / (1 - v) if is_flow and v < 1 else v for v in (low, high)]
        raise ValueError(f"sigma {ratio:g} is outside this model's noise levels ({ends[0]:.4g} to {ends[1]:.4g}). Choose one inside.")
    return value


def with_denoiser(
    model: Any, positive: Any, negative: Any, samples: Tensor, sigma: float, seed: int, work: Callable[[Denoiser], None]
) -> None:
    """Run `work` once with the denoiser of `model` at `sigma` = b / a. Leaves model, latent and conditioning as they were."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    sigmas = torch.tensor([model_sigma(model, sigma), 0.0])
    nothing = torch.zeros_like(samples)
    guider.sample(nothing, samples.clone(), _Probe(work), sigmas, disable_pbar=True, seed=seed)


def check_channels(model: Any, samples: Tensor) -> None:
    """ValueError if the latent belongs to another kind of model."""
    wanted = model.get_model_object("latent_format").latent_channels
    if samples.shape[1] != wanted:
        raise ValueError(
            f"The latent has {samples.shape[1]} channels, but this model works on {wanted}. "
            "It was made by another kind of model: encode or sample it with the model connected here."
        )


def unit_noise(samples: Tensor, seed: int) -> Tensor:
    """Gaussian noise [1, c, h, w] of a seed; every sample of a batch gets the same, so a batch equals its parts."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    return torch.randn(samples[:1].shape, generator=generator)
