"""A LoRA some of whose layers are weaker: each in its own kind and under its own names, the others byte by byte."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .keys import Update


def weakened(tensors: dict[str, Tensor], updates: list[Update], strength_of: Callable[[Update], float]) -> dict[str, Tensor]:
    """A LoRA's tensors with every update scaled; 1 leaves its very tensors, 0 leaves it out."""
    changes: dict[str, dict[str, Tensor]] = {}
    for update in updates:
        strength = strength_of(update)
        if strength == 1:
            continue
        new = update.layer.adapter.scaled(strength, update.names) if strength else {}
        changes |= {key: {key: new[key]} if key in new else {} for key in (*update.keys, *update.shadowed)}
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        found.update(changes.get(key, {key: tensor}))
    return found
