"""The map that passes between nodes: a dict of one tensor and its settings.

values    float32 [n, h, w], latent resolution: b^2 dh summed over channels, signed (relu is left to the reader)
channels  how many channels were summed, so that values / channels lies within about -1 .. 1
settings  JSON-able: method, estimator, sigma, a, b, probes, noises, seed, evaluations
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def make_map(values: Tensor, channels: int, settings: dict[str, Any]) -> dict[str, Any]:
    """A map of signed channel sums [n, h, w]."""
    return {"values": values.float().cpu(), "channels": channels, "settings": settings}


def per_channel(result: dict[str, Any]) -> Tensor:
    """Mean over channels instead of the sum, [n, h, w]: comparable between models."""
    return result["values"] / result["channels"]


def scores(result: dict[str, Any]) -> Tensor:
    """One number a picture, [n]: mean over pixels of relu of the channel mean."""
    return per_channel(result).clamp_min(0).mean(dim=(1, 2))


def check_map(result: Any, image_shape: torch.Size) -> Tensor:
    """Channel means [n, h, w] of a map that fits pictures [n, H, W, 3]; ValueError in plain words if it does not."""
    if not isinstance(result, dict) or not isinstance(result.get("values"), Tensor):
        raise ValueError("This is not a map of Unmemorize. Connect the map output of Curvature Difference Map.")
    values = per_channel(result)
    if values.shape[0] != image_shape[0]:
        raise ValueError(
            f"The map belongs to {values.shape[0]} picture(s), but {image_shape[0]} came in. "
            "Connect the pictures decoded from the same latent."
        )
    if not torch.isfinite(values).all():
        raise ValueError(
            "The map holds values that are not numbers (NaN or infinite). "
            "Measure it again in 32-bit precision (start ComfyUI with --force-fp32)."
        )
    tall, wide = image_shape[1] / values.shape[1], image_shape[2] / values.shape[2]
    if abs(tall - wide) > 0.05 * max(tall, wide):
        raise ValueError(
            f"The picture is {image_shape[2]} x {image_shape[1]}, but the map was measured on a latent of "
            f"{values.shape[2]} x {values.shape[1]}: another shape. Connect the picture decoded from the same latent."
        )
    return values
