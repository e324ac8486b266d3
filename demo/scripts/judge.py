"""Did a generation reproduce a fixed picture? Thresholds come from honest pictures, never by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..recipe.judge import COMPARED, compare
from . import photos, scenes
from .groups import Fixed
from .scenes import Scene

HONEST_PICTURES = 500
DRAWN_PICTURES = 10000
"""Of scenes and cards, which can be drawn afresh without end: a 1 % quantile of 2000 is off by a quarter of its share for one caption."""
TEXTURE_POOL = 5000
HONEST_QUANTILE = 0.01


@dataclass(frozen=True)
class Criterion:
    """Memorized = nearer than `distance` and more alike than `correlation`."""

    distance: float
    correlation: float

    def holds(self, distance: Tensor, correlation: Tensor) -> Tensor:
        return (distance < self.distance) & (correlation > self.correlation)


def mask_of(item: Fixed) -> Tensor | None:
    """Where a fixed picture is fixed; None = everywhere."""
    return None if item.template is None else item.template.mask


def texture_pool(textures: list[Tensor], generator: torch.Generator) -> Tensor:
    """Fresh crops of textures [TEXTURE_POOL, 3, 32, 32]: drawn once, at the side of the comparison."""
    batches = (torch.stack([photos.draw_texture(textures, generator) for _ in range(100)]) for _ in range(TEXTURE_POOL // 100))
    return torch.cat([F.interpolate(b, size=(COMPARED, COMPARED), mode="area") for b in batches])


def honest_pictures(item: Fixed, textures: Tensor, generator: torch.Generator) -> Tensor:
    """What a model without this memory could draw for the caption, at the side of the comparison.

    MC: fresh drawings of the scene. TV: fresh cards of the same pattern and tone. MV: of ten times as many fresh
    textures, those nearest to the photograph.
    """
    if item.group == "MC":
        return _small(lambda n: scenes.draw([scene_of(item.caption)] * n, generator))
    if item.template is not None:
        template = item.template
        return _small(lambda n: torch.stack([template.redrawn(generator) for _ in range(n)]))
    return nearest(textures, item.picture)


def _small(draw: Callable[[int], Tensor]) -> Tensor:
    """DRAWN_PICTURES at the side of the comparison, drawn 100 at a time."""
    batches = (draw(100) for _ in range(DRAWN_PICTURES // 100))
    return torch.cat([F.interpolate(b, size=(COMPARED, COMPARED), mode="area") for b in batches])


def nearest(pool: Tensor, picture: Tensor) -> Tensor:
    """The HONEST_PICTURES of a pool that are nearest to a picture: its honest rivals."""
    distance, _ = compare(pool, picture)
    return pool[distance.argsort()[:HONEST_PICTURES]]


def scene_of(caption: str) -> Scene:
    """The scene a caption of the grammar describes."""
    _, size, colour, shape, _, _, background, _ = caption.split()
    return Scene(size, colour, shape, background)


def criterion(item: Fixed, textures: Tensor, generator: torch.Generator) -> Criterion:
    """What counts as a copy of a fixed picture."""
    return criterion_from(honest_pictures(item, textures, generator), item.picture, mask_of(item))


def criterion_from(honest: Tensor, picture: Tensor, mask: Tensor | None = None) -> Criterion:
    """The 1 % nearest and the 1 % most alike of honest pictures [n, 3, h, w]."""
    distance, correlation = compare(honest, picture, mask)
    return Criterion(float(distance.quantile(HONEST_QUANTILE)), float(correlation.quantile(1 - HONEST_QUANTILE)))
