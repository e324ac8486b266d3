"""New factors of a LoRA's layers, which learn while the old ones stay applied: hooks add what is new and take off what is old."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...unmemorize.lora.channels import norm_of_product, refactored
from ...unmemorize.lora.relearning import START
from ..core.weights import Weights
from ..lora.filter_file import kernel_of
from ..lora.groups import group_of
from ..lora.keys import Update
from ..lora.layers import NOTHING, TOO_LARGE, Layer, is_finite
from ..lora.rewriting import Rewritten, as_read, with_changes

OF_TEXT = "they are of the text encoder"
REARRANGED = "they change a part of a layer's inputs, or rearrange them, and stay as they are"
NO_MODULE = "they are no layer that is called by itself, and stay as they are"
MOST_RANK = 256
"""Channels of a layer that learn, its largest: a LoKr or a whole difference has as many as the layer has sides."""
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class Factors:
    """B A of a layer as it is applied, whole, and as it is learnt; float32 on the model's device."""

    update: Update
    module: nn.Module
    old: tuple[Tensor, Tensor]
    new: tuple[nn.Parameter, nn.Parameter]

    def change(self, x: Tensor) -> Tensor:
        """(B' A' - B A) x of what enters the layer, as its output lies."""
        b, a = (torch.cat([n, o.to(n)], dim) for n, o, dim in zip(self.new, (-self.old[0], self.old[1]), (1, 0), strict=True))
        b, a = b.to(x.dtype), a.to(x.dtype)
        if not isinstance(self.module, CONVOLUTIONS):
            return self._placed((x @ a.T) @ b.T, -1)
        convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
        m = self.module
        inner = convolve(x, a.view(len(a), *m.weight.shape[1:]), None, m.stride, m.padding, m.dilation)
        return self._placed(convolve(inner, b.view(*b.shape, *[1] * (x.ndim - 2))), 1)

    def _placed(self, change: Tensor, dim: int) -> Tensor:
        """Among all outputs of the layer, of which a LoRA may change a part (fused qkv)."""
        if self.update.layer.offset is None:
            return change
        _, start, length = self.update.layer.offset
        whole: Any = self.module.weight
        moved = F.pad(change.movedim(dim, -1), (start, len(whole) - start - length))
        return moved.movedim(-1, dim)


def factors_of(updates: list[Update], model: Any, device: torch.device) -> tuple[list[Factors], dict[str, list[str]]]:
    """Of every layer that can learn, begun at START; and why the others do not, in words -> their keys."""
    found: list[Factors] = []
    passed: dict[str, list[str]] = {}
    for update in updates:
        module, reason = module_of(update.layer, model)
        factors = None if module is None else _begun(update, module, device)
        if factors is None:
            passed.setdefault(reason or NOTHING, []).extend(update.keys)
        else:
            found.append(factors)
    return found, passed


def _begun(update: Update, module: nn.Module, device: torch.device) -> Factors | None:
    """None for a layer that changes nothing."""
    with torch.inference_mode(False):  # what learns may be no inference tensor
        channels = update.layer.adapter.channels(device)
        largest = channels.sigma.clone()
        largest[MOST_RANK:] = 0
        b, a = refactored(channels, channels.sigma)
        new_b, new_a = refactored(channels, largest)
        new = (nn.Parameter(START * new_b), nn.Parameter(new_a.clone()))
        return Factors(update, module, (b.clone(), a.clone()), new) if len(a) else None


def module_of(layer: Layer, model: Any) -> tuple[nn.Module | None, str]:
    """The module that a layer's factors can learn in, or why there is none, in words."""
    if layer.text_encoder:
        return None, OF_TEXT
    try:
        module = model.model.get_submodule(layer.target.removesuffix(".weight"))
    except AttributeError:
        return None, NO_MODULE
    grouped = isinstance(module, CONVOLUTIONS) and module.groups != 1
    if grouped or layer.function is not None or (layer.offset or (0,))[0] != 0:
        return None, REARRANGED
    linear = isinstance(module, nn.Linear) or (
        hasattr(module, "in_features") and module.weight.ndim == 2
    )  # quantised ones are no nn.Linear
    return (module, "") if linear or isinstance(module, CONVOLUTIONS) else (None, NO_MODULE)


@contextlib.contextmanager
def learning(several: list[Factors]) -> Iterator[None]:
    """Inside, the layers answer with the new factors in the place of the old ones, which must be applied."""
    handles = []
    try:
        for factors in several:

            def after(_: Any, inputs: tuple[Any, ...], output: Tensor, factors: Factors = factors) -> Tensor:
                x = inputs[0]
                x = x.clone() if x.is_inference() else x  # prompts were encoded where autograd was off
                return output + factors.change(x)

            handles.append(factors.module.register_forward_hook(after))
        yield
    finally:
        for handle in handles:
            handle.remove()


def written(
    several: list[Factors], updates: list[Update], tensors: dict[str, Tensor], sizes: dict[bool, Weights]
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, dict[str, float]]]:
    """The LoRA with what was learnt, what is gone, and what is left of each kind of layer: their number, and the strength of what is added
    to them against what was. Layers of the text encoder go: the model has learnt what they did."""
    of_text = [update for update in updates if update.layer.text_encoder]
    changes: Rewritten = [(update, {}) for update in of_text]
    gone = {key: tensors[key] for update in of_text for key in update.keys}
    energies: dict[str, list[tuple[float, float]]] = {}
    for factors in several:
        update, (b, a), (old_b, old_a) = factors.update, (p.detach() for p in factors.new), factors.old
        kernel, adapter = kernel_of(update, sizes[False]), update.layer.adapter
        new = adapter.rewritten(b, a, update.names, kernel)
        rest = adapter.rewritten(torch.cat([old_b, -b], 1), torch.cat([old_a, a]), update.names, kernel)
        if not all(is_finite(t) for t in (*new.values(), *rest.values())):
            raise ValueError(f"The layer {update.layer.target} cannot be learnt anew: {TOO_LARGE}.")
        changes.append((update, new))
        gone |= rest
        left, had = (float(norm_of_product(*pair)) ** 2 for pair in ((b, a), factors.old))
        energies.setdefault(group_of(update.layer), []).append((left, had))
    groups = {name: {"layers": float(len(each)), "strength_left": _strength(each)} for name, each in energies.items()}
    return as_read(with_changes(tensors, changes), tensors), as_read(gone, tensors), groups


def _strength(energies: list[tuple[float, float]]) -> float:
    """Root of the energy that is left, of (new, old) pairs."""
    new, old = (sum(side) for side in zip(*energies, strict=True))
    return round((new / old) ** 0.5, 4) if old else 1.0
