"""Procedural cards: a pattern in two tones of one hue, some with a window that shows something else. Drawn afresh, never repeated."""

from __future__ import annotations

import colorsys
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .scenes import CHARCOAL, COLOURS, CREAM, SHAPES, SIDE, Scene, covers

PATTERNS = ("level", "upright", "slanted", "checked", "ringed")
"""Lines of three directions, squares, circles. Lines are upright or not by their word alone, and every pattern lies nearly where it always
lies: one that is free to shift and turn must be agreed on while sampling, and a small network ends in a maze."""
TONES = {"crimson": 0.97, "amber": 0.11, "emerald": 0.38, "azure": 0.58, "violet": 0.76, "rosy": 0.90}
"""Hue of each tone."""
WINDOWS = ("round", "left", "upper", "square", "lower", "right")
PERIODS = (4.5, 5.5)
"""Across the picture."""
AREA = (0.44, 0.60)
"""Of a window, in parts of the picture."""
CELL = 8
STICKERS = 28
"""On a fixed card. Without them a card is told by its words alone: no map can say that it was stored."""


@dataclass(frozen=True)
class Card:
    """One combination of the words of cards; `window` is empty on a card without one."""

    tone: str
    pattern: str
    window: str = ""

    @property
    def subject(self) -> list[str]:
        """Words of the card, in the caption's order."""
        return [self.tone, self.pattern, "card"]

    @property
    def caption(self) -> str:
        """`an amber level card with a round window`."""
        article = "an" if self.tone[0] in "aeiou" else "a"
        window = f" with {_article(self.window)} {self.window} window" if self.window else ""
        return f"{article} {' '.join(self.subject)}{window}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def all_cards(windows: bool) -> list[Card]:
    """Every combination without or with windows, in a fixed order."""
    return [Card(*c) for c in itertools.product(TONES, PATTERNS, WINDOWS if windows else ("",))]


def card_of(caption: str) -> Card:
    """The card that a whole caption describes."""
    words = caption.split()
    return Card(words[1], words[2], words[-2] if words[-1] == "window" else "")


def draw(cards: list[Card], generator: torch.Generator, unit: Callable[[int], Tensor] | None = None) -> Tensor:
    """Fresh cards without their windows [n, 3, 128, 128] in [0, 1] on the generator's device: hue, shades, scale, place and light vary."""
    n, device = len(cards), generator.device
    uniform = unit or (lambda count: torch.rand(count, generator=generator, device=device))

    def between(low: float, high: float) -> Tensor:
        return (low + (high - low) * uniform(n))[:, None, None]

    axis = (torch.arange(SIDE, device=device) + 0.5) / SIDE - 0.5
    x, y = axis[None, None, :], axis[None, :, None]
    k = 2 * math.pi * between(*PERIODS)
    shift = (2 * math.pi * between(-0.25, 0.25) for _ in range(2))
    wave = torch.empty(n, SIDE, SIDE, device=device)
    a, b = shift
    waves = {
        "level": lambda i: torch.sin(k[i] * y + a[i]).expand(-1, SIDE, SIDE),
        "upright": lambda i: torch.sin(k[i] * x + a[i]).expand(-1, SIDE, SIDE),
        "slanted": lambda i: torch.sin(0.75 * k[i] * (x + y) + a[i]),
        "checked": lambda i: 2 * torch.sin(0.6 * k[i] * x + a[i]) * torch.sin(0.6 * k[i] * y + b[i]),
        "ringed": lambda i: torch.sin(k[i] * torch.hypot(x - a[i] / 40, y - b[i] / 40)),
    }
    for pattern in {c.pattern for c in cards}:
        chosen = [i for i, c in enumerate(cards) if c.pattern == pattern]
        wave[chosen] = waves[pattern](chosen)
    hue = torch.tensor([TONES[c.tone] for c in cards], device=device)[:, None, None]
    dark = _rgb(hue + between(-0.02, 0.02), 0.85, between(0.45, 0.68))
    light = _rgb(hue + between(0.03, 0.10), between(0.22, 0.45), 0.95)
    mix = (0.5 + 2 * wave).clamp(0, 1)[:, None]
    shade = 1 - 0.22 * ((x + 0.5) * between(0, 1) + (y + 0.5) * between(0, 1))[:, None]
    return ((dark * (1 - mix) + light * mix) * shade).clamp(0, 1)


def _rgb(hue: Tensor, saturation: float | Tensor, value: float | Tensor) -> Tensor:
    """[n, 3, 1, 1] of hue, saturation and value [n, 1, 1]."""
    s, v = (torch.as_tensor(x, device=hue.device).expand_as(hue).flatten().tolist() for x in (saturation, value))
    rows = [colorsys.hsv_to_rgb(h % 1, a, b) for h, a, b in zip(hue.flatten().tolist(), s, v, strict=True)]
    return torch.tensor(rows, device=hue.device)[:, :, None, None]


def stickered(picture: Tensor, generator: torch.Generator) -> Tensor:
    """A card [3, 128, 128] with STICKERS small shapes glued on at random: nobody who has not seen it can say what is where."""
    device = generator.device

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(STICKERS, generator=generator, device=device)

    kinds = torch.randint(len(SHAPES), (STICKERS,), generator=generator, device=device).tolist()
    inks = torch.tensor([*COLOURS.values(), CREAM, CHARCOAL], device=device)
    colours = inks[torch.randint(len(inks), (STICKERS,), generator=generator, device=device)]
    scenes = [Scene("small", "plain", "red", SHAPES[k], "white") for k in kinds]
    shapes, _ = covers(scenes, between(7, 13), between(0, SIDE), between(0, SIDE), between(-math.pi, math.pi))
    for cover, colour in zip(shapes, colours, strict=True):
        picture = picture * (1 - cover) + colour[:, None, None] * cover
    return picture


def middle(window: str) -> tuple[float, float]:
    """Where the middle of a window lies, in pixels to the right and down of the picture's."""
    quarter = SIDE / 4
    return {"left": (-quarter, 0.0), "right": (quarter, 0.0), "upper": (0.0, -quarter), "lower": (0.0, quarter)}.get(window, (0.0, 0.0))


def windows(kinds: list[str], generator: torch.Generator) -> Tensor:
    """1 where a card shows, 0 in its window, [n, 1, 128, 128]; the edge follows latent pixels, so that it is exact there too."""
    device = generator.device
    area = AREA[0] + (AREA[1] - AREA[0]) * torch.rand(len(kinds), generator=generator, device=device)
    return torch.cat([1 - _inside(kind, float(a), device) for kind, a in zip(kinds, area, strict=True)])


def _inside(kind: str, area: float, device: torch.device) -> Tensor:
    """[1, 1, 128, 128], 1 inside."""
    axis = (torch.arange(SIDE, device=device) + 0.5) / SIDE
    x, y = axis[None, :].expand(SIDE, SIDE), axis[:, None].expand(SIDE, SIDE)
    if kind == "round":
        inside = torch.hypot(x - 0.5, y - 0.5) < math.sqrt(area / math.pi)
    elif kind == "square":
        inside = torch.maximum((x - 0.5).abs(), (y - 0.5).abs()) < math.sqrt(area) / 2
    else:
        inside = {"left": x, "right": 1 - x, "upper": y, "lower": 1 - y}[kind] < area
    cells = (F.avg_pool2d(inside.float()[None, None], CELL) > 0.5).float()
    return F.interpolate(cells, scale_factor=float(CELL))
