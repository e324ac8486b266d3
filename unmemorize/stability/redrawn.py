"""Is a picture that was drawn again still the one that was flagged? (ours)"""

from __future__ import annotations

import torch
from torch import Tensor

from .agreement import structure

STILL_ALIKE = 0.6
"""Likeness from which a picture is called the same (tuning captions of the demo model, redrawn with other words: copies .69 and more
but for one, other pictures .46 and less)."""


def likeness(first: Tensor, again: Tensor) -> Tensor:
    """Cosine of the structure of two latents, [n, c, ...] -> [n]; NaN where one of them has none."""
    a, b = structure(first).flatten(1), structure(again.to(first)).flatten(1)
    norms = a.norm(dim=1) * b.norm(dim=1)
    return ((a * b).sum(1) / norms).masked_fill(norms == 0, torch.nan)
