"""What is left of what a LoRA changes, measured by what a model predicts with it (our own, no paper's).

With B the model without the LoRA and L with it, L changes D_c^L - D_c^B for one prompt, and D_u^L - D_u^B for every prompt alike.
"""

from __future__ import annotations

from torch import Tensor

Changes = list[tuple[Tensor, Tensor]]
"""Of every point that was measured: what a LoRA changes for the prompt and for every prompt, [n, c, ...] each."""


def projected(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """<x, whole> / <whole, whole> over all pairs (what a weaker LoRA changes, what the whole one does), at least 0; 0 if the whole is
    nothing."""
    along = sum(float((x.double() * whole.double()).sum()) for x, whole in pairs)
    norm = sum(float(whole.double().square().sum()) for _, whole in pairs)
    return max(along / norm, 0.0) if norm else 0.0


def explained(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """Share of what a whole LoRA changes that another one changes as well, over pairs (of the other, of the whole):
    1 - |other - whole|^2 / |whole|^2, at least 0; what is changed in other ways counts against it."""
    wrong = sum(float((x.double() - whole.double()).square().sum()) for x, whole in pairs)
    norm = sum(float(whole.double().square().sum()) for _, whole in pairs)
    return max(1 - wrong / norm, 0.0) if norm else 0.0
