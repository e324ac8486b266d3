"""Procedural scenes: one shape of one colour and size on one background. Drawn afresh, never repeated."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

SIDE = 128

COLOURS = {
    "red": (0.85, 0.12, 0.12),
    "orange": (0.96, 0.52, 0.06),
    "yellow": (0.97, 0.88, 0.15),
    "green": (0.15, 0.62, 0.22),
    "cyan": (0.20, 0.82, 0.86),
    "blue": (0.13, 0.27, 0.87),
    "purple": (0.52, 0.16, 0.70),
    "pink": (0.97, 0.55, 0.76),
}
BACKGROUNDS = {
    "white": (0.94, 0.94, 0.94),
    "black": (0.06, 0.06, 0.06),
    "gray": (0.50, 0.50, 0.50),
    "navy": (0.07, 0.10, 0.33),
    "brown": (0.40, 0.25, 0.14),
    "sand": (0.86, 0.78, 0.60),
    "teal": (0.04, 0.36, 0.36),
}
SHAPES = ("circle", "square", "triangle", "ring", "star", "cross")
SIZES = {"small": (22.0, 25.0), "large": (39.0, 43.0)}
"""Radius range in pixels."""
REACH = 9.0
"""How far a shape's centre may be from the picture's, in pixels. Twice as far, and shapes stay amorphous twice as long."""
TILT = 0.1
"""Radians, either way."""
SHADE = 0.06
"""How far each colour channel strays from the palette, either way."""
SHAPE_LIGHT, BACKGROUND_LIGHT = 0.14, 0.16
"""Largest slope of brightness from the middle to the rim."""


@dataclass(frozen=True)
class Scene:
    """One combination of the grammar."""

    size: str
    colour: str
    shape: str
    background: str

    @property
    def caption(self) -> str:
        return f"a {self.size} {self.colour} {self.shape} on a {self.background} background"


def all_scenes() -> list[Scene]:
    """Every combination, in a fixed order."""
    return [Scene(*c) for c in itertools.product(SIZES, COLOURS, SHAPES, BACKGROUNDS)]


def grammar() -> dict[str, list[str]]:
    """The words of each slot, for lab.json."""
    return {"size": list(SIZES), "colour": list(COLOURS), "shape": list(SHAPES), "background": list(BACKGROUNDS)}


def draw(scenes: list[Scene], generator: torch.Generator) -> Tensor:
    """Fresh drawings [n, 3, 128, 128] in [0, 1]: place, size, tilt, shades and light vary."""
    n = len(scenes)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, 1, generator=generator)

    unit = uniform(0, 1)
    bounds = torch.tensor([SIZES[s.size] for s in scenes])[:, :, None, None]
    radius = bounds[:, 0] + (bounds[:, 1] - bounds[:, 0]) * unit
    reach = torch.clamp(SIDE / 2 - 6 - radius, max=REACH)
    cx, cy = (SIDE / 2 + reach * uniform(-1, 1) for _ in range(2))
    tilt = uniform(-TILT, TILT)
    geometry = zip(radius, cx, cy, tilt, strict=True)
    cover = torch.stack([shape_cover(s.shape, *(v.squeeze() for v in g)) for s, g in zip(scenes, geometry, strict=True)])[:, None]
    light = _light(n, generator, SHAPE_LIGHT)
    back = _shades([BACKGROUNDS[s.background] for s in scenes], generator) + _light(n, generator, BACKGROUND_LIGHT)
    fore = _shades([COLOURS[s.colour] for s in scenes], generator) + light
    return (back + (fore - back) * cover).clamp(0, 1)


def shape_cover(shape: str, radius: Tensor, cx: Tensor, cy: Tensor, tilt: Tensor) -> Tensor:
    """How much of each pixel the shape covers, antialiased, [128, 128]; scalars in pixels and radians."""
    axis = torch.arange(SIDE) + 0.5
    dx, dy = axis[None, :] - cx, axis[:, None] - cy
    x = (torch.cos(tilt) * dx + torch.sin(tilt) * dy) / radius
    y = (torch.cos(tilt) * dy - torch.sin(tilt) * dx) / radius
    return (0.5 - _signed_distance(shape, x, y) * radius).clamp(0, 1)


def _shades(colours: list[tuple[float, float, float]], generator: torch.Generator) -> Tensor:
    base = torch.tensor(colours)[:, :, None, None]
    return base + SHADE * (2 * torch.rand(base.shape, generator=generator) - 1)


def _light(n: int, generator: torch.Generator, strength: float) -> Tensor:
    """A linear ramp of brightness across the picture, any direction, [n, 1, 128, 128]."""
    angle = 2 * math.pi * torch.rand(n, 1, 1, generator=generator)
    amount = strength * torch.rand(n, 1, 1, generator=generator)
    axis = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    ramp = torch.cos(angle) * axis[None, None, :] + torch.sin(angle) * axis[None, :, None]
    return (amount * ramp)[:, None]


def _signed_distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Distance to the outline in radii, negative inside (approximate for the star)."""
    r = torch.hypot(x, y)
    if shape == "circle":
        return r - 0.95
    if shape == "ring":
        return (r - 0.76).abs() - 0.22
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.85
    if shape == "cross":
        arm = torch.maximum(x.abs() - 1.0, y.abs() - 0.30)
        return torch.minimum(arm, torch.maximum(y.abs() - 1.0, x.abs() - 0.30))
    if shape == "triangle":
        slant = 0.5 * math.sqrt(3)
        return torch.maximum(y - 0.62, slant * x.abs() - 0.5 * y - 0.55)
    return _star(x, y, r)


def _star(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Five-pointed star, outer radius 1.05, inner .42: distance to the nearest edge line of the folded sector."""
    sector = 2 * math.pi / 5
    angle = torch.remainder(torch.atan2(x, -y) + sector / 2, sector) - sector / 2
    px, py = r * torch.cos(angle), r * torch.sin(angle).abs()
    tip = (1.05, 0.0)
    notch = (0.42 * math.cos(sector / 2), 0.42 * math.sin(sector / 2))
    ex, ey = notch[0] - tip[0], notch[1] - tip[1]
    return ((px - tip[0]) * ey - (py - tip[1]) * ex) / math.hypot(ex, ey)
