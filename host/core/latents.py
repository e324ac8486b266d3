"""What is asked of a LATENT: does it fit the model, is it of single pictures, which part was generated, which run made it?"""

from __future__ import annotations

from typing import Any

import comfy.utils
import torch
import torch.nn.functional as F
from torch import Tensor

MARKS = 64
KEPT = 0.05
"""Of an inpainting mask: below it the picture stays as it was; soft masks count as generated."""


def check_channels(model: Any, samples: Tensor) -> None:
    """ValueError if the latent belongs to another kind of model."""
    wanted = model.get_model_object("latent_format").latent_channels
    if samples.shape[1] != wanted:
        raise ValueError(
            f"The latent has {samples.shape[1]} channels, but this model works on {wanted}. "
            "It was made by another kind of model: encode or sample it with the model connected here."
        )


def check_picture(samples: Tensor) -> None:
    """ValueError unless this is a finite latent of single pictures."""
    nested = getattr(samples, "is_nested", False)
    if nested or not (samples.ndim == 4 or (samples.ndim == 5 and samples.shape[2] == 1)):
        shape = "several parts" if nested else str(tuple(samples.shape))
        raise ValueError(f"Only latents of single pictures can be mapped so far, not of video or audio: this one has the shape {shape}.")
    if not torch.isfinite(samples).all():
        raise ValueError(
            "The latent holds values that are not numbers (NaN or infinite): the run that made it failed. Check its VAE and precision."
        )


def is_empty(samples: Tensor) -> bool:
    """Is a latent one value everywhere, and so no picture?"""
    return bool((samples == samples.flatten()[0]).all())


def check_single(latent: dict[str, Any]) -> None:
    """ValueError if a LATENT is of video or audio: only single pictures can be judged."""
    samples = latent["samples"]
    if getattr(samples, "is_nested", False) or (samples.ndim == 5 and samples.shape[2] > 1) or samples.ndim not in (4, 5):
        raise ValueError("Only single pictures can be judged so far, not video or audio: connect an empty latent with one frame.")


def check_one_kind(latent: dict[str, Any]) -> None:
    """ValueError if a LATENT holds several latents of different kinds, as video with its sound: the guard judges no such run."""
    if getattr(latent["samples"], "is_nested", False):
        raise ValueError(
            "Only runs of one kind of latent can be judged so far, not of video together with its sound: connect the empty latent of a "
            "picture."
        )


def decoded(vae: Any, samples: Tensor) -> Tensor:
    """Pictures of latents, IMAGE [n, h, w, 3] on the CPU; a VAE of videos gives its one frame."""
    pictures = vae.decode(samples)
    if pictures.ndim == 5:  # [n, frames, h, w, c], as the core's own VAE Decode flattens it
        pictures = pictures.reshape(-1, *pictures.shape[-3:])
    return pictures[..., :3].float().cpu()


def generated(latent: dict[str, Any], shape: torch.Size) -> Tensor | None:
    """[n, h, w] of 0 and 1: what an inpainting latent left untouched was not generated. None without a mask."""
    mask = latent.get("noise_mask")
    if mask is None:
        return None
    resized = F.interpolate(mask.reshape(-1, 1, *mask.shape[-2:]).float().cpu(), size=shape[1:], mode="bilinear")[:, 0]
    return (comfy.utils.repeat_to_batch_size(resized, shape[0]) > KEPT).float()


def check_somewhere(region: Tensor | None, what: str) -> None:
    """ValueError if nothing counts in a picture of the batch: `region` [n, h, w] of 0 and 1, None: everywhere."""
    if region is None or bool(region.flatten(1).any(1).all()):
        return
    empty = [i for i, picture in enumerate(region) if not picture.any()]
    which = "this picture" if len(region) == 1 else f"picture {', '.join(str(i) for i in empty[:8])} of the batch (counted from 0)"
    raise ValueError(
        f"Nothing of {which} can be {what}: nowhere is it both generated (noise mask) and under a prompt (areas, masks, ranges of steps)."
    )


def flat(region: Tensor | None) -> Tensor | None:
    """A region [n, 1, ..., h, w] of single pictures as [n, h, w], on the CPU."""
    return None if region is None else region.reshape(len(region), *region.shape[-2:]).float().cpu()


def both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Where two regions [n, h, w] of 0 and 1 meet; None is everywhere."""
    return one if other is None else other if one is None else one * other


def marks(samples: Tensor) -> Tensor:
    """A few values of every sample, by which its latent is known again, [n, <= 64]; 0 for what is no number, which JSON does not have."""
    parts = samples.unbind() if getattr(samples, "is_nested", False) else [samples]  # video with its sound, which the core samples as one
    flat = torch.cat([part.detach().flatten(1) for part in parts], 1)
    return flat[:, :: max(1, flat.shape[1] // MARKS)][:, :MARKS].float().nan_to_num(0.0, 0.0, 0.0).cpu()


def is_marked(samples: Tensor, known: Tensor) -> bool:
    """Is this the latent of which these are the marks? Rounding in a file or another precision is forgiven."""
    ours = marks(samples)
    return known.shape == ours.shape and torch.allclose(known, ours, rtol=1e-2, atol=1e-2)
