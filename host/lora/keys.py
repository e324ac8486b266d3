"""Which keys of a LoRA belong to which weight: ComfyUI's own key maps and loaders, never a table of ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.lora
import comfy.lora_convert
from torch import Tensor

from ..core.files import reason
from ..core.weights import Weights
from .adapters import Names, Unsupported, adapter_of, parts_of, tensors_of
from .layers import OTHER_SHAPE, Layer, fault_of, fits, sizes

UNKNOWN = "the connected model has no such layer, or this ComfyUI does not know the key"
SHADOWED = "the core ignores them beside another update of the same layer; they go where that one is changed"
NOT_FOUND = "It may be made for another model, or be spelled in a way that this ComfyUI does not read: the stock LoRA loader skips it too."
OTHER_MODEL = "This LoRA was made for another model, or another version of it. Connect the model it was trained on."


@dataclass(frozen=True)
class Update:
    """What a LoRA file adds to one weight."""

    layer: Layer
    keys: tuple[str, ...]
    """Keys of the file it was read from."""
    names: Names
    shadowed: tuple[str, ...] = ()
    """Keys of the same layer that the core ignores beside these: they would wake if these went."""


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


@dataclass(frozen=True)
class _Part:
    """What the core read from a file for one weight under one spelling."""

    name: str
    """LoRA name + .weight (or .bias)."""
    adapter: Any
    keys: tuple[str, ...]
    names: Names


def take_apart(tensors: dict[str, Tensor], model: Any, clip: Any, text_encoder: bool = True) -> Contents:
    """The updates of a LoRA that can be filtered, and what passes through and why. ValueError on damaged contents."""
    of_model, of_clip = key_maps(model, clip)
    targets = of_model | of_clip
    parts = _parts(tensors, targets)
    overridden = _overridden([part.name for part in parts], targets)
    ignored = _ignored(tensors, parts, overridden)
    passed: dict[str, list[str]] = {}
    updates = []
    for part in parts:
        if part.name in overridden:
            continue
        try:
            layer = _layer(part, targets, of_clip, text_encoder)
        except Unsupported as reason:
            passed.setdefault(str(reason), []).extend(part.keys)
        else:
            updates.append(Update(layer, part.keys, part.names, tuple(ignored.get(part.name, ()))))
    # the core's order changes from one start of Python to the next; the random control and the plot follow the file's
    position = {k: n for n, k in enumerate(tensors)}
    updates.sort(key=lambda update: min(position[k] for k in update.keys))
    shadowed = [key for keys in ignored.values() for key in keys]
    if shadowed:
        passed[SHADOWED] = shadowed
    known = {key for part in parts for key in part.keys} | set(shadowed)
    unknown = [k for k in tensors if k not in known]
    if unknown:
        without_clip = clip is None and any("lora_te" in k or "text_encoder" in k for k in unknown)
        hint = "; those of the text encoder need the CLIP" if without_clip else ""
        passed[f"{UNKNOWN}{hint}"] = unknown
    return Contents(updates, passed)


def converted_by_core(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[int, str]]:
    """A file as the core's key maps name it, and id of a tensor there -> its key in the file. Each key has an object of its own, and the
    file stays as it is: some converters change what they are given."""
    own = {key: t.view_as(t) for key, t in tensors.items()}
    return comfy.lora_convert.convert_lora(dict(own)), {id(t): key for key, t in own.items()}


def _parts(tensors: dict[str, Tensor], targets: dict[str, Any]) -> list[_Part]:
    """All that the core reads from a file, each spelling of a weight apart."""
    converted, originals = converted_by_core(tensors)
    loaded = _loaded(converted, targets)
    found = []
    for name, adapter in loaded.items():
        of_tensor = {id(t): originals[id(t)] for t in tensors_of(adapter) if id(t) in originals}
        prefix, what = name.rsplit(".", 1)
        # beside a difference of the bias the alpha is that of the weight
        scales = what == "weight" or f"{prefix}.weight" not in loaded
        alpha = {key: tensors[key] for key in _key_of(converted, originals, f"{prefix}.alpha")} if scales else {}
        # the core reads this one as a list
        padded = any(isinstance(part, list) for part in parts_of(adapter))
        shape = _key_of(converted, originals, f"{prefix}.reshape_weight") if padded else []
        names = Names(_common_prefix(list(of_tensor.values())), of_tensor, alpha)
        found.append(_Part(name, adapter, (*of_tensor.values(), *alpha, *shape), names))
    return found


def _layer(part: _Part, targets: dict[str, Any], of_clip: dict[str, Any], text_encoder: bool) -> Layer:
    """The layer that a part changes. Unsupported, with the reason, for what passes through."""
    name = part.name.rsplit(".", 1)[0]
    target = targets.get(name) if part.name.endswith(".weight") else None
    if target is None:
        raise Unsupported("differences of biases and norms, and padded ones, are not filtered")
    if len(part.names.of_tensor) < len(tensors_of(part.adapter)):
        raise Unsupported("the running ComfyUI rewrites these keys")
    adapter = adapter_of(part.adapter)
    if name in of_clip and not text_encoder:
        raise Unsupported("the text encoder is not to be filtered")
    key, offset, function = (*target, None, None)[:3] if isinstance(target, tuple) else (target, None, None)
    return Layer(key, offset, function, name in of_clip, adapter)


def _ignored(tensors: dict[str, Tensor], parts: list[_Part], overridden: dict[str, str]) -> dict[str, list[str]]:
    """Name of a part that the core uses -> keys of the same layer that it does not: other spellings, other kinds of update."""
    found: dict[str, list[str]] = {}
    for part in parts:
        if part.name in overridden:
            found.setdefault(overridden[part.name], []).extend(part.keys)
    of_prefix = {part.names.prefix: part.name for part in reversed(parts) if part.name not in overridden}
    read = {key for part in parts for key in part.keys}
    for key in tensors:
        if key not in read and _common_prefix([key]) in of_prefix:
            found.setdefault(of_prefix[_common_prefix([key])], []).append(key)
    return found


def _overridden(names: list[str], targets: dict[str, Any]) -> dict[str, str]:
    """Parts that the core does not use, each with the one it uses instead: of several spellings of a weight, the last."""
    target_of = {name: targets.get(name.removesuffix(".weight")) for name in names}
    last = {target: name for name, target in target_of.items() if target is not None}
    return {name: last[target] for name, target in target_of.items() if target is not None and last[target] != name}


def _loaded(converted: dict[str, Tensor], targets: dict[str, Any]) -> dict[str, Any]:
    """ComfyUI's adapters, by LoRA name + .weight (or .bias)."""
    try:
        return comfy.lora.load_lora(converted, {x: f"{x}.weight" for x in targets}, log_missing=False)
    except (KeyError, RuntimeError, IndexError, TypeError, ZeroDivisionError) as error:
        raise ValueError(
            f"This LoRA is damaged: a part of a layer is missing or has the wrong shape ({reason(error)}). Get it anew."
        ) from error


