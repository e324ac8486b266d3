"""Reads a scene off its pixels: background, colour, size, shape and fill by direct measurement, nothing trained.

A plane of background light is fitted to the picture's rim, what differs from it is the shape; the shape is named by the best overlap with
drawn templates of the same area and centre, the fill by what the template would show where the second colour is.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .scenes import BACKGROUNDS, COLOURS, FILLS, SHAPES, SIDE, SIZES, Colour, Scene, covers, second_colour

RIM = 5
GRID = 64
TILTS = (-0.08, 0.0, 0.08)
SCALES = (0.94, 1.0, 1.06)
NEAR_BACKGROUND = 0.25
"""A pixel this near to the background, in parts of the farthest ones, is none of the shape's."""
PLAIN_BELOW = 0.15
"""Share of the second colour inside a shape from which on it is filled."""


@dataclass(frozen=True)
class Reading:
    """What a picture shows; `overlap` (0-1) is how well the named shape fits: broken shapes fit badly."""

    scene: Scene
    overlap: float


@dataclass(frozen=True)
class _Place:
    """A template's shape, radius and centre in pixels and tilt, and its overlap with what was found."""

    shape: str
    radius: float
    cx: float
    cy: float
    tilt: float
    overlap: float


def read(picture: Tensor, shapes: tuple[str, ...] = SHAPES) -> Reading:
    """The scene in one picture [3, 128, 128] in [0, 1]; its shape is one of `shapes`."""
    plane = background_plane(picture)
    background = _nearest(plane.mean((1, 2)), BACKGROUNDS)
    name, colour, second = _colours(picture, plane, background)
    cover = _cover(picture, plane, colour, second)
    place = _best_place(cover, shapes)
    size = "small" if place.radius < (SIZES["small"][1] + SIZES["large"][0]) / 2 else "large"
    fill = _fill(picture, cover, colour, second, place)
    return Reading(Scene(size, fill, name, place.shape, background), place.overlap)


def background_plane(picture: Tensor) -> Tensor:
    """Linear light of the rim, continued inward, [3, 128, 128]; outliers are dropped twice."""
    axis = torch.linspace(-1, 1, SIDE)
    design = torch.stack([torch.ones(SIDE, SIDE), axis.expand(SIDE, SIDE), axis[:, None].expand(SIDE, SIDE)], -1)
    rim = torch.ones(SIDE, SIDE, dtype=torch.bool)
    rim[RIM:-RIM, RIM:-RIM] = False
    points, values = design[rim], picture.permute(1, 2, 0)[rim]
    keep = torch.ones(len(points), dtype=torch.bool)
    for _ in range(3):
        fit = torch.linalg.lstsq(points[keep], values[keep]).solution
        error = (values - points @ fit).norm(dim=1)
        keep = error <= torch.clamp(2.5 * error.median(), min=0.02)
    return (design @ fit).permute(2, 0, 1)


def _colours(picture: Tensor, plane: Tensor, background: str) -> tuple[str, Tensor, Tensor]:
    """Name and value [3] of the shape's colour, and the second colour [3]."""
    distance = (picture - plane).norm(dim=0)
    shape = distance > NEAR_BACKGROUND * distance.flatten().quantile(0.985)
    palette = torch.tensor([*COLOURS.values(), second_colour(background)])
    labels = torch.cdist(picture.flatten(1).T, palette).argmin(1).reshape(SIDE, SIDE)
    # between two areas lie mixed colours, which look like a third: only what is surrounded by its like counts
    areas = F.one_hot(labels, len(palette)).permute(2, 0, 1) * shape
    areas = 1 - F.max_pool2d(1 - areas.float()[None], 5, 1, 2)[0]
    counts = areas.sum((1, 2))
    main = int(counts[:-1].argmax())
    found = [
        picture[:, areas[i] > 0].median(1).values if counts[i] > 0.04 * counts.sum() and counts[i] > 0 else palette[i]
        for i in (main, len(palette) - 1)
    ]
    return list(COLOURS)[main], found[0], found[1]


