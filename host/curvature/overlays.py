"""A map as colours over its picture. Runs no model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...unmemorize.curvature.maps import check_map, mean_inside, per_channel
from ...unmemorize.pictures import heatmap
from ...unmemorize.pictures.views import map_view
from .thresholds import split

SMOOTHINGS = ("0", "3", "7", "13")
"""Widths in latent pixels of the mean filter, as the widget lists them."""
FULL_OVER_LIMIT = 2.0
"""Full heat where a calibration gives the scale: its threshold lies in the middle of the colours."""


@dataclass(frozen=True)
class Look:
    """How a map is shown."""

    colour_map: str
    opacity: float
    full_heat: float
    """Map value shown as full heat; 0: each picture's own clip percentile."""
    clip: float
    smooth: str

    def check(self) -> None:
        """ValueError on what is out of range."""
        if self.smooth not in SMOOTHINGS:
            raise ValueError(f"smooth = {self.smooth!r} is not one of {', '.join(SMOOTHINGS)}.")
        if not (0 <= self.opacity <= 1 and 0 <= self.clip <= 100 and 0 <= self.full_heat < math.inf):
            raise ValueError(
                f"Out of range: opacity {self.opacity} (0 to 1), clip {self.clip} (0 to 100) or full_heat {self.full_heat} (0 or more)."
            )


@dataclass(frozen=True)
class Overlay:
    """What became of it."""

    pictures: Tensor
    """[n, h, w, 3] in [0, 1]."""
    heat: Tensor
    """[n, h, w] in [0, 1]."""
    mean: float
    """Of the map inside the mask, highest of the batch."""
    peak: float
    """Clip percentile, highest of the batch."""
    report: dict[str, Any]
    view: dict[str, Any]
    """For the browser, which lays the map over the bare pictures itself, so that its sliders need no run."""


def overlaid(image: Tensor, found: Any, look: Look, mask: Tensor | None = None, calibration: dict[str, Any] | None = None) -> Overlay:
    """A map over its pictures [n, h, w, 3]; only what lies inside the mask is shown and counts. With a calibration, a verdict of the whole
    picture, which is what clean pictures were measured on, and its threshold in the middle of the colours unless full_heat says otherwise.
    ValueError if they do not fit."""
    check_map(found, image.shape)
    look.check()
    height, width = image.shape[1:3]
    inside = _inside(mask, image)
    values = per_channel(found)
    region = found["region"] * _spots(inside, values.shape)
    if mask is not None and not region.any():
        raise ValueError(
            "The mask covers no spot of the map where a picture was drawn: there is nothing to show or count. Paint it where the picture "
            "is, or leave `mask` unconnected."
        )
    peaks = torch.stack([heatmap.percentile(v[r > 0], look.clip) for v, r in zip(values, region, strict=True)])
    judged = split(found, calibration, None).report if calibration is not None else {}
    full = look.full_heat or (FULL_OVER_LIMIT * judged["thresholds"][0] if judged else 0.0)
    smoothed = heatmap.smooth(values, int(look.smooth))
    tops = torch.full_like(peaks, full) if full else peaks
    shown = heatmap.heat(smoothed, tops[:, None, None]) * (tops > 0)[:, None, None]  # a scale that ends at 0 shows nothing
    hot = (heatmap.enlarge(shown, height, width) * inside).to(image.device)
    pictures = heatmap.overlay(image, hot, look.colour_map, look.opacity)
    mean, peak = float(mean_inside(values, region).max()), float(peaks.max())
    report = {"mean": mean, "peak": peak, "full_heat": full or peak, **judged}
    maps = map_view(smoothed, region, [full or float(p) for p in peaks])
    limit = {"limit": judged["thresholds"][0]} if judged else {}
    return Overlay(pictures, hot, mean, peak, report, {"maps": maps, "colour_map": look.colour_map, "opacity": look.opacity, **limit})


def _spots(inside: Tensor, shape: torch.Size) -> Tensor:
    """1 for spots of maps [n, h, w] that a region [n, H, W] covers by more than half; where it covers none, for those that it touches."""
    cover = F.interpolate(inside[:, None], shape[1:], mode="area")[:, 0]
    most = (cover > 0.5).float()
    return torch.where(most.any(2).any(1)[:, None, None], most, (cover > 0).float())


def _inside(mask: Tensor | None, image: Tensor) -> Tensor:
    """Region of interest as [n, h, w], all ones without a mask."""
    if mask is None:
        return torch.ones(image.shape[:3])
    mask = mask if mask.ndim == 3 else mask[None]
    if mask.shape[1:] != image.shape[1:3] or mask.shape[0] not in (1, image.shape[0]):
        raise ValueError(
            f"The mask is {mask.shape[0]} x {mask.shape[2]} x {mask.shape[1]} (number x width x height), but the picture is "
            f"{image.shape[0]} x {image.shape[2]} x {image.shape[1]}. Give it the picture's size, or leave it unconnected."
        )
    return mask.float().cpu().expand(image.shape[:3])
