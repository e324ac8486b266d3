"""What ComfyUI calls a sampler with, by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
import torch
from torch import Tensor

from .influences import influences
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


def options_of_another_run(guider: Any) -> dict[str, Any]:
    """Model options for a run inside the run of a guider, which a guard lets pass: a copy of what the guider had before its run.

    The core adds the MODEL's own wrappers and callbacks when a run begins. Those of the outer run would do their work twice.
    """
    options: dict[str, Any] = comfy.model_patcher.create_model_options_clone(guider.model_options)
    inside = options["transformer_options"] = dict(options.get("transformer_options", {}))
    for name in ("wrappers", "callbacks"):
        inside[name] = _without(inside.get(name, {}), getattr(guider.model_patcher, name, {}))
    options.pop("to_load_options", None)
    return options | {DRAWN_AGAIN: True}


def options_for(parent: Any, guider: Any) -> dict[str, Any]:
    """Model options for a run of `parent` in the place of a guider's: what other nodes put on the guider's MODEL works on there too, unless
    the parent has such nodes of its own."""
    own = parent.model_options
    return {**own, DRAWN_AGAIN: True} if influences(own, ()) else options_of_another_run(guider)


def with_schedule(options: dict[str, Any], sigmas: Tensor) -> dict[str, Any]:
    """Model options for a part of the run over `sigmas`: a mask that changes with the noise (Differential Diffusion) goes by the whole."""
    of_run = options.get(MASK_FUNCTION)
    if of_run is None:
        return options

    def mask(sigma: Tensor, denoise_mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
        return of_run(sigma, denoise_mask, extra_options={**extra_options, "sigmas": sigmas})

    return {**options, MASK_FUNCTION: mask}


def _without(several: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    """Kind -> key -> functions, without one of each that was added."""
    left = {kind: {key: list(functions) for key, functions in by_key.items()} for kind, by_key in several.items()}
    for kind, by_key in added.items():
        for key, functions in by_key.items():
            there = left.get(kind, {}).get(key, [])
            for function in functions:
                if function in there:
                    there.remove(function)
    return left


MASK_FUNCTION = "denoise_mask_function"
"""The core's name for it in model_options."""
RECORDING = "unmemorize_recording"
"""In model_options: this run only records, its picture is nobody's."""
DRAWN_AGAIN = "unmemorize_drawn_again"
"""Key of a run's model options: a guard samples a picture again, and other guards let it pass."""
CALLBACK = 5
"""Its place among the arguments of comfy.samplers.CFGGuider.outer_sample."""

CALLBACK_OF_SAMPLER = 3
"""Its place among the arguments of comfy.samplers.Sampler.sample."""


class BatchCallback:
    """A run's callback, which always hears of the whole batch: what is drawn again alone is put in the place of its picture.

    The core's custom sampler hands on the last x0 that it heard of, for all pictures.
    """

    def __init__(self, callback: Callable[..., None] | None) -> None:
        self._callback = callback
        self._x0: Tensor | None = None

    def __call__(self, step: int, x0: Tensor, x: Tensor, total: int) -> None:
        """Of the batch."""
        self._x0 = x0
        if self._callback is not None:
            self._callback(step, x0, x, total)

    def of_one(self, i: int) -> Callable[..., None]:
        """The callback of a run of sample i alone."""

        def hear(step: int, x0: Tensor, x: Tensor, total: int) -> None:
            whole = x0
            if self._x0 is not None:
                whole = self._x0.clone()
                whole[i : i + 1] = x0
            self(step, whole, x, total)

        return hear


def with_callback(arguments: tuple[Any, ...], more: dict[str, Any], callback: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of outer_sample, with another callback."""
    if len(arguments) > CALLBACK:
        return (*arguments[:CALLBACK], callback, *arguments[CALLBACK + 1 :]), more
    return arguments, {**more, "callback": callback}


def callback_of_one(callback: Callable[..., None] | None, i: int) -> Callable[..., None] | None:
    """For a run of sample i alone."""
    return callback.of_one(i) if isinstance(callback, BatchCallback) else callback


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
    packed: bool = False
    """Several latents of different kinds in one tensor, as the core samples video and audio together."""
    index: int = 0
    """Of a run of one sample: which of its batch that was."""


def run_arguments_of(
    guider: Any, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, denoise_mask: Tensor | None = None,
    callback: Any = None, disable_pbar: bool = False, seed: int | None = None, latent_shapes: Any = (), **_: Any,
) -> RunCall:  # fmt: skip
    """The arguments of comfy.samplers.CFGGuider.outer_sample, by name."""
    packed = len(latent_shapes or ()) > 1
    return RunCall(guider, noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, packed)
