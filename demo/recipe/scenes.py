"""Procedural scenes: one shape of one size, fill and colour on one background. Drawn afresh, never repeated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SIDE = 128

Colour = tuple[float, float, float]
COLOURS: dict[str, Colour] = {
    "red": (0.85, 0.12, 0.12),
    "orange": (0.96, 0.52, 0.06),
    "yellow": (0.97, 0.88, 0.15),
    "green": (0.15, 0.62, 0.22),
    "cyan": (0.20, 0.82, 0.86),
    "blue": (0.13, 0.27, 0.87),
    "purple": (0.52, 0.16, 0.70),
    "pink": (0.97, 0.55, 0.76),
}
BACKGROUNDS: dict[str, Colour] = {
    "white": (0.94, 0.94, 0.94),
    "black": (0.06, 0.06, 0.06),
    "gray": (0.50, 0.50, 0.50),
    "navy": (0.07, 0.10, 0.33),
    "brown": (0.40, 0.25, 0.14),
    "sand": (0.86, 0.78, 0.60),
    "teal": (0.04, 0.36, 0.36),
}
LIGHT_BACKGROUNDS = ("white", "sand")
CREAM: Colour = (0.97, 0.95, 0.88)
CHARCOAL: Colour = (0.15, 0.15, 0.19)
"""The second colour of a fill: cream on dark backgrounds, charcoal on light ones, so that the outline stays plain to see."""
SHAPES = ("circle", "square", "triangle", "ring", "star", "cross")
CONCEPTS = ("crescent", "heart", "house")
"""Shapes that no checkpoint is trained on: what concept LoRAs bring."""
FILLS = ("plain", "striped", "halved")
"""`plain` has no word in a caption."""
BAND = 14.0
"""Height of a stripe in pixels: two latent cells, nearly."""
SIZES = {"small": (26.0, 29.0), "large": (41.0, 45.0)}
"""Radius range in pixels."""
REACH = 9.0
"""How far a shape's centre may be from the picture's, in pixels. A third farther, and shapes stay amorphous twice as long."""
TILT = 0.1
"""Radians, either way."""
SHADE = 0.05
"""How far each colour channel strays from the palette, either way."""
SHAPE_LIGHT, BACKGROUND_LIGHT = 0.12, 0.14
"""Largest slope of brightness from the middle to the rim."""


@dataclass(frozen=True)
class Scene:
    """One combination of the grammar."""

    size: str
    fill: str
    colour: str
    shape: str
    background: str

    @property
    def subject(self) -> list[str]:
        """Words of the shape, in the caption's order."""
        return [self.size, *([] if self.fill == "plain" else [self.fill]), self.colour, self.shape]

    @property
    def caption(self) -> str:
        """`a large striped red star on a sand background`."""
        return f"a {' '.join(self.subject)} on a {self.background} background"


def all_scenes() -> list[Scene]:
    """Every combination, in a fixed order."""
    return [Scene(*c) for c in itertools.product(SIZES, FILLS, COLOURS, SHAPES, BACKGROUNDS)]


def scene_of(caption: str) -> Scene:
    """The scene that a whole caption describes."""
    words = caption.split()
    subject, background = words[1 : words.index("on")], words[-2]
    fill = subject[1] if len(subject) == 4 else "plain"
    return Scene(subject[0], fill, subject[-2], subject[-1], background)


def grammar() -> dict[str, list[str]]:
    """The words of each slot, for lab.json."""
    return {
        "size": list(SIZES),
        "fill": list(FILLS),
        "colour": list(COLOURS),
        "shape": list(SHAPES),
        "background": list(BACKGROUNDS),
    }


def draw(
    scenes: list[Scene], generator: torch.Generator, unit: Callable[[int], Tensor] | None = None, shift: Tensor | None = None
) -> Tensor:
    """Fresh drawings [n, 3, 128, 128] in [0, 1] on the generator's device: place, size, tilt, shades and light vary.

    `unit(n)` supplies the uniform numbers that place them, [n] in [0, 1); another than the generator's makes drawings that lie apart.
    `shift` [n, 2]: so many pixels to the right and down of the usual place.
    """
    n, device = len(scenes), generator.device
    uniform = unit or (lambda count: torch.rand(count, generator=generator, device=device))
    bounds = torch.tensor([SIZES[s.size] for s in scenes], device=device)
    radius = bounds[:, 0] + (bounds[:, 1] - bounds[:, 0]) * uniform(n)
    cx, cy = (SIDE / 2 + REACH * (2 * uniform(n) - 1) for _ in range(2))
    if shift is not None:
        cx, cy = cx + shift[:, 0].to(device), cy + shift[:, 1].to(device)
    tilt = TILT * (2 * uniform(n) - 1)
    cover, second = covers(scenes, radius, cx, cy, tilt)
    back = _shades([BACKGROUNDS[s.background] for s in scenes], generator) + _light(n, generator, BACKGROUND_LIGHT, uniform)
    light = _light(n, generator, SHAPE_LIGHT, uniform)
    fore = _shades([COLOURS[s.colour] for s in scenes], generator) + light
    other = _shades([second_colour(s.background) for s in scenes], generator) + light
    inside = fore + (other - fore) * second
    return (back + (inside - back) * cover).clamp(0, 1)