def _key_of(converted: dict[str, Tensor], originals: dict[int, str], name: str) -> list[str]:
    """The file's key of what the core calls so; none if it has made it up, or has no such thing."""
    found = converted.get(name)
    return [originals[id(found)]] if found is not None and id(found) in originals else []


def _common_prefix(keys: list[str]) -> str:
    """What a layer's keys begin with: up to the adapter's own part of the name."""
    for mark in (".hada_", ".lokr_", ".lora_", "_lora.", ".lora.", ".diff"):
        if keys and mark in keys[0]:
            return keys[0].rsplit(mark, 1)[0]
    return keys[0].rsplit(".", 1)[0] if keys else ""


def check(contents: Contents, weights: dict[bool, Weights]) -> Contents:
    """The contents without layers whose shape is not the model's: they pass through, as the stock loader leaves them out.

    ValueError before work if nothing is left to filter, if values are not numbers, or if most layers do not fit. `weights` by
    `text_encoder`.
    """
    if not contents.updates:
        reasons = "; ".join(f"{len(keys)} keys: {reason}" for reason, keys in contents.passed.items())
        blame = f" {NOT_FOUND}" if set(contents.passed) <= {UNKNOWN} else ""
        raise ValueError(f"Nothing in this LoRA can be filtered with this model ({reasons}).{blame}")
    fitting: list[Update] = []
    others: list[Update] = []
    for update in contents.updates:
        layer, known = update.layer, weights[update.layer.text_encoder]
        reason = fault_of(layer.adapter)
        if reason:
            raise ValueError(f"This LoRA is broken: layer {update.names.prefix!r} {reason}. Get it anew.")
        (fitting if layer.target in known and fits(layer, known) else others).append(update)
    if len(others) > len(fitting):
        layer, known = others[0].layer, weights[others[0].layer.text_encoder]
        own, wanted = sizes(layer, known) if layer.target in known else (layer.adapter.shape, ())
        raise ValueError(
            f"{len(others)} of {len(contents.updates)} layers do not fit this model: {others[0].names.prefix!r} changes a weight of "
            f"{_in_words(own)}, the model's is {_in_words(wanted) or 'not there'}. {OTHER_MODEL}"
        )
    passed = {reason: list(keys) for reason, keys in contents.passed.items()}
    for update in others:
        passed.setdefault(OTHER_SHAPE, []).extend(update.keys)
    return Contents(fitting, passed)


def _in_words(size: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in size)