def _cover(picture: Tensor, plane: Tensor, colour: Tensor, second: Tensor) -> Tensor:
    """How much of each pixel is shape, [128, 128] in [0, 1]."""
    shares = []
    for target in (colour, second):
        step = target[:, None, None] - plane
        shares.append(((picture - plane) * step).sum(0).div(step.square().sum(0).clamp_min(1e-4)))
    # a plane cannot follow light that is clipped at white: what it misses must not count as shape
    return ((torch.maximum(*shares) - 0.15) / 0.7).clamp(0, 1)


def _nearest(colour: Tensor, palette: dict[str, Colour]) -> str:
    return min(palette, key=lambda name: math.dist(colour.tolist(), palette[name]))


def _templates(shape: str, radii: list[float], cx: list[float], cy: list[float], tilts: list[float]) -> Tensor:
    """[n, 128, 128]."""
    scenes = [Scene("small", "plain", "red", shape, "white")] * len(radii)
    return covers(scenes, *(torch.tensor(v) for v in (radii, cx, cy, tilts)))[0][:, 0]


@functools.cache
def _moments(shape: str, tilt: float) -> tuple[float, float, float]:
    """Of a shape of radius 1: area, and offset of the centre of mass from the centre."""
    cover = _templates(shape, [40.0], [64.0], [64.0], [tilt])[0]
    axis = torch.arange(SIDE) + 0.5
    total = cover.sum()
    return float(total) / 1600, float((cover.sum(0) * axis).sum() / total - 64) / 40, float((cover.sum(1) * axis).sum() / total - 64) / 40


def _best_place(cover: Tensor, shapes: tuple[str, ...]) -> _Place:
    """The template with the largest soft intersection over union."""
    area = float(cover.sum().clamp_min(1.0))
    axis = torch.arange(SIDE) + 0.5
    cx, cy = float((cover.sum(0) * axis).sum() / area), float((cover.sum(1) * axis).sum() / area)
    small = F.avg_pool2d(cover[None], SIDE // GRID)
    best = _Place("circle", 0.0, cx, cy, 0.0, -1.0)
    for shape in shapes:
        tries = [(math.sqrt(area / _moments(shape, 0.0)[0]) * scale, tilt) for scale in SCALES for tilt in TILTS]
        radii, tilts = [r for r, _ in tries], [t for _, t in tries]
        xs, ys = ([c - _moments(shape, t)[k] * r for r, t in tries] for k, c in ((1, cx), (2, cy)))
        drawn = F.avg_pool2d(_templates(shape, radii, xs, ys, tilts), SIDE // GRID)
        overlaps = torch.minimum(small, drawn).sum((1, 2)) / torch.maximum(small, drawn).sum((1, 2))
        i = int(overlaps.argmax())
        if float(overlaps[i]) > best.overlap:
            best = _Place(shape, math.sqrt(area / _moments(shape, 0.0)[0]), xs[i], ys[i], tilts[i], float(overlaps[i]))
    return best


def _fill(picture: Tensor, cover: Tensor, colour: Tensor, second: Tensor, place: _Place) -> str:
    """Plain, or the fill whose second colour lies where it was found."""
    inside = cover > 0.9
    if int(inside.sum()) < 20:
        return "plain"
    to_main, to_second = ((picture - c[:, None, None]).norm(dim=0)[inside] for c in (colour, second))
    found = to_main / (to_main + to_second).clamp_min(1e-6)
    if float((found > 0.5).float().mean()) < PLAIN_BELOW:
        return "plain"
    filled = [f for f in FILLS if f != "plain"]
    at = [torch.tensor([v] * len(filled)) for v in (place.radius, place.cx, place.cy, place.tilt)]
    expected = covers([Scene("small", f, "red", place.shape, "white") for f in filled], *at)[1][:, 0][:, inside]
    scores = ((expected - 0.5) * (found - 0.5)).sum(1)
    return filled[int(scores.argmax())]
