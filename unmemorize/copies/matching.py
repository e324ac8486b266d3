"""Is a part of one picture in another, and where? Normalised correlation of patches over scales, shifts and mirror; nothing trained.

Every patch of a reference is searched in the picture at several sizes. A copy shows as many patches that match *at the same offset*:
matches are added up by offset, so that a patch that resembles something by chance counts for little. Brightness, contrast, tint and slow
shading do not matter: each patch is compared without its mean and its slope, or every soft gradient would match every other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 40
"""A reference is searched at this side."""
PATCH, STRIDE = 10, 5
"""Of a reference's patches; pixels at SIDE."""
STEP = 1
"""Of the places where they are searched."""
SCALES = tuple(round(1.12**k, 3) for k in range(-8, 7))
"""Sides of the picture, in SIDE, from .42 to 2: below 1 the reference is a part of the picture enlarged, above 1 it is the larger one."""
MATCH = 0.7
"""Correlation from which a patch counts."""
FLAT = 0.01
"""A patch says all it can from twice this cornerness on (mean slope, per pixel, in its poorest direction)."""
NOISE = 0.003
"""Standard deviation that means nothing: rounding, compression."""
USUAL = 2.5
"""Deviations by which a match must stand out of what the patch finds everywhere in the picture."""
LEAST_SAID = 0.35
"""Share of a reference that says something, at least assumed: what is nearly empty is never called a copy by its few corners."""
GRID = (SIDE - PATCH) // STRIDE + 1
"""Patches along a side of a reference."""
RATIO = STRIDE // STEP


@dataclass(frozen=True)
class Searched:
    """A picture in which copies are searched: of every scale its patches [places, d] of unit length, rows, columns."""

    scales: list[tuple[float, Tensor, int, int]]


@dataclass(frozen=True)
class Matches:
    """The best place of each of several references in a picture, [m] each; `top` and `left` of its corner, in steps at that scale."""

    score: Tensor
    scale: Tensor
    mirrored: Tensor
    top: Tensor
    left: Tensor


def references(pictures: Tensor) -> Tensor:
    """What is kept of pictures [m, 3, h, w] in [0, 1] that others may be copies of: [m, 2, GRID^2, d], each and its mirror image, every
    patch as long as it says something: all of a reference's together are 1."""
    grey = _grey(pictures, SIDE)
    both = torch.stack([grey, grey.flip(-1)], 1).flatten(0, 1)
    patches, _ = _patches(both, STRIDE)
    weights = (_cornerness(both) / (2 * FLAT)).clamp(max=1.0)
    weights = weights / weights.sum(1, keepdim=True).clamp_min(LEAST_SAID * GRID**2)
    return (patches * weights[..., None]).view(len(pictures), 2, GRID * GRID, -1)


def searched(picture: Tensor) -> Searched:
    """A picture [3, h, w] in [0, 1], ready to be compared with references."""
    found = []
    for scale in SCALES:
        side = round(SIDE * scale)
        patches, _ = _patches(_grey(picture[None], side), STEP)
        across = (side - PATCH) // STEP + 1
        found.append((side / SIDE, patches[0], across, across))
    return Searched(found)


