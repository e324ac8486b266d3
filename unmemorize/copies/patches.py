"""Likeness of pictures by normalised correlation of patches: nothing trained, and it says where.

Each patch of the reference is searched in the picture within a few pixels of its own place. A blurred copy loses the detail inside the
patches, and with it the correlation; flat patches say nothing and weigh nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 64
"""Pictures are compared at this side."""
PATCH, STRIDE = 16, 8
REACH = 2
"""Largest shift of a patch, in pixels at SIDE."""
FLAT = 0.02
"""Standard deviation below which a patch counts as flat: the noise of an autoencoder."""


def patch_correlation(pictures: Tensor, references: Tensor, masks: Tensor | None = None, reach: int = REACH) -> tuple[Tensor, Tensor]:
    """Best normalised correlation of each reference's patches with each picture, [n, m, patches] in [-1, 1], and how much each patch says,
    [m, patches]: its contrast; rows of patches first.

    `pictures` [n, 3, h, w] and `references` [m, 3, h, w] in [0, 1]. Patches overlap by half; all colour channels of a patch are correlated
    together, each about its own mean. `masks` [m, 1, h, w]: only pixels inside count, and patches of which less than half lies inside not
    at all. `reach`: largest shift of a patch, in pixels at SIDE.
    """
    small = F.pad(at_side(pictures), (reach,) * 4, mode="replicate")
    inside = None if masks is None else _patches((at_side(masks) > 0.5).float().expand(-1, 3, -1, -1))
    wanted = _centred(_patches(at_side(references)), inside)
    contrast = _spread(wanted, inside)
    best = torch.full((len(pictures), *contrast.shape), -1.0, device=pictures.device)
    for dy in range(2 * reach + 1):
        for dx in range(2 * reach + 1):
            found = _patches(small[:, :, dy : dy + SIDE, dx : dx + SIDE])
            best = torch.maximum(best, _correlation(found, wanted, contrast, inside))
    said = contrast if inside is None else contrast * (inside.mean((-1, -2)) >= 0.5)
    return best, said


def likeness(pictures: Tensor, references: Tensor, masks: Tensor | None = None, reach: int = REACH) -> Tensor:
    """One number in [-1, 1] for each picture and reference [n, m]: mean patch correlation, weighted by the reference's contrast."""
    found, weight = patch_correlation(pictures, references, masks, reach)
    return (found * weight).sum(-1) / weight.sum(-1).clamp_min(1e-8)


def at_side(pictures: Tensor) -> Tensor:
    """Pictures [n, c, h, w] at the side of the comparison."""
    return F.interpolate(pictures, size=(SIDE, SIDE), mode="area")


def _patches(pictures: Tensor) -> Tensor:
    """[n, patches, 3, PATCH * PATCH] of pictures [n, 3, SIDE, SIDE]."""
    return F.unfold(pictures, PATCH, stride=STRIDE).reshape(len(pictures), 3, PATCH * PATCH, -1).permute(0, 3, 1, 2)


def _centred(patches: Tensor, inside: Tensor | None) -> Tensor:
    """About the mean of each channel, over the pixels inside; 0 outside."""
    if inside is None:
        return patches - patches.mean(-1, keepdim=True)
    mean = (patches * inside).sum(-1, keepdim=True) / inside.sum(-1, keepdim=True).clamp_min(1)
    return (patches - mean) * inside


def _spread(centred: Tensor, inside: Tensor | None) -> Tensor:
    """Standard deviation of centred patches, [n, patches]."""
    counted = centred[0, 0].numel() if inside is None else inside.sum((-1, -2)).clamp_min(1)
    return (centred.square().sum((-1, -2)) / counted).sqrt()


def _correlation(found: Tensor, wanted: Tensor, contrast: Tensor, inside: Tensor | None) -> Tensor:
    """Of patches [n, p, 3, k] with centred ones [m, p, 3, k], [n, m, p]."""
    if inside is None:
        centred = _centred(found, None)
        covariance = torch.einsum("npck,mpck->nmp", centred, wanted) / centred[0, 0].numel()
        return covariance / (_spread(centred, None)[:, None] * contrast + FLAT**2)
    counted = inside.sum((-1, -2)).clamp_min(1)
    # wanted is 0 outside and sums to 0 inside, so that the mean of what was found does not matter
    covariance = torch.einsum("npck,mpck->nmp", found, wanted) / counted
    by_channel = inside.sum(-1).clamp_min(1)
    squares = torch.einsum("npck,mpck->nmp", found.square(), inside)
    means = torch.einsum("npck,mpck->nmpc", found, inside) / by_channel
    spread = ((squares - (means.square() * by_channel).sum(-1)) / counted).clamp_min(0).sqrt()
    return covariance / (spread * contrast + FLAT**2)
