"""Is a picture that was drawn again still the one that was flagged? (ours)"""

from __future__ import annotations

import torch
from torch import Tensor

from .agreement import structure

STILL_ALIKE = 0.6
"""Likeness from which a picture is called the same (tuning captions of the demo model, redrawn with other words: copies .69 and more
but for one, other pictures .46 and less)."""

UNMOVED = 0.8
"""Likeness from which a picture hardly changed that was drawn without its LoRA's answer to the prompt at steps where this is another than
the model's before it: the answer was no picture that the LoRA remembers (`nox -s sweep -- lora_trial`: 20 flagged copies .67 and less; of
48 honest runs 44 have .92 and more)."""


def likeness(first: Tensor, again: Tensor, region: Tensor | None = None) -> Tensor:
    """Cosine of the structure of two latents, [n, c, ...] -> [n], where `region` (broadcastable, 1 = counts) says; NaN where one of them
    has none."""
    inside = 1.0 if region is None else region.to(first)
    a, b = ((structure(x.to(first)) * inside).flatten(1) for x in (first, again))
    norms = a.norm(dim=1) * b.norm(dim=1)
    return ((a * b).sum(1) / norms).masked_fill(norms == 0, torch.nan)