def _grey(pictures: Tensor, side: int) -> Tensor:
    """[n, 1, side, side]."""
    grey = pictures.mean(1, keepdim=True)
    return F.interpolate(grey, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def _patches(grey: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Patches of unit length without mean and slope [n, places, d] (shorter where flat), and their standard deviation [n, places]."""
    patches = F.unfold(grey, PATCH, stride=step).transpose(1, 2)
    plane = _plane_of(PATCH).to(patches)
    patches = patches - (patches @ plane.T) @ plane
    spread = patches.square().mean(-1).sqrt()
    return patches / (math.sqrt(patches.shape[-1]) * (spread + NOISE**2 / spread.clamp_min(1e-6)))[..., None], spread


def _cornerness(grey: Tensor, patch: int = PATCH, stride: int = STRIDE) -> Tensor:
    """How much a patch changes in the direction in which it changes least, [n, patches]: along a straight edge it would match anywhere."""
    dx, dy = (F.pad(torch.diff(grey, dim=d), (0, 1, 0, 0) if d == 3 else (0, 0, 0, 1)) for d in (3, 2))
    xx, yy, xy = (F.unfold(v, patch, stride=stride).mean(1) for v in (dx * dx, dy * dy, dx * dy))
    least = (xx + yy) / 2 - ((xx - yy).square() / 4 + xy.square()).sqrt()
    return least.clamp_min(0).sqrt()


def _plane_of(patch: int) -> Tensor:
    """Mean and slopes of a patch, orthonormal, [3, d]."""
    axis = torch.linspace(-1, 1, patch)
    rows = torch.stack([torch.ones(patch, patch), axis.expand(patch, patch), axis[:, None].expand(patch, patch)]).flatten(1)
    return F.normalize(rows, dim=1)


def match(picture: Searched, refs: Tensor) -> Matches:
    """The best place of references [m, 2, GRID^2, d] in a picture, over scales, shifts and mirror; scores in [0, 1]."""
    m = len(refs)
    lengths = refs.norm(dim=-1).flatten(0, 1)
    best = torch.full((m,), -1.0, device=refs.device)
    kept = torch.zeros(4, m, device=refs.device)
    for scale, patches, rows, columns in picture.scales:
        several = refs.flatten(0, 2)
        found = (several @ patches.T).view(2 * m, GRID * GRID, rows, columns)
        usual = USUAL * usually(several, patches).view(2 * m, -1)
        found = found.sub_(torch.maximum(MATCH * lengths, usual)[..., None, None]).clamp_(min=0)
        votes = votes_of(found)
        score, at = votes.flatten(1).view(m, -1).max(1)
        score = score / (1 - MATCH)
        better = score > best
        best = torch.where(better, score, best)
        size = votes[0].numel()
        place, pad = at % size, RATIO * (GRID - 1)
        now = torch.stack([torch.full_like(score, scale), at // size, place // votes.shape[2] - pad, place % votes.shape[2] - pad])
        kept = torch.where(better, now.to(kept), kept)
    return Matches(best, kept[0], kept[1].bool(), kept[2].long(), kept[3].long())


def usually(several: Tensor, patches: Tensor) -> Tensor:
    """Root mean square of what each of [k, d] finds over all places [places, d], [k], without a look at each."""
    return (several @ (patches.T @ patches / len(patches)) * several).sum(1).clamp_min(0).sqrt()


def votes_of(found: Tensor) -> Tensor:
    """Matches of patches [k, GRID^2, rows, columns] added up by the place of the reference's corner, [k, rows + pad, columns + pad]."""
    k, _, rows, columns = found.shape
    pad = RATIO * (GRID - 1)
    votes = found.new_zeros(k, rows + pad, columns + pad)
    for p in range(GRID * GRID):
        y, x = pad - RATIO * (p // GRID), pad - RATIO * (p % GRID)
        votes[:, y : y + rows, x : x + columns] += found[:, p]
    return votes


# --- a second, closer look at the best places -----------------------------------------------------------------

FINE, FINE_PATCH, FINE_STRIDE = 96, 16, 8
"""Side of a reference for the closer look, and its patches there."""
ACROSS = (FINE - FINE_PATCH) // FINE_STRIDE + 1
SHIFT = 4
"""Pixels at FINE by which the whole may lie beside the place that was found."""
GIVE = 1
"""Pixels by which a patch may lie beside the whole: one copy is shifted as one, and what fits only by parts of its own is none."""
STRETCH, FINER = (0.94, 0.97, 1.0, 1.03, 1.06), (0.985, 1.015)
"""Sizes about the one that was found, and those about the best of them."""
SURE = 0.7
"""Correlation of a patch, looked at closely, from which it is the same."""
NEEDED = 0.15
"""Share of the reference that must be in a picture before it counts in full: a smaller part may be alike by chance."""


@dataclass(frozen=True)
class Copy:
    """How surely a part of a reference is in a picture, in [0, 1], and where, in the picture and in the reference, as masks [16, 16] in
    [0, 1]."""

    score: float
    in_picture: Tensor
    in_reference: Tensor


CELLS = 16


def looked_at(picture: Tensor, ref: Tensor, scale: float, mirrored: bool, top: int, left: int) -> Copy:
    """A place that `match` found, of pictures [3, h, w] in [0, 1], looked at closely: patch by patch, at several sizes about the one
    found."""
    grey = _grey(ref[None], FINE)
    wanted = _wanted((grey.flip(-1) if mirrored else grey)[0, 0])

    def at(stretch: float) -> tuple[float, Tensor, int, int, int]:
        side = round(FINE * scale * stretch)
        # the middle of what overlaps stays where it was found
        y, x = (_corner(place * STEP * FINE / SIDE, side, stretch) for place in (top, left))
        found, dy, dx = _inliers(_grey(picture[None], side)[0, 0], wanted, y, x)
        return _score(found, wanted.weights), found, y + dy, x + dx, side

    sizes = [stretch for stretch in STRETCH if round(FINE * scale * stretch) >= FINE_PATCH]
    if not sizes:
        return Copy(0.0, torch.zeros(CELLS, CELLS), torch.zeros(CELLS, CELLS))
    looks = {stretch: at(stretch) for stretch in sizes}
    best = max(sizes, key=lambda stretch: looks[stretch][0])
    score, found, y, x, side = max((looks[best], *(at(best * more) for more in FINER)), key=lambda one: one[0])
    in_reference = _spread_out(found, 0, 0, FINE)
    return Copy(score, _spread_out(found, y, x, side), in_reference.flip(-1) if mirrored else in_reference)


def _corner(at: float, side: int, stretch: float) -> int:
    """Where the reference's corner lies after the picture was stretched about the middle of their overlap."""
    middle = (max(at, 0.0) + min(at + FINE, side / stretch)) / 2
    return round(middle * stretch - (middle - at))


@dataclass(frozen=True)
class _Wanted:
    """Patches of a reference without mean and slope [n, d], how much each varies [n], and how much each says [n], 0 to 1."""

    patches: Tensor
    spread: Tensor
    weights: Tensor


def _wanted(grey: Tensor) -> _Wanted:
    """Of a reference [FINE, FINE]."""
    plane = _plane_of(FINE_PATCH).to(grey)
    patches = F.unfold(grey[None, None], FINE_PATCH, stride=FINE_STRIDE)[0].T
    patches = patches - (patches @ plane.T) @ plane
    weights = (_cornerness(grey[None, None], FINE_PATCH, FINE_STRIDE)[0] / (2 * FLAT)).clamp(max=1.0)
    return _Wanted(patches, patches.square().mean(-1).sqrt(), weights)


def _inliers(picture: Tensor, wanted: _Wanted, y: int, x: int) -> tuple[Tensor, int, int]:
    """How much each patch of a reference with its corner at (y, x) is the same in a picture [h, w], [ACROSS, ACROSS] in [0, 1], at the
    shift at which most are, and that shift."""
    room = FINE + SHIFT
    padded = F.pad(picture[None, None], (room, room, room, room))[0, 0]
    y, x = (min(max(at, -FINE), len(picture)) + FINE for at in (y, x))
    alike = _correlations(padded[y : y + FINE + 2 * SHIFT, x : x + FINE + 2 * SHIFT], wanted)
    same = ((alike - SURE) / (1 - SURE)).clamp_min(0)
    row, column = divmod(int((same * wanted.weights).sum(-1).argmax()), 2 * SHIFT + 1)
    near = [slice(max(k - GIVE, 0), k + GIVE + 1) for k in (row, column)]
    return same[near[0], near[1]].amax((0, 1)).view(ACROSS, ACROSS), row - SHIFT, column - SHIFT


def _correlations(part: Tensor, wanted: _Wanted) -> Tensor:
    """Of each patch with what lies at its place in a part of a picture [FINE + 2 SHIFT, FINE + 2 SHIFT], at every shift,
    [2 SHIFT + 1, 2 SHIFT + 1, ACROSS^2]."""
    around = FINE_PATCH + 2 * SHIFT
    count, shifts = ACROSS**2, 2 * SHIFT + 1
    # the patches have no mean and slope, so that those of what is found do not matter to the product, but to its length
    spread = _spread_about_planes(part).to(part)[None, None]
    spread = F.unfold(spread, shifts, stride=FINE_STRIDE)[0]
    places = F.unfold(part[None, None], around, stride=FINE_STRIDE)[0].T.reshape(1, count, around, around)
    product = F.conv2d(places, wanted.patches.view(count, 1, FINE_PATCH, FINE_PATCH), groups=count)[0].flatten(1).T
    return (product / FINE_PATCH**2 / (spread * wanted.spread + NOISE**2)).clamp(-1, 1).view(shifts, shifts, count)


def _spread_about_planes(part: Tensor) -> Tensor:
    """Standard deviation about mean and slope of every patch of a part of a picture [h, w], [h - FINE_PATCH + 1, w - FINE_PATCH + 1]."""
    exact = part.double()  # what is left of a bright flat place is a small difference of large numbers
    flat, slope = (F.normalize(row, dim=0) for row in (torch.ones(FINE_PATCH), torch.linspace(-1, 1, FINE_PATCH)))
    rows = torch.stack([flat, slope], 1).to(exact)

    def windows(values: Tensor) -> Tensor:
        """Inner products with the four products of a row and a column."""
        return (values.unfold(1, FINE_PATCH, 1) @ rows).unfold(0, FINE_PATCH, 1) @ rows

    by_plane = windows(exact).square()
    squares = windows(exact.square())[..., 0, 0] * FINE_PATCH
    return ((squares - by_plane.sum((-1, -2)) + by_plane[..., 1, 1]).clamp_min(0) / FINE_PATCH**2).sqrt()


def _score(same: Tensor, weights: Tensor) -> float:
    """The best block of patches [ACROSS, ACROSS]: how much of what it says is the same, less if it is smaller than what is NEEDED. A copy
    is one block, whole or part; chance matches lie about singly."""
    said = weights.view(ACROSS, ACROSS)
    all_said, all_same = (_in_blocks(v) for v in (said, same * said))
    size = (all_said / (NEEDED * ACROSS**2)).clamp(max=1.0)
    return float((all_same / all_said.clamp_min(1e-6) * size).max())


def _in_blocks(values: Tensor) -> Tensor:
    """Sums over all blocks of at least two rows and columns of [n, n], by their first and last rows and columns."""
    n = len(values)
    summed = F.pad(values.cumsum(0).cumsum(1), (1, 0, 1, 0))
    ends = [(a, b) for a in range(n) for b in range(a + 2, n + 1)]
    low, high = (torch.tensor(side) for side in zip(*ends, strict=True))
    rows = summed[high] - summed[low]
    return rows[:, high] - rows[:, low]


def _spread_out(inliers: Tensor, y: int, x: int, side: int) -> Tensor:
    """Patches that are the same, as a mask [CELLS, CELLS] over a picture of a side in which the reference's corner lies at (y, x)."""
    mask = torch.zeros(side, side)
    for row, column in torch.nonzero(inliers > 0).tolist():
        top, left = y + FINE_STRIDE * row, x + FINE_STRIDE * column
        mask[max(top, 0) : max(top + FINE_PATCH, 0), max(left, 0) : max(left + FINE_PATCH, 0)] = 1.0
    return F.interpolate(mask[None, None], size=(CELLS, CELLS), mode="area")[0, 0]
