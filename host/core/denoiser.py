"""Evaluate a model's denoiser at a noise level of our choice, through ComfyUI's own sampling machinery.

The core prepares the run (loading, hooks, ControlNet, conditioning, offload) for a sampler object; ours
takes no step but hands a `Denoiser` to the caller. So LoRAs, patches, regional prompts and every kind of
prediction work as they do while sampling.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import comfy.conds
import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor

from ...unmemorize.core.noise import NoiseLevel
from .coverage import covered
from .guiders import CACHES
from .influences import distilled_guidance
from .noise import model_sigma, noise_level
from .sampler_call import DRAWN_AGAIN
from .seeds import kept_generators


@dataclass(frozen=True)
class Denoiser:
    """D(x) of a model at one noise level, for one or two prompts, in the model's own latent space."""

    level: NoiseLevel
    x0: Tensor
    """The latent [n, c, ...] on the model's device, scaled as the model wants it."""
    compute_dtype: torch.dtype
    """What the network computes in: x is rounded to it."""
    network: torch.nn.Module
    """For `differentiable`."""
    covered: Tensor | None
    """1 where every prompt is active, [n, 1, ..., h, w]; None: everywhere."""
    most_together: int
    """So many copies of the batch may be asked about in one call, one behind the other."""
    told: list[float | None]
    """The distilled guidance that the model is told with each prompt."""
    _predict: Callable[[Tensor], list[Tensor]]
    _keep: Callable[[Tensor, Tensor], Tensor] | None
    """(x, eps) -> x with what the model is given while sampling where an inpainting keeps the picture."""

    def branches(self, x: Tensor) -> Tensor:
        """D of x [n, c, ...], or of copies of it, under each prompt, [prompts, n, c, ...]: the positive first, one evaluation each."""
        return torch.stack(self._predict(x))

    def noised(self, noise: Tensor) -> Tensor:
        """a x0 + b eps; where an inpainting keeps the picture, what the model is given there while sampling."""
        eps = noise.to(self.x0)
        x = self.level.a * self.x0 + self.level.b * eps
        return x if self._keep is None else self._keep(x, eps)


@contextlib.contextmanager
def differentiable(network: torch.nn.Module) -> Iterator[None]:
    """Autograd through a network whose weights ComfyUI loaded in inference mode; everything is as before afterwards.

    Autograd refuses inference tensors, so such weights are replaced by copies meanwhile (their memory once more).
    """
    swapped: list[tuple[dict[str, Any], str, Any]] = []
    flags: list[torch.nn.Parameter] = []
    core: Any = comfy.model_management
    training = getattr(core, "in_training", None)  # newer cores choose kernels by it that have a backward pass
    with torch.inference_mode(False), torch.enable_grad():
        try:
            if training is not None:
                core.in_training = True
            for module in network.modules():
                for name, weight in module._parameters.items():
                    if weight is None:
                        continue
                    if weight.is_inference():
                        swapped.append((module._parameters, name, weight))
                        module._parameters[name] = torch.nn.Parameter(weight.clone(), requires_grad=False)
                    elif weight.requires_grad:
                        weight.requires_grad_(False)
                        flags.append(weight)
            yield
        finally:
            if training is not None:
                core.in_training = training
            for parameters, name, weight in swapped:
                parameters[name] = weight
            for weight in flags:
                weight.requires_grad_(True)


def computes_in(model: Any) -> torch.dtype:
    """What the network of a core model (`MODEL.model`) computes in."""
    return model.manual_cast_dtype or model.get_dtype()


def without_caches(model: Any) -> Any:
    """The MODEL, or a clone of it without the core's caches: what they answer is no function of x."""
    kinds = [kind for kind, by_key in model.wrappers.items() if any(key in by_key for key in CACHES)]
    if not kinds:
        return model
    clone = model.clone()
    for kind in kinds:
        for key in CACHES:
            clone.remove_wrappers_with_key(kind, key)
    return clone


def may_remember(model: Any) -> bool:
    """Could something between ComfyUI and the network answer from earlier calls: wrappers, patches, a forward method that was replaced?"""
    options = model.model_options
    inside = options.get("transformer_options", {})
    replaced = (options.get("model_function_wrapper"), options.get("sampler_calc_cond_batch_function"), model.object_patches)
    patched = (inside.get("patches"), inside.get("patches_replace"), *model.wrappers.values())
    return any(replaced) or any(patched) or "forward" in vars(model.model.diffusion_model)


KEPT_BUSY = 2 * 128 * 128
"""Places of latents that keep a large GPU busy: those of a guided step at 1024 x 1024. More would take memory, and save no time."""
BUSY_ALONE = ("cpu",)
"""Kinds of devices that a single picture keeps busy."""
MARGIN = 1.5
"""Of the core's estimate of memory, as the core itself allows for it when it puts prompts into one call."""