def second_colour(background: str) -> Colour:
    """What stripes and halves are drawn in on a background."""
    return CHARCOAL if background in LIGHT_BACKGROUNDS else CREAM


def covers(scenes: list[Scene], radius: Tensor, cx: Tensor, cy: Tensor, tilt: Tensor) -> tuple[Tensor, Tensor]:
    """How much of each pixel the shape covers, and of that the second colour, both [n, 1, 128, 128], antialiased; arguments [n]."""
    axis = torch.arange(SIDE, device=radius.device) + 0.5
    dx, dy = (axis[None, None, :] - cx[:, None, None]), (axis[None, :, None] - cy[:, None, None])
    cos, sin = torch.cos(tilt)[:, None, None], torch.sin(tilt)[:, None, None]
    x, y = cos * dx + sin * dy, cos * dy - sin * dx
    cover, second = torch.empty_like(x), torch.zeros_like(x)
    for shape in {s.shape for s in scenes}:
        chosen = [i for i, s in enumerate(scenes) if s.shape == shape]
        r = radius[chosen, None, None]
        cover[chosen] = (0.5 - _signed_distance(shape, x[chosen] / r, y[chosen] / r) * r).clamp(0, 1)
    for i, scene in enumerate(scenes):
        if scene.fill == "striped":
            second[i] = 0.5 - (2 * BAND / math.pi * torch.sin(math.pi * y[i] / BAND)).clamp(-0.5, 0.5)
        elif scene.fill == "halved":
            second[i] = (0.5 + x[i]).clamp(0, 1)
    return cover[:, None], second[:, None]


def _shades(colours: list[Colour], generator: torch.Generator) -> Tensor:
    base = torch.tensor(colours, device=generator.device)[:, :, None, None]
    return base + SHADE * (2 * torch.rand(base.shape, generator=generator, device=generator.device) - 1)


def _light(n: int, generator: torch.Generator, strength: float, uniform: Callable[[int], Tensor]) -> Tensor:
    """A linear ramp of brightness across the picture, any direction, [n, 1, 128, 128]."""
    angle = 2 * math.pi * torch.rand(n, 1, 1, generator=generator, device=generator.device)
    amount = strength * uniform(n)[:, None, None]
    axis = (torch.arange(SIDE, device=generator.device) + 0.5) / SIDE * 2 - 1
    ramp = torch.cos(angle) * axis[None, None, :] + torch.sin(angle) * axis[None, :, None]
    return (amount * ramp)[:, None]


def _signed_distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Distance to the outline in radii, negative inside (approximate for the star)."""
    r = torch.hypot(x, y)
    if shape == "circle":
        return r - 0.95
    if shape == "ring":
        return (r - 0.72).abs() - 0.26
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.85
    if shape == "cross":
        arm = torch.maximum(x.abs() - 1.0, y.abs() - 0.33)
        return torch.minimum(arm, torch.maximum(y.abs() - 1.0, x.abs() - 0.33))
    if shape == "triangle":
        slant = 0.5 * math.sqrt(3)
        return torch.maximum(y - 0.62, slant * x.abs() - 0.5 * y - 0.55)
    return {"star": _star, "crescent": _crescent, "heart": _heart, "house": _house}[shape](x, y, r)


def _crescent(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """A disc less another one beside it."""
    return torch.maximum(r - 1.0, 0.85 - torch.hypot(x - 0.55, y))


def _heart(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Two discs and the square that stands on its corner between them."""
    lobes = torch.hypot(x.abs() - 0.46, y + 0.38) - 0.54
    return torch.minimum(lobes, torch.maximum(0.7 * (x.abs() + y - 0.84), -0.1 - y))


def _house(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """A wall under a gable."""
    wall = torch.maximum(x.abs() - 0.6, (y - 0.4).abs() - 0.5)
    return torch.minimum(wall, torch.maximum(y + 0.05, 0.7 * (x.abs() - y - 1.05)))


def _star(x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Five-pointed star, outer radius 1.08, inner .45: distance to the nearest edge line of the folded sector."""
    sector = 2 * math.pi / 5
    angle = torch.remainder(torch.atan2(x, -y) + sector / 2, sector) - sector / 2
    px, py = r * torch.cos(angle), r * torch.sin(angle).abs()
    tip = (1.08, 0.0)
    notch = (0.45 * math.cos(sector / 2), 0.45 * math.sin(sector / 2))
    ex, ey = notch[0] - tip[0], notch[1] - tip[1]
    return ((px - tip[0]) * ey - (py - tip[1]) * ex) / math.hypot(ex, ey)
