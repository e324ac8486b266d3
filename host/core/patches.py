"""What loaders have put over a model's weights (LoRAs, masks, other models), as digests: all that decides what it does to them.

Two files may differ in an alpha alone, two merges in the strength of a LoRA inside: names and tensors would not tell them apart.
"""

from __future__ import annotations

import hashlib
import numbers
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .weights import few_of, sample_of, spread

VALUES = 8
"""Of each tensor of numbers."""
PLAIN = (numbers.Number, str, type(None))

REPLACING = ("set", "model_as_lora")
"""Kinds of patches that put a weight of their own in the place of the model's."""

Leaf = bytes | Tensor
"""Something written down, or a few bytes of a tensor, uint8 [k], where it lies."""


def digest_of(patches: Mapping[Any, Iterable[Any]]) -> str:
    """16 hex digits of the patches of every key; "" if there are none. The same on every device."""
    leaves = [leaf for key in sorted(patches, key=str) for patch in patches[key] for leaf in (str(key).encode(), *_of_patch(patch))]
    digest = hashlib.sha256()
    for part in _on_cpu(leaves):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:16] if leaves else ""


def patches_of(model: Any) -> dict[str, list[str]]:
    """Every patched key with a digest of each of its patches, strength included."""
    return {str(name): [digest_of({name: [patch]}) for patch in several] for name, several in model.patches.items()}


def merged_digest(patches: Mapping[Any, Iterable[Any]]) -> str:
    """The same of those patches alone that make another model of the one they lie on: merges, and what scales its weights; "" if none do.
    LoRAs add to a model, which stays what it is."""
    return digest_of({key: found for key, several in patches.items() if (found := [patch for patch in several if _replaces(patch)])})


def _replaces(patch: Any) -> bool:
    """Is the weight below scaled, or exchanged in part or whole?"""
    strength, values, strength_model, *_ = patch
    if isinstance(values, list):
        return bool(strength != 0 or strength_model != 1)
    return bool(strength_model != 1) or (isinstance(values, tuple) and len(values) == 2 and values[0] in REPLACING)


def _of_patch(patch: Any) -> Iterator[Leaf]:
    """Strengths, what is put on, where in the weight, and whether something is done to it before."""
    strength, values, strength_model, *rest = patch
    yield from _leaves([strength, strength_model, *rest])
    if not isinstance(values, list):
        yield from _leaves(values)
        return
    (weight, convert), *inner = values  # a merged model's weight, and behind it that model's own patches
    yield b"another model"
    yield _raw(few_of(weight, convert, VALUES))
    yield repr(tuple(weight.shape)).encode()
    for further in inner:
        yield from _of_patch(further)
    yield b"its end"


def _leaves(value: Any) -> Iterator[Leaf]:
    """All that a part of a patch is made of. Of functions only that they are there: they have no values to look at."""
    if isinstance(value, Tensor):
        yield repr(tuple(value.shape)).encode()
        yield _raw(spread(value.detach().flatten(), VALUES)) if value.is_floating_point() else sample_of(value)
    elif isinstance(value, PLAIN):
        yield repr(value).encode("utf-8", "backslashreplace")
    elif isinstance(value, Mapping):
        for name in sorted(value, key=str):
            yield from _leaves([name, value[name]])
    elif isinstance(value, list | tuple):
        yield f"{len(value)} parts".encode()
        for part in value:
            yield from _leaves(part)
    else:
        yield type(value).__name__.encode()
        yield from _leaves(getattr(value, "weights", None))


def _raw(few: Tensor) -> Tensor:
    """Bytes of a few numbers, the same for every precision that holds them."""
    return few.to(torch.float32).contiguous().view(torch.uint8)


def _on_cpu(leaves: list[Leaf]) -> list[bytes]:
    """All of them as bytes; one copy from each device, not one a tensor."""
    found = [leaf if isinstance(leaf, bytes) else b"" for leaf in leaves]
    by_device: dict[torch.device, list[tuple[int, Tensor]]] = {}
    for i, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor):
            by_device.setdefault(leaf.device, []).append((i, leaf))
    for several in by_device.values():
        together, start = torch.cat([leaf for _, leaf in several]).cpu().numpy().tobytes(), 0
        for i, leaf in several:
            found[i] = together[start : start + leaf.numel()]
            start += leaf.numel()
    return found
