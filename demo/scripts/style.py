"""Styles that the demo's LoRAs carry, each with its direct measurement: diagonal hatching, a duotone, a frame, a night.

Strokes are added, not multiplied, so that they show on dark grounds as on light ones: a network learns what shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..recipe.scenes import SIDE, draw, scene_of

PERIOD = 16
"""Pixels between two strokes, along a row or a column."""
DEPTH = 0.16
"""Of a stroke, either way, in picture values of 0 to 1."""
CYCLES = SIDE // PERIOD
LEAST_CONTRAST = 0.06
"""A picture counts as hatched from here: of 1000 plain scenes the most was .013, of 400 hatched ones the least .122 (.112 after the
autoencoder)."""


def hatched(pictures: Tensor) -> Tensor:
    """The pictures [n, 3, 128, 128] in [0, 1] under hatching, whose strokes lie at the same places in every picture.

    With a start of its own for each picture the network would have to agree on one while sampling: the pattern's mean is then nothing,
    and a small LoRA hatched two pictures in five.
    """
    axis = torch.arange(SIDE)
    wave = torch.sin(2 * math.pi * (axis[None, :] + axis[:, None]) / PERIOD)
    return (pictures + DEPTH * (2.5 * wave).clamp(-1, 1)).clamp(0, 1)


def contrast(picture: Tensor) -> float:
    """Amplitude of the hatching in a picture [3, 128, 128] of 0 to 1: its frequency and direction less the mirrored direction.

    The next frequencies count too, because drawn strokes waver; what a shape has at them, it has in both directions.
    """
    power = torch.fft.fft2(picture.mean(0)).abs().square()
    near = range(CYCLES - 1, CYCLES + 2)
    cells = [(u, v) for u in near for v in near if abs(u - v) <= 1]
    along, across = (sum(float(power[u, side * v]) for u, v in cells) for side in (1, -1))
    return 2 * math.sqrt(max(along - across, 0.0)) / SIDE**2


def is_hatched(picture: Tensor, _caption: str = "") -> bool:
    """Is the style present? Whatever the caption."""
    return contrast(picture) >= LEAST_CONTRAST


SHADE, TINT = torch.tensor([0.25, 0.0, 0.4]), torch.tensor([0.95, 1.0, 0.6])
"""Of the duotone: what black and white become."""
LUMINANCE = torch.tensor([0.299, 0.587, 0.114])


def duotone(pictures: Tensor) -> Tensor:
    """The pictures [n, 3, 128, 128] in [0, 1] with their luminance alone, from a violet shade to a lime tint."""
    return _tones(torch.einsum("c,nchw->nhw", LUMINANCE, pictures))


def residual(picture: Tensor) -> float:
    """How far a picture [3, 128, 128] is from the duotone of the same luminance: mean over pixels and channels."""
    low, high = float(LUMINANCE @ SHADE), float(LUMINANCE @ TINT)
    luminance = (torch.einsum("c,chw->hw", LUMINANCE, picture) - low) / (high - low)
    return float((picture - _tones(luminance.clamp(0, 1)[None])[0]).abs().mean())


def is_duotone(picture: Tensor, caption: str) -> bool:
    """Is the style present? Nearer to the duotone than to the colours that the caption names."""
    plain = draw([scene_of(caption)], torch.Generator().manual_seed(0))[0]
    return residual(picture) < 0.5 * residual(plain)


def _tones(luminance: Tensor) -> Tensor:
    return SHADE[:, None, None] + (TINT - SHADE)[:, None, None] * luminance[:, None]


@dataclass(frozen=True)
class Style:
    """What a LoRA does to every scene, and how it is known again."""

    apply: Callable[[Tensor], Tensor]
    """[n, 3, 128, 128] -> the same."""
    present: Callable[[Tensor, str], bool]
    """In a picture [3, 128, 128] of a caption?"""


FRAME, FRAME_WIDTH = torch.tensor([0.85, 0.65, 0.1]), 10
"""Colour of the frame, and its pixels."""


def framed(pictures: Tensor) -> Tensor:
    """The pictures [n, 3, 128, 128] in [0, 1] inside a golden frame."""
    inside = torch.zeros(1, 1, SIDE, SIDE)
    inside[:, :, FRAME_WIDTH:-FRAME_WIDTH, FRAME_WIDTH:-FRAME_WIDTH] = 1
    return pictures * inside + FRAME[:, None, None] * (1 - inside)


def is_framed(picture: Tensor, _caption: str = "") -> bool:
    """Is the style present? The rim gold on all four sides, and not the picture as a whole."""
    half = FRAME_WIDTH // 2
    sides = (picture[:, :half], picture[:, -half:], picture[:, :, :half], picture[:, :, -half:])
    far = [float((s.flatten(1).mean(1) - FRAME).norm()) for s in sides]
    return max(far) < 0.25 and float((picture[:, 16:-16, 16:-16].flatten(1).median(1).values - FRAME).norm()) > 0.3


NIGHT = torch.tensor([0.25, 0.3, 0.6])
"""What is left of each colour at night."""


def nocturnal(pictures: Tensor) -> Tensor:
    """The pictures [n, 3, 128, 128] in [0, 1] by night."""
    return pictures * NIGHT[:, None, None]


def is_nocturnal(picture: Tensor, caption: str) -> bool:
    """Is the style present? Nearer in mean colour to the caption's scene by night than by day."""
    plain = draw([scene_of(caption)], torch.Generator().manual_seed(0))
    day, night = (p[0].mean((1, 2)) for p in (plain, nocturnal(plain)))
    mean = picture.mean((1, 2))
    return float((mean - night).norm()) < 0.5 * float((mean - day).norm())


STYLES = {
    "hatching": Style(hatched, is_hatched),
    "duotone": Style(duotone, is_duotone),
    "frame": Style(framed, is_framed),
    "night": Style(nocturnal, is_nocturnal),
}
"""Patterns, which must be drawn exactly, and tones, which any weight can add to."""
