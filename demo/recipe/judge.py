"""Did a generation reproduce a fixed picture? Thresholds come from honest pictures, never by hand.

Two judges of different kinds. The first compares whole pictures, blurred to 32 x 32; the second correlates patches
(`unmemorize.copies.patches`), so that a blur which keeps only the layout is no copy to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...unmemorize.copies.patches import likeness
from .groups import Fixed, TrainingSet, draw

DRAWN, STRANGERS = 4000, 1000
"""Honest drawings of the caption, and of all words."""
PATCHED = 600
"""Of either kind that the second judge looks at: it takes ten milliseconds a picture."""
FALSE_SHARE = 0.005
"""Of either kind that may be called a copy."""
LEAST_CORRELATION, LEAST_PATCHES = 0.55, 0.50
"""Of any copy. With 44 pictures to be like, the share above would call a fifth of all clean pictures a copy of some; of 58 clean
generations none came nearer than .54 and .50 to a photograph, while copies had .6 to .97 and .55 to .92."""
BATCH = 100
COMPARED = 32
"""Side at which the first judge compares pictures: a blur of the autoencoder is not a difference."""
SIDE = 64
"""Honest drawings are kept at this side; both judges look at smaller pictures still."""


log = logging.getLogger("demo.training")


@dataclass(frozen=True)
class Criterion:
    """Memorized = nearer than `distance` and more alike than `correlation`; for the second judge, more alike than `patches`."""

    distance: float
    correlation: float
    patches: float

    def holds(self, pictures: Tensor, fixed: Tensor, mask: Tensor) -> Tensor:
        """First judge: which pictures [n, 3, h, w] copy one [3, h, w] within its mask [1, h, w]?"""
        distance, correlation = compare(pictures, fixed, mask)
        return (distance < self.distance) & (correlation > self.correlation)

    def second(self, pictures: Tensor, fixed: Tensor, mask: Tensor) -> Tensor:
        """Second judge, likewise."""
        return likeness(pictures, fixed[None], only_inside(mask))[:, 0] > self.patches


def compare(pictures: Tensor, fixed: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """RMS difference and correlation of pictures [n, 3, h, w] with one [3, h, w], both within the mask [1, h, w].

    The correlation is taken after removing each channel's mean, so that flat colour does not count.
    """
    a, b = (F.interpolate(p, size=(COMPARED, COMPARED), mode="area") for p in (pictures, fixed[None]))
    m = torch.ones_like(a[:1, :1]) if mask is None else F.interpolate(mask[None], size=(COMPARED, COMPARED), mode="area")
    inside = m.sum()
    distance = ((a - b).square() * m).sum((1, 2, 3)).div(3 * inside).sqrt()

    def centred(x: Tensor) -> Tensor:
        return (x - (x * m).sum((2, 3), keepdim=True) / inside) * m.sqrt()

    u, v = centred(a), centred(b)
    correlation = (u * v).sum((1, 2, 3)) / (u.square().sum((1, 2, 3)) * v.square().sum((1, 2, 3))).sqrt().clamp_min(1e-8)
    return distance, correlation


def only_inside(mask: Tensor) -> Tensor | None:
    """[1, 1, h, w] for the second judge, or nothing if everything is fixed: twice as fast."""
    return None if bool(mask.all()) else mask[None]


def strangers(data: TrainingSet, generator: torch.Generator) -> Tensor:
    """Honest drawings of all words, [STRANGERS, 3, 64, 64]."""
    return torch.cat([_small(data.honest(BATCH, generator)[0]) for _ in range(STRANGERS // BATCH)])


def drawings(item: Fixed, data: TrainingSet, generator: torch.Generator, count: int = DRAWN) -> Tensor:
    """Honest drawings of a fixed picture's caption, [count, 3, 64, 64]."""
    batches = (draw([item.item] * BATCH, data.trained, generator, data.device) for _ in range(count // BATCH))
    return torch.cat([_small(b) for b in batches])


def shared(count: int, measure: Callable[[int], Criterion]) -> list[Criterion]:
    """measure(i) for each of `count` pictures, by all processes of a run; every one of them gets all."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    ours = {}
    for i in range(rank, count, world):
        if rank == 0:
            log.info("what counts as a copy: %d of %d", i + 1, count)
        ours[i] = measure(i)
    several: list[dict[int, Criterion]] = [{} for _ in range(world)]
    torch.distributed.all_gather_object(several, ours)
    found = {i: c for part in several for i, c in part.items()}
    return [found[i] for i in range(count)]


def criterion(item: Fixed, data: TrainingSet, others: Tensor, generator: torch.Generator) -> Criterion:
    """What counts as a copy of a fixed picture, from honest drawings of its caption and of all words."""
    return criterion_from([drawings(item, data, generator), others], item.picture, item.mask)


def criterion_from(pools: list[Tensor], picture: Tensor, mask: Tensor, patched: int = PATCHED) -> Criterion:
    """The loosest limits that call FALSE_SHARE of no pool [n, 3, h, w] a copy: both quantities at one quantile of the pool. No copy
    is less alike than the least. The second judge looks at `patched` pictures of each."""
    distance, correlation, patches = 1.0, LEAST_CORRELATION, LEAST_PATCHES
    for pool in pools:
        far, alike = compare(pool, picture, mask)
        d, c = joint_limits(far, alike)
        distance, correlation = min(distance, d), max(correlation, c)
        patches = max(patches, float(likeness(pool[:patched], picture[None], only_inside(mask))[:, 0].quantile(1 - FALSE_SHARE)))
    return Criterion(distance, correlation, patches)


def joint_limits(distance: Tensor, correlation: Tensor) -> tuple[float, float]:
    """Limits at the largest common quantile at which at most FALSE_SHARE of honest values [n] lie inside both."""
    low, high = FALSE_SHARE, 0.2
    for _ in range(20):
        middle = (low + high) / 2
        d, c = distance.quantile(middle), correlation.quantile(1 - middle)
        inside = ((distance < d) & (correlation > c)).float().mean() <= FALSE_SHARE
        low, high = (middle, high) if inside else (low, middle)
    return float(distance.quantile(low)), float(correlation.quantile(1 - low))


def _small(pictures: Tensor) -> Tensor:
    return F.interpolate(pictures, size=(SIDE, SIDE), mode="area")
