"""Likeness of two latents in closed form."""

from __future__ import annotations

import pytest
import torch
from unmemorize_pack.unmemorize.stability.redrawn import likeness


def test_the_same_structure_in_other_tones_is_the_same_picture():
    x, y = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16)
    tone = torch.randn(2, 4, 4, 4).repeat_interleave(4, -1).repeat_interleave(4, -2)
    assert likeness(x, 3 * x + tone).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    assert likeness(x, -x).tolist() == pytest.approx([-1.0, -1.0], abs=1e-5) and likeness(x, y).abs().max() < 0.2


def test_a_flat_picture_is_like_none():
    assert likeness(torch.zeros(1, 4, 8, 8), torch.randn(1, 4, 8, 8)).isnan().all()


def test_only_the_region_counts():
    """The right half is the same, the left half another picture's."""
    x, y = torch.randn(2, 1, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    half = torch.zeros(1, 1, 16, 16)
    half[..., 8:] = 1
    mixed = torch.where(half > 0, x, y)
    assert float(likeness(x, mixed, half)) > 0.999 and float(likeness(x, mixed)) < 0.8 and abs(float(likeness(x, mixed, 1 - half))) < 0.3
