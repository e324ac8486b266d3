"""A LoRA's tensors with some layers written anew, the others byte by byte."""

from __future__ import annotations

from torch import Tensor

from .keys import Update

Rewritten = list[tuple[Update, dict[str, Tensor]]]
"""Layers and their new tensors; none: the layer goes."""


def with_changes(tensors: dict[str, Tensor], changes: Rewritten) -> dict[str, Tensor]:
    """The tensors in their order; a layer's new keys stand where its first was."""
    by_key: dict[str, dict[str, Tensor]] = {}
    for update, new in changes:
        names = (*update.keys, *update.shadowed)
        by_key |= {key: {key: new[key]} if key in new else {} for key in names}
        by_key[update.keys[0]] |= {key: t for key, t in new.items() if key not in names}
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        found.update(by_key.get(key, {key: tensor}))
    return found
