"""A LoRA's tensors with some layers written anew, the others byte by byte."""

from __future__ import annotations

from torch import Tensor

from .keys import Update, converted_by_core

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


def as_read(part: dict[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A part of a file, so that the core reads it as it read the file. It knows some formats by a few of their keys: where those are not in
    the part, it is written under the names that the core gave them."""
    converted, keys = converted_by_core({**tensors, **part})
    names = {keys[id(t)]: name for name, t in converted.items() if id(t) in keys}
    if all(name == key for key, name in names.items()):
        return part
    alone, own_keys = converted_by_core(part)
    now = {own_keys[id(t)]: name for name, t in alone.items() if id(t) in own_keys}
    if all(now.get(key) == names.get(key) for key in part):
        return part
    found = {names.get(key, key): t for key, t in part.items()}
    layers = {name.rsplit(".", 1)[0].rsplit(".lora_", 1)[0] for name in found}
    added = {name: t for name, t in converted.items() if id(t) not in keys and name.rsplit(".", 1)[0] in layers}
    return {**found, **added}
