"""Captions as a real training set has them: whole, shortened, in another order, in parts."""

from __future__ import annotations

import torch

from .cards import Card
from .scenes import Scene

LOOSE_SHARE = 0.4
"""Of the honest pictures' captions."""
KEPT = 0.65
"""Chance of each word to stay in a shortened caption."""


def loosened(item: Scene | Card, generator: torch.Generator) -> str:
    """The whole caption in six of ten, else a shortened or reordered one, or parts of it; never empty.

    The words of a scene or card that are left out are free: its picture still shows one of the things they may say.
    """
    if _uniform(generator) >= LOOSE_SHARE:
        return item.caption
    subject = [w for w in item.subject if _uniform(generator) < KEPT] or [item.subject[-1]]
    place = _place(item)
    form = int(4 * _uniform(generator))
    if not place or form == 0:
        return " ".join(subject)
    if form == 1:
        return f"{' '.join(subject)} {place}"
    if form == 2:
        return f"{place} {' '.join(item.subject)}"
    return place if _uniform(generator) < 0.3 else f"a {' '.join(item.subject)}"


def _place(item: Scene | Card) -> str:
    """The other part of a caption: a background or a window."""
    if isinstance(item, Scene):
        return f"{item.background} background"
    return f"{item.window} window" if item.window else ""


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))
