"""The map that passes between nodes: a dict of one tensor and its settings.

values    [n, h, w], latent resolution: b^2 dh summed over channels, signed (relu is left to the reader)
channels  how many channels were summed, so that values / channels lies within about -1 .. 1
region    [n, h, w] of 0 and 1: what was generated; outside an inpainting mask values are 0 and do not count
settings  JSON-able: method, estimator, sigma, a, b, probes, noises, seed, evaluations
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def make_map(values: Tensor, channels: int, settings: dict[str, Any], region: Tensor | None = None) -> dict[str, Any]:
    """A map of signed channel sums [n, h, w]; `region` broadcasts, default: all was generated. ValueError if it holds no numbers."""
    if not torch.isfinite(values).all():
        raise ValueError(
            "The model returned values that are not numbers (NaN or infinite). Start ComfyUI with --force-fp32, or use the model in "
            "another precision."
        )
    region = torch.ones_like(values) if region is None else region.to(values).expand_as(values)
    return {"values": values * region, "channels": channels, "region": region, "settings": settings}


def per_channel(result: dict[str, Any]) -> Tensor:
    """Mean over channels instead of the sum, [n, h, w]: comparable between models."""
    return result["values"] / result["channels"]


def mean_inside(values: Tensor, region: Tensor) -> Tensor:
    """Mean of relu(values) over a region, both [n, h, w] -> [n]; 0 where the region is empty."""
    return (values.clamp_min(0) * region).sum(dim=(1, 2)) / region.sum(dim=(1, 2)).clamp_min(1)


def scores(result: dict[str, Any]) -> Tensor:
    """One number a picture, [n]: mean over the generated pixels of relu of the channel mean."""
    return mean_inside(per_channel(result), result["region"])


def check_values(result: Any) -> None:
    """ValueError in plain words unless this is a map, of numbers."""
    if not isinstance(result, dict) or not isinstance(result.get("values"), Tensor):
        raise ValueError("This is not a map of Unmemorize. Connect the map output of Curvature Difference Map.")
    if not torch.isfinite(result["values"]).all():
        raise ValueError(
            "This map holds values that are not numbers (NaN or infinite), so that nothing can be read from it. Measure it again with "
            "ComfyUI started with --force-fp32."
        )


def check_map(result: Any, image_shape: torch.Size) -> None:
    """ValueError in plain words unless this is a map that fits pictures [n, H, W, 3]."""
    check_values(result)
    if len(image_shape) != 4 or image_shape[3] != 3:
        raise ValueError(f"The picture must have the three channels red, green and blue; its shape is {tuple(image_shape)}.")
    count, height, width = result["values"].shape
    if count != image_shape[0]:
        raise ValueError(
            f"The map belongs to a batch of {count}, but {image_shape[0]} came in. Connect the pictures decoded from the same latent."
        )
    tall, wide = image_shape[1] / height, image_shape[2] / width
    if abs(tall - wide) > 0.05 * max(tall, wide):
        raise ValueError(
            f"The picture is {image_shape[2]} x {image_shape[1]}, but the map was measured on a latent of {width} x {height}: "
            "another shape. Connect the picture decoded from the same latent."
        )
