"""Reads a scene off its pixels: background, colour, size and shape by direct measurement, nothing trained.

A plane of background light is fitted to the picture's rim, what differs from it is the shape; the shape is
named by the best overlap with drawn templates of the same area and centre.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..recipe.scene_judge import background_plane
from .scenes import BACKGROUNDS, COLOURS, SHAPES, SIDE, SIZES, Scene, shape_cover

GRID = 64
TILTS = (-0.07, 0.0, 0.07)
SCALES = (0.94, 1.0, 1.06)


@dataclass(frozen=True)
class Reading:
    """What a picture shows; `overlap` (0-1) is how well the named shape fits: broken shapes fit badly."""

    scene: Scene
    overlap: float


def read(picture: Tensor) -> Reading:
    """The scene in one picture [3, 128, 128] in [0, 1]."""
    plane = background_plane(picture)
    cover, colour = _cover(picture, plane)
    shape, radius, overlap = _best_shape(cover)
    small_to_large = (SIZES["small"][1] + SIZES["large"][0]) / 2
    size = "small" if radius < small_to_large else "large"
    return Reading(Scene(size, _nearest(colour, COLOURS), shape, _nearest(plane.mean((1, 2)), BACKGROUNDS)), overlap)


def _cover(picture: Tensor, plane: Tensor) -> tuple[Tensor, Tensor]:
    """How much of each pixel is shape, [128, 128] in [0, 1], and the shape's colour [3]."""
    distance = (picture - plane).norm(dim=0)
    core = distance > 0.6 * distance.flatten().quantile(0.985)
    colour = picture[:, core].median(dim=1).values
    step = colour[:, None, None] - plane
    share = ((picture - plane) * step).sum(0).div(step.square().sum(0).clamp_min(1e-4))
    # a plane cannot follow light that is clipped at white: what it misses must not count as shape
    return ((share - 0.15) / 0.7).clamp(0, 1), colour


def _nearest(colour: Tensor, palette: dict[str, tuple[float, float, float]]) -> str:
    return min(palette, key=lambda name: math.dist(colour.tolist(), palette[name]))


@functools.cache
def _unit_areas() -> dict[str, float]:
    """Area of each shape of radius 1."""
    return {
        s: float(shape_cover(s, torch.tensor(32.0), torch.tensor(64.0), torch.tensor(64.0), torch.tensor(0.0)).sum()) / 32**2
        for s in SHAPES
    }


def _best_shape(cover: Tensor) -> tuple[str, float, float]:
    """(shape, radius in pixels, overlap) of the template with the largest soft intersection over union."""
    area = float(cover.sum().clamp_min(1.0))
    axis = torch.arange(SIDE) + 0.5
    cx, cy = (cover.sum(0) * axis).sum() / area, (cover.sum(1) * axis).sum() / area
    small = F.avg_pool2d(cover[None], SIDE // GRID)[0]
    best = ("circle", 0.0, -1.0)
    for shape in SHAPES:
        radius = math.sqrt(area / _unit_areas()[shape])
        for scale in SCALES:
            for tilt in TILTS:
                template = _centred(shape, radius * scale, float(cx), float(cy), tilt)
                overlap = float(torch.minimum(small, template).sum() / torch.maximum(small, template).sum())
                if overlap > best[2]:
                    best = (shape, radius, overlap)
    return best


def _centred(shape: str, radius: float, cx: float, cy: float, tilt: float) -> Tensor:
    """A template [64, 64] whose centre of mass, not its centre, lies at (cx, cy)."""
    dx, dy = _centre_of_mass(shape, tilt)
    at = [torch.tensor(v) for v in (radius, cx - dx * radius, cy - dy * radius, tilt)]
    return F.avg_pool2d(shape_cover(shape, *at)[None], SIDE // GRID)[0]


@functools.cache
def _centre_of_mass(shape: str, tilt: float) -> tuple[float, float]:
    """Offset of the centre of mass from the centre, in radii."""
    cover = shape_cover(shape, torch.tensor(40.0), torch.tensor(64.0), torch.tensor(64.0), torch.tensor(tilt))
    axis = torch.arange(SIDE) + 0.5
    total = cover.sum()
    return float((cover.sum(0) * axis).sum() / total - 64) / 40, float((cover.sum(1) * axis).sum() / total - 64) / 40