def most_together(model: Any, sides: list[list[dict[str, Any]]], x: Tensor) -> int:
    """How many copies of a batch x [n, c, ...] one call of a core model may hold, by the core's own estimate of memory.

    1 where copies would not be treated as the batch is: what has other rows than one, or one a picture, is repeated over a larger batch
    in another order.
    """
    rows = len(sides) * len(x)
    places = rows * math.prod(x.shape[2:])
    if x.device.type in BUSY_ALONE or not all(_repeats(cond, len(x)) for side in sides for cond in side):
        return 1
    free, count = comfy.model_management.get_free_memory(x.device), max(1, KEPT_BUSY // places)
    while count > 1 and _memory(model, sides, [count * rows, *x.shape[1:]]) * MARGIN >= free:
        count //= 2
    return count


def _memory(model: Any, sides: list[list[dict[str, Any]]], shape: list[int]) -> float:
    """Bytes that the core expects a call of this shape to take."""
    shapes: dict[str, list[list[int]]] = {}
    for side in sides:
        for cond in side:
            for name, value in cond.get("model_conds", {}).items():
                shapes.setdefault(name, []).append([shape[0] // len(sides), *list(value.size())[1:]])
    return float(model.memory_required(shape, cond_shapes=shapes))


def _repeats(cond: dict[str, Any], n: int) -> bool:
    """Does the core repeat every part of a prompt over copies of a batch of n as it does over the batch?"""
    if any(cond.get(part) is not None for part in ("control", "gligen", "hooks")):
        return False
    parts = [cond["mask"]] if "mask" in cond else []
    for value in cond.get("model_conds", {}).values():
        if isinstance(value, comfy.conds.CONDConstant):
            continue
        inner = getattr(value, "cond", None)
        held = inner if isinstance(inner, list | tuple) else [inner]
        if not all(isinstance(part, Tensor) and part.ndim > 0 for part in held):
            return False
        parts += held
    return all(len(part) in (1, n) for part in parts)


class _Probe(comfy.samplers.Sampler):
    """A sampler that evaluates instead of sampling; returns the latent it was given."""

    def __init__(self, work: Callable[[Denoiser], None], alone: bool) -> None:
        self._work, self._alone = work, alone

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
        # positive first: patches read the index of a row's condition as 0 = positive, 1 = negative
        sides = [conds[side] for side in ("positive", "negative") if side in conds]
        for name, side in zip(("positive", "negative"), sides, strict=False):
            _check_active(side, sigma, name)

        def predict(x: Tensor) -> list[Tensor]:
            # some patches draw random numbers (ToMe, HyperTile): each call draws the same, so that D stays a function of x
            with kept_generators(x.device, seed=0):
                # sigma is copied: autograd may not keep a tensor that was made in inference mode
                return comfy.samplers.calc_cond_batch(model, sides, x, sigma.expand(x.shape[0]).clone(), options)

        def keep(x: Tensor, eps: Tensor) -> Tensor:
            given = model.scale_latent_inpaint(
                x=x, sigma=sigma.expand(len(x)), noise=eps.expand_as(x), latent_image=x0, denoise_mask=denoise_mask
            )  # some models want the picture itself there, not with noise
            mask: Tensor = denoise_mask  # type: ignore[assignment]
            return x * mask + given * (1 - mask)

        compute_dtype = computes_in(model)
        level, network = noise_level(model.model_sampling, float(sigma)), model.diffusion_model
        together = 1 if self._alone else most_together(model, sides, x0)
        told = [distilled_guidance(network, side) for side in sides]
        kept = None if denoise_mask is None else keep
        self._work(Denoiser(level, x0, compute_dtype, network, covered(sides, x0, sigma), together, told, predict, kept))
        return x0


def _check_active(conds: list[dict[str, Any]], sigma: Tensor, side: str) -> None:
    """ComfyUI predicts zero where no prompt is active; that would look like a memory."""
    s = float(sigma)
    for cond in conds:
        start, end = cond.get("timestep_start"), cond.get("timestep_end")
        if (start is None or s <= start) and (end is None or s >= end):
            return
    raise ValueError(
        f"No part of the {side} prompt is active at this noise level (it is limited to other steps, for instance by "
        "ConditioningSetTimestepRange). Choose another sigma, or connect a prompt without a range."
    )


def with_denoiser(
    model: Any, positive: Any, negative: Any, latent: dict[str, Any], sigma: float, seed: int, work: Callable[[Denoiser], None]
) -> None:
    """Run `work` once with the denoiser of `model` at `sigma` = b / a on a LATENT. Leaves all inputs as they were.

    `negative` may be None: then only the positive prompt is evaluated. Gradients are off, inside ComfyUI's inference mode and outside it;
    work that needs them asks for `differentiable`.
    """
    samples = latent["samples"]
    guider = comfy.samplers.CFGGuider(without_caches(model))
    guider.model_options = {**guider.model_options, DRAWN_AGAIN: True}  # no run: a guard on the model keeps what it noted of the last one
    guider.inner_set_conds({"positive": positive} if negative is None else {"positive": positive, "negative": negative})
    sigmas = torch.tensor([model_sigma(model, sigma), 0.0])
    nothing = torch.zeros_like(samples)
    mask = latent.get("noise_mask")  # an inpainting model is also told what it may change
    with torch.no_grad():
        alone = may_remember(model) or "context_handler" in model.model_options
        guider.sample(nothing, samples.clone(), _Probe(work, alone), sigmas, denoise_mask=mask, disable_pbar=True, seed=seed)
