"""The layers that a LoRA changes: of a file, or applied to a MODEL already; what may be wrong with them, and the base's part beneath."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.weights import PLAIN, Weights
from .adapters import Adapter

NUMBERS = (*PLAIN, torch.float8_e4m3fn, torch.float8_e5m2)
"""What a factor may be stored in."""
UNDEFINED = "the base layer is too small or zero: it has no principal subspace"
ODD_FUNCTION = "the core rearranges this layer in a way that cannot be undone here"
OTHER_SHAPE = "its shape is not the layer's"
NOTHING = "it changes nothing"
TOO_LARGE = "its numbers are so large that what is computed from them overflows"


class Unjudged(Exception):
    """There is no verdict on this layer; the text says why."""


@dataclass(frozen=True)
class Layer:
    """A weight, and what is added to it."""

    target: str
    """The weight's key."""
    offset: tuple[int, int, int] | None
    """(dim, start, length) of the part of the weight, as with fused qkv."""
    function: Any
    """Applied by the core to dW, as with swapped halves; None for most."""
    text_encoder: bool
    adapter: Adapter

    @property
    def block(self) -> str:
        """The layer's block: its key up to the first number."""
        found = re.match(r"(.*?\.\d+)(\.|$)", self.target)
        return (found.group(1) if found else self.target).removeprefix("diffusion_model.")


def cache_name(digest: str, offset: tuple[int, int, int] | None, function: Any) -> str:
    """What a cached subspace is computed from: the weight's content, the part of it, its arrangement."""
    part = "" if offset is None else "-" + "_".join(str(x) for x in offset)
    return digest + part + ("" if function is None else "-arranged")


def base_of(layer: Layer, weights: Weights, device: torch.device) -> Tensor:
    """The part of a base weight that an update changes, arranged as the update is, [m, n].

    The core adds function(dW); the base is compared before it, so function must be its own inverse. Unjudged if not.
    """
    weight = weights.base(layer.target, device)
    if layer.offset is not None:
        weight = weight.narrow(*layer.offset)
    if layer.function is not None:
        arranged = layer.function(weight.clone())
        if not torch.equal(layer.function(arranged.clone()), weight):
            raise Unjudged(ODD_FUNCTION)
        weight = arranged
    return weight.reshape(len(weight), -1)  # a norm's weight is one column


def fault_of(adapter: Adapter) -> str:
    """What is broken in an adapter, in words; "" if it is sound."""
    if any(t.ndim == 0 for t in adapter.tensors):
        return "does not fit together: a factor is a single number"
    if any(isinstance(part, complex) for part in adapter.parts):
        return "has a complex number as its alpha"
    try:
        adapter.shape  # noqa: B018 (asked for its ValueError)
    except (ValueError, IndexError) as error:
        return f"does not fit together: {error}"
    if adapter.rank < 1 or any(t.numel() == 0 for t in adapter.tensors):
        return "has rank 0"
    kinds = {str(t.dtype).removeprefix("torch.") for t in adapter.tensors if t.dtype not in NUMBERS}
    if kinds:
        return f"holds numbers of the kind {', '.join(sorted(kinds))}, which are no weights"
    if not all(is_finite(t) for t in adapter.tensors) or not abs(adapter.alpha or 0) < 1e30:
        return "holds values that are not numbers (NaN or infinite)"
    return ""


def sizes(layer: Layer, weights: Weights) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of an update, and of the part of the weight that it changes: exactly where the core asks for that, else as matrices."""
    part = list(weights.shape(layer.target))
    if layer.offset is not None:
        part[layer.offset[0]] = layer.offset[2]
    exact = layer.adapter.exact_shape if weights.is_plain(layer.target) else None
    return (layer.adapter.shape, (part[0], math.prod(part[1:]))) if exact is None else (exact, tuple(part))


def fits(layer: Layer, weights: Weights) -> bool:
    """Has the update its weight's shape? Quantised weights may hold several values in one place: there only the first size is sure."""
    own, wanted = sizes(layer, weights)
    return own == wanted or (own[0] == wanted[0] and not weights.is_plain(layer.target))


def is_finite(values: Tensor) -> bool:
    """No NaN, no infinity: both reach the sum. A sum that overflows alone is looked at once more."""
    if values.numel() == 0 or not values.is_floating_point():
        return True
    wide = values.float() if values.element_size() == 1 else values
    return math.isfinite(float(wide.sum(dtype=torch.float32))) or bool(wide.isfinite().all())
