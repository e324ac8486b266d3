"""Normalised correlation of patches: what it calls alike, and what not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from unmemorize_pack.unmemorize.copies.patches import FLAT, PATCH, REACH, SIDE, STRIDE, likeness, patch_correlation


def pictures(count: int, seed: int = 0, side: int = SIDE) -> torch.Tensor:
    """Smooth random pictures [count, 3, side, side] in [0, 1]."""
    coarse = torch.rand(count, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)


def test_it_is_pearsons_correlation_of_a_patch():
    """A patch at the reference's own place, where no shift does better."""
    a, b = pictures(1, 1), pictures(1, 2)
    mixed = 0.7 * a + 0.3 * b
    rows = (SIDE - PATCH) // STRIDE + 1
    got = patch_correlation(mixed, a)[0].reshape(rows, rows)
    patch = (slice(2 * STRIDE, 2 * STRIDE + PATCH), slice(3 * STRIDE, 3 * STRIDE + PATCH))
    x, y = (p[0][:, patch[0], patch[1]].flatten(1) for p in (mixed, a))
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    plain = float((x * y).mean() / (x.square().mean().sqrt() * y.square().mean().sqrt() + FLAT**2))
    assert float(got[2, 3]) == pytest.approx(plain, abs=1e-5)


def test_a_copy_scores_near_one_and_others_low():
    several = pictures(6)
    found = likeness(several, several)
    assert (found.diagonal() > 0.98).all()
    assert (found - torch.diag(found.diagonal()) < 0.6).all()


@pytest.mark.parametrize("shift", [(0, 0), (REACH, -REACH), (-1, 2)])
def test_small_shifts_are_found(shift):
    (one,) = pictures(1)
    assert float(likeness(one.roll(shift, (1, 2))[None], one[None])) > 0.9


def test_large_shifts_and_mirrors_are_none():
    (one,) = pictures(1)
    assert float(likeness(one.roll(20, 2)[None], one[None])) < 0.6
    assert float(likeness(one.flip(2)[None], one[None])) < 0.6


def test_light_and_contrast_do_not_count_but_detail_does():
    (one,) = pictures(1, side=2 * SIDE)
    detailed = (one + 0.15 * torch.randn(one.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    assert float(likeness((0.6 * detailed + 0.2)[None], detailed[None])) > 0.97
    blurred = F.avg_pool2d(detailed[None], 9, 1, 4, count_include_pad=False)
    assert float(likeness(blurred, detailed[None])) < float(likeness(detailed[None], detailed[None])) - 0.1


def test_flat_patches_weigh_nothing():
    """A picture that is flat but for one corner is alike if that corner is."""
    base = torch.full((3, SIDE, SIDE), 0.5)
    corner = pictures(1)[0][:, :24, :24]
    one, other = base.clone(), base + 0.1
    one[:, :24, :24], other[:, :24, :24] = corner, corner
    assert float(likeness(other[None], one[None])) > 0.8
    assert float(likeness(base[None], one[None])) < 0.1


def test_a_mask_restricts_it_to_what_lies_inside():
    a, b = pictures(2)
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., : SIDE // 2] = 1
    half = torch.where(mask[0] > 0, a, b)
    inside = float(likeness(half[None], a[None], mask))
    assert inside > 0.98 > float(likeness(half[None], a[None])) + 0.1


def test_every_picture_meets_every_reference():
    a, b = pictures(3, 1), pictures(4, 2)
    found = likeness(a, b)
    assert found.shape == (3, 4)
    assert torch.allclose(found[1, 2], likeness(a[1:2], b[2:3])[0, 0], atol=1e-6)


def test_inside_a_mask_it_is_the_correlation_of_the_pixels_inside():
    """A patch half of which is free: what is drawn there does not matter."""
    a, b = pictures(2, 3)
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., : SIDE // 2 + 4] = 1  # cuts through patches
    one, other = torch.where(mask[0] > 0, a, b), torch.where(mask[0] > 0, a, 1 - b)
    whole, weight = patch_correlation(torch.stack([one, other]), a[None], mask, reach=0)
    assert torch.allclose(whole[0] * weight, whole[1] * weight, atol=1e-5)
    assert (whole[:, 0][:, weight[0] > 0.02] > 0.97).all()


def test_a_frame_narrower_than_a_patch_is_still_seen():
    a, b = pictures(2, 4)
    mask = torch.ones(1, 1, SIDE, SIDE)
    mask[..., 12:52, 12:52] = 0
    framed = torch.where(mask[0] > 0, a, b)
    assert float(likeness(framed[None], a[None], mask)) > 0.97
    assert float(likeness(b[None], a[None], mask)) < 0.5
