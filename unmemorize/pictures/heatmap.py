"""Heatmaps over pictures: rendering only, nothing here runs a model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

DEFAULT = "ember"
COLOUR_MAPS: dict[str, tuple[str, ...]] = {
    DEFAULT: ("000004", "1b0c41", "4a0c6b", "781c6d", "a52c60", "cf4446", "ed6925", "fb9b06"),
    "inferno": ("000004", "1b0c41", "4a0c6b", "781c6d", "a52c60", "cf4446", "ed6925", "fb9b06", "f7d13d", "fcffa4"),
    "viridis": ("440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"),
    "cividis": ("00224e", "123570", "3b496c", "575d6d", "707173", "8a8678", "a59c74", "c3b369", "e1cc55", "fee838"),
    "gray": ("000000", "ffffff"),
}
"""Equally spaced stops; perceptually even and safe for colour-blind readers. Ember is inferno without its pale end: what is hottest must
not look bleached over a picture."""


def smooth(values: Tensor, size: int) -> Tensor:
    """Mean filter of odd width over maps [n, h, w]; edges average only what exists. Size 0 or 1 changes nothing."""
    if size <= 1:
        return values
    if size % 2 == 0:
        raise ValueError(f"smoothing needs an odd width, got {size}")
    pooled = F.avg_pool2d(values[:, None], size, stride=1, padding=size // 2, count_include_pad=False)
    return pooled[:, 0]


def percentile(values: Tensor, percent: float) -> Tensor:
    """Percentile of relu of some map values [k]; 0 where there are none."""
    return values.clamp_min(0).quantile(percent / 100) if values.numel() else values.new_zeros(())


def heat(values: Tensor, top: Tensor | float) -> Tensor:
    """relu(values) / top, clipped to [0, 1]. A map without any positive value is all zero."""
    top = torch.as_tensor(top, dtype=values.dtype, device=values.device).clamp_min(1e-12)
    return (values.clamp_min(0) / top).clamp(0, 1)


def enlarge(maps: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, [n, h, w] -> [n, height, width]."""
    return F.interpolate(maps[:, None], size=(height, width), mode="bilinear", align_corners=False)[:, 0]


def colourise(heat01: Tensor, name: str) -> Tensor:
    """[n, h, w] in [0, 1] -> RGB [n, h, w, 3] in [0, 1]."""
    if name not in COLOUR_MAPS:
        raise ValueError(f"unknown colour map {name!r}; choose one of {', '.join(COLOUR_MAPS)}")
    stops = torch.tensor([[int(c[i : i + 2], 16) / 255 for i in (0, 2, 4)] for c in COLOUR_MAPS[name]]).to(heat01)
    place = heat01.clamp(0, 1) * (len(stops) - 1)
    low = place.floor().long().clamp_max(len(stops) - 2)
    part = (place - low)[..., None]
    return stops[low] * (1 - part) + stops[low + 1] * part


def overlay(pictures: Tensor, heat01: Tensor, name: str, opacity: float) -> Tensor:
    """Pictures [n, h, w, 3] with the coloured heat over them, as opaque as it is hot; opacity 0 returns them unchanged."""
    if opacity == 0:
        return pictures
    alpha = (opacity * heat01)[..., None].to(pictures)
    return pictures + (colourise(heat01, name).to(pictures) - pictures) * alpha
