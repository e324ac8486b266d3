"""Which keys of a LoRA belong to which weight: ComfyUI's own key maps and loaders, never a table of ours."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import comfy.lora
import comfy.lora_convert
import torch
from torch import Tensor

from ..core.weights import Weights
from .adapters import Unsupported, check_supported, kind_of, numbers_of, rank_of, size_of, tensors_of

OTHER_MODEL = "This LoRA was made for another model, or another version of it. Connect the model it was trained on."


@dataclass(frozen=True)
class Update:
    """What a LoRA file adds to one weight."""

    target: str
    """The weight's key."""
    offset: tuple[int, int, int] | None
    """(dim, start, length) of the part of the weight, as with fused qkv."""
    function: Any
    """Applied by the core to dW, as with swapped halves; None for most."""
    text_encoder: bool
    adapter: Any
    keys: tuple[str, ...]
    """Keys of the file it was read from."""
    prefix: str
    """What they begin with."""
    tensor_names: dict[int, str] = field(repr=False, default_factory=dict)
    """id of a tensor of the adapter -> its key in the file."""

    def name_of(self, tensor: Tensor) -> str:
        return self.tensor_names[id(tensor)]


@dataclass
class Contents:
    """A LoRA taken apart."""

    updates: list[Update]
    passed: dict[str, list[str]]
    """Why keys are passed through -> the keys."""


def key_maps(model: Any, clip: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """LoRA name -> weight key, of the diffusion model and of the text encoder (empty without one)."""
    of_clip = {} if clip is None else comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    return comfy.lora.model_lora_keys_unet(model.model, {}), of_clip


def take_apart(tensors: dict[str, Tensor], model: Any, clip: Any, text_encoder: bool = True) -> Contents:
    """The updates of a LoRA that can be filtered, and what passes through and why. ValueError on damaged contents."""
    of_model, of_clip = key_maps(model, clip)
    targets = of_model | of_clip
    converted = comfy.lora_convert.convert_lora(tensors)
    originals = {id(t): k for k, t in tensors.items()}
    loaded = _loaded(converted, targets)
    passed: dict[str, list[str]] = {}
    updates, seen = [], set()
    for name, adapter in loaded.items():
        prefix, is_weight = name.rsplit(".", 1)[0], name.endswith(".weight")
        parts = {id(t): originals[id(t)] for t in tensors_of(adapter) if id(t) in originals}
        keys = [*parts.values(), *_alpha_key(converted, originals, prefix)]
        seen.update(keys)
        target = targets.get(prefix)
        try:
            if not is_weight or target is None:
                raise Unsupported("differences of biases and norms, and padded ones, are not filtered")
            if len(parts) < len(tensors_of(adapter)):
                raise Unsupported("the running ComfyUI rewrites these keys")
            check_supported(adapter)
            if prefix in of_clip and not text_encoder:
                raise Unsupported("the text encoder is not to be filtered")
        except Unsupported as reason:
            passed.setdefault(str(reason), []).extend(keys)
            continue
        key, offset, function = (*target, None, None)[:3] if isinstance(target, tuple) else (target, None, None)
        file_prefix = _common_prefix(list(parts.values()))
        updates.append(Update(key, offset, function, prefix in of_clip, adapter, tuple(keys), file_prefix, parts))
    # the core's order changes from one start of Python to the next; the random control and the plot follow the file's
    position = {k: n for n, k in enumerate(tensors)}
    updates.sort(key=lambda update: min(position[k] for k in update.keys))
    unknown = [k for k in tensors if k not in seen]
    if unknown:
        without_clip = clip is None and any("lora_te" in k or "text_encoder" in k for k in unknown)
        hint = "; those of the text encoder need the CLIP" if without_clip else ""
        passed[f"the connected model has no such layer, or this ComfyUI does not know the key{hint}"] = unknown
    return Contents(updates, passed)


def _loaded(converted: dict[str, Tensor], targets: dict[str, Any]) -> dict[str, Any]:
    """ComfyUI's adapters, by LoRA name + .weight (or .bias)."""
    try:
        return comfy.lora.load_lora(converted, {x: f"{x}.weight" for x in targets}, log_missing=False)
    except (KeyError, RuntimeError, IndexError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"This LoRA is damaged: a part of a layer is missing or has the wrong shape ({error}). Get it anew.") from error


def _alpha_key(converted: dict[str, Tensor], originals: dict[int, str], prefix: str) -> list[str]:
    alpha = converted.get(f"{prefix}.alpha")
    return [originals[id(alpha)]] if alpha is not None and id(alpha) in originals else []


def _common_prefix(keys: list[str]) -> str:
    """What a layer's keys begin with: up to the adapter's own part of the name."""
    for mark in (".hada_", ".lokr_", ".lora_", "_lora.", ".lora.", ".diff"):
        if keys and mark in keys[0]:
            return keys[0].rsplit(mark, 1)[0]
    return keys[0].rsplit(".", 1)[0] if keys else ""


def check(contents: Contents, weights: dict[bool, Weights]) -> None:
    """ValueError before work: nothing matches, values are not numbers, shapes are not the model's. `weights` by `text_encoder`."""
    if not contents.updates:
        reasons = "; ".join(f"{len(keys)} keys: {reason}" for reason, keys in contents.passed.items())
        raise ValueError(f"Nothing in this LoRA can be filtered with this model ({reasons}). {OTHER_MODEL}")
    for update in contents.updates:
        what = f"layer {update.prefix!r}"
        values = tensors_of(update.adapter)
        if not all(is_finite(t) for t in values) or not all(abs(a) < 1e30 for a in numbers_of(update.adapter)):
            raise ValueError(f"This LoRA is broken: {what} holds values that are not numbers (NaN or infinite). Get it anew.")
        if kind_of(update.adapter) != "diff" and (rank_of(update.adapter) < 1 or any(t.numel() == 0 for t in values)):
            raise ValueError(f"This LoRA is broken: {what} has rank 0. Get it anew.")
        _check_shape(update, weights[update.text_encoder], what)


def is_finite(values: Tensor) -> bool:
    """No NaN, no infinity: both reach the extremes, and one pass finds those."""
    if values.numel() == 0:
        return True
    extremes = torch.aminmax(values.float() if values.element_size() == 1 else values)
    return bool(torch.stack(extremes).float().isfinite().all())


def _check_shape(update: Update, weights: Weights, what: str) -> None:
    try:
        size = size_of(update.adapter)
    except (ValueError, IndexError) as error:
        raise ValueError(f"This LoRA is broken: {what}: {error}. Get it anew.") from error
    if update.target not in weights:
        raise ValueError(f"The model has no weight {update.target!r} for {what}. {OTHER_MODEL}")
    shape = list(weights.shape(update.target))
    if update.offset is not None:
        shape[update.offset[0]] = update.offset[2]
    wanted = (shape[0], math.prod(shape[1:]))
    # quantised weights may hold several values in one place of their second dimension: only the first is sure
    if size[0] != wanted[0] or (size[1] != wanted[1] and weights.is_plain(update.target)):
        raise ValueError(f"{what} changes a weight of {size[0]} x {size[1]}, the model's is {wanted[0]} x {wanted[1]}. {OTHER_MODEL}")
