"""Reads tone and pattern of a card off its pixels, by direct measurement: the hue of its dark parts, the directions of its edges."""

from __future__ import annotations

import colorsys

import torch
import torch.nn.functional as F
from torch import Tensor

from .cards import TONES
from .scenes import SIDE

ONE_WAY, RADIAL, DIAGONAL = 0.8, 0.8, 0.6
"""Of 500 fresh cards of each pattern the least lies well above, of the other patterns the most well below."""


def read(picture: Tensor, mask: Tensor | None = None) -> tuple[str, str]:
    """(tone, pattern) of a picture [3, 128, 128] in [0, 1], of the part inside the mask [1, 128, 128]."""
    inside = torch.ones(SIDE, SIDE, dtype=torch.bool) if mask is None else F.max_pool2d(1 - mask[None], 9, 1, 4)[0, 0] < 0.5
    return _tone(picture, inside), _pattern(picture, inside)


def _tone(picture: Tensor, inside: Tensor) -> str:
    """The tone whose hue is nearest to that of the darker half."""
    pixels = picture[:, inside]
    darker = pixels[:, pixels.amax(0) <= pixels.amax(0).median()]
    mean = darker.mean(1).clamp(0, 1).tolist()
    hue = colorsys.rgb_to_hsv(*mean)[0]
    return min(TONES, key=lambda name: abs((hue - TONES[name] + 0.5) % 1 - 0.5))


def _pattern(picture: Tensor, inside: Tensor) -> str:
    """By the shares of the edges that run level, radially, slantwise."""
    grey = F.avg_pool2d(F.pad(picture.mean(0)[None, None], (2, 2, 2, 2), mode="replicate"), 5, 1)[0, 0]
    gx, gy = torch.zeros_like(grey), torch.zeros_like(grey)
    gx[:, 1:-1], gy[1:-1] = grey[:, 2:] - grey[:, :-2], grey[2:] - grey[:-2]
    axis = torch.arange(SIDE) + 0.5 - SIDE / 2
    x, y = axis[None, :].expand(SIDE, SIDE), axis[:, None].expand(SIDE, SIDE)
    distance = torch.hypot(x, y).clamp_min(1)
    inside = inside.clone()
    inside[:2], inside[-2:], inside[:, :2], inside[:, -2:] = False, False, False, False
    gx, gy, x, y, distance = (v[inside] for v in (gx, gy, x, y, distance))
    power = (gx.square() + gy.square()).sum().clamp_min(1e-9)
    across = float(gx.square().sum() / power)
    radial = float(((gx * x + gy * y) / distance).square().sum() / power)
    slanted = float(2 * (gx * gy).sum() / power)
    if across > ONE_WAY or across < 1 - ONE_WAY:
        return "upright" if across > ONE_WAY else "level"
    if slanted > DIAGONAL and slanted > 2 * radial - 1:
        return "slanted"
    return "ringed" if radial > RADIAL else "checked"
