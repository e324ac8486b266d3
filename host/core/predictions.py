"""What a MODEL predicts at points of a run that is over: latents that a sampler met, under prompts of our choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from .guiders import PAIR
from .sampler_call import DRAWN_AGAIN, RunCall, options_of_another_run
from .seeds import kept_generators

Conds = list[dict[str, Any]]
"""A side of a prompt, as ComfyUI's guiders hold it."""


@dataclass(frozen=True)
class Point:
    """A call of a model in a run: the latent [n, c, ...] it was asked about, scaled as the model wants it, and its noise level."""

    x: Tensor
    sigma: float


class _Along(comfy.samplers.Sampler):
    """A sampler that asks the model at given points, instead of sampling."""

    def __init__(self, points: list[Point], work: Callable[[int, list[Tensor]], None]) -> None:
        self._points, self._work = points, work

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict, callback: Any, noise: Tensor, latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None, disable_pbar: bool = False, **_: Any,
    ) -> Tensor:  # fmt: skip
        conds = [model_wrap.conds.get(side) for side in PAIR]  # patches read a row's place: 0 = positive, 1 = negative
        for k, point in enumerate(self._points):
            x = point.x.to(noise)
            sigma = sigmas.new_full((len(x),), point.sigma)
            with kept_generators(x.device, seed=0):  # some patches draw random numbers: every model is asked with the same
                found = comfy.samplers.calc_cond_batch(model_wrap.inner_model, conds, x, sigma, extra_args["model_options"])
            self._work(k, found)
        return noise


def predict_along(
    model: Any, positive: Conds | None, negative: Conds, call: RunCall, points: list[Point], work: Callable[[int, list[Tensor]], None]
) -> None:
    """`work(k, [D_c, D_u])`, [n, c, ...] each, for every point of a run, by `model` with its own patches; without a positive prompt D_c is
    nothing. Latent, mask and schedule are those of the run that `call` asked for."""
    guider = comfy.samplers.CFGGuider(model)
    guider.model_options = {**model.model_options, DRAWN_AGAIN: True}
    guider.original_conds = {"negative": negative} if positive is None else {"positive": positive, "negative": negative}
    sampler = _Along(points, work)
    with torch.no_grad():
        guider.sample(torch.zeros_like(call.noise), call.latent, sampler, call.sigmas, call.mask, None, True, call.seed)


class _AtStart(comfy.samplers.Sampler):
    """A sampler that asks the model about its first latent, under every prompt it was given."""

    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict, callback: Any, noise: Tensor, latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None, disable_pbar: bool = False, **_: Any,
    ) -> Tensor:  # fmt: skip
        model = model_wrap.inner_model
        latent = torch.zeros_like(noise) if latent_image is None else latent_image
        x = model.model_sampling.noise_scaling(sigmas[0], noise, latent, self.max_denoise(model_wrap, sigmas))
        for cond in model_wrap.conds.values():
            with kept_generators(x.device, seed=0):
                level = sigmas[:1].expand(len(x))
                self.found += comfy.samplers.calc_cond_batch(model, [cond], x, level, extra_args["model_options"])
        return noise


def predict_at_start(call: RunCall, prompts: list[Conds]) -> list[Tensor]:
    """D of each prompt, [n, c, ...] each, at the latent that a run begins with, by its own model: an evaluation a prompt."""
    guider = comfy.samplers.CFGGuider(call.guider.model_patcher)
    guider.model_options = options_of_another_run(call.guider)
    guider.original_conds = {f"prompt {k}": conds for k, conds in enumerate(prompts)}
    sampler = _AtStart()
    with torch.no_grad():
        guider.sample(call.noise, call.latent, sampler, call.sigmas, call.mask, None, True, call.seed)
    return sampler.found
