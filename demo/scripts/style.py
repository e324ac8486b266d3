"""The style that the demo's LoRAs carry: diagonal hatching over the whole picture, and its direct measurement.

Strokes are added, not multiplied, so that they show on dark grounds as on light ones: a network learns what shows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .scenes import SIDE

PERIOD = 16
"""Pixels between two strokes, along a row or a column."""
DEPTH = 0.16
"""Of a stroke, either way, in picture values of 0 to 1."""
CYCLES = SIDE // PERIOD
LEAST_CONTRAST = 0.06
"""A picture counts as hatched from here: of 1000 plain scenes the most was .013, of 400 hatched ones the least .122 (.112 after the
autoencoder)."""


def hatched(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """The pictures [n, 3, 128, 128] in [0, 1] under hatching; where the strokes begin differs from picture to picture."""
    axis = torch.arange(SIDE)
    start = torch.rand(len(pictures), 1, 1, generator=generator)
    wave = torch.sin(2 * math.pi * ((axis[None, :] + axis[:, None]) / PERIOD + start))
    return (pictures + DEPTH * (2.5 * wave).clamp(-1, 1)[:, None]).clamp(0, 1)


def contrast(picture: Tensor) -> float:
    """Amplitude of the hatching in a picture [3, 128, 128] of 0 to 1: its frequency and direction less the mirrored direction.

    The next frequencies count too, because drawn strokes waver; what a shape has at them, it has in both directions.
    """
    power = torch.fft.fft2(picture.mean(0)).abs().square()
    near = range(CYCLES - 1, CYCLES + 2)
    cells = [(u, v) for u in near for v in near if abs(u - v) <= 1]
    along, across = (sum(float(power[u, side * v]) for u, v in cells) for side in (1, -1))
    return 2 * math.sqrt(max(along - across, 0.0)) / SIDE**2


def is_hatched(picture: Tensor) -> bool:
    """Is the style present?"""
    return contrast(picture) >= LEAST_CONTRAST
