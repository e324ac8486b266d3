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
