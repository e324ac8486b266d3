"""The LoRAs that a MODEL already carries, filtered, whichever loader put them there."""

from __future__ import annotations

import uuid
from typing import Any

from comfy.weight_adapter import LoRAAdapter, WeightAdapterBase

from ...unmemorize.lora.channels import refactored
from ...unmemorize.lora.filtering import Verdict
from ...unmemorize.lora.gates import Settings
from ...unmemorize.pictures.pages import counted
from ..core.weights import Weights
from .adapters import Unsupported, adapter_of, tensors_of, wide
from .judging import LayerAtWork, judged
from .layers import OTHER_SHAPE, TOO_LARGE, Layer, fault_of, fits, is_finite
from .results import Filtered, LayerResult, warnings_of
from .subspaces import Subspaces

Patch = tuple[Any, ...]
"""(strength, adapter, strength of the model, offset, function), as the core keeps them by weight key."""
MERGED = "inside of a model that was merged into it: clean that model before it is merged"
BYPASSED = "run in bypass mode, beside the weights: load them with the ordinary LoRA loader"
NO_LORA = "This MODEL carries no LoRA that could be filtered. Put this node behind the LoRA loaders."


def clean_applied(model: Any, settings: Settings) -> tuple[Any, Filtered]:
    """A clone of MODEL whose LoRA patches are filtered, and what was done. ValueError if there are none."""
    settings.check()
    # in the order of their names: that of the patches changes from one start of Python to the next
    places = [(key, i) for key in sorted(model.patches, key=str) for i, p in enumerate(model.patches[key]) if _is_lora(p)]
    merged = sorted({str(key) for key, patches in model.patches.items() for p in patches if _carries_merged(p)})
    out_of_reach = {why: names for why, names in ((MERGED, merged), (BYPASSED, bypassed(model))) if names}
    if not places:
        counts = {why: f"{counted(len(names), 'LoRA update')} {'is' if len(names) == 1 else 'are'}" for why, names in out_of_reach.items()}
        several = "; ".join(f"{count} {why}" for why, count in counts.items())
        raise ValueError(f"This MODEL carries no LoRA that could be filtered: {several}." if several else NO_LORA)
    weights, subspaces = Weights(model), Subspaces(settings.energy)
    result, clone = Filtered({}, {}, [], out_of_reach), model.clone()
    found: list[tuple[str, int, Layer]] = []
    for key, i in places:
        try:
            found.append((key, i, _layer_of(str(key), model.patches[key][i], weights)))
        except Unsupported as reason:
            result.passed.setdefault(str(reason), []).append(str(key))
    verdicts = judged([layer for *_, layer in found], {False: weights}, settings, subspaces)
    for (key, i, layer), (_, work, verdict) in zip(found, verdicts, strict=True):
        if isinstance(verdict, str):
            result.passed.setdefault(verdict, []).append(str(key))
            continue
        if verdict.changed:
            patch = _filtered_patch(model.patches[key][i], layer, work, verdict)
            if patch is not None and not all(is_finite(t) for t in tensors_of(patch[1])):
                result.passed.setdefault(TOO_LARGE, []).append(str(key))
                continue
            clone.patches[key][i] = patch
        result.layers.append(LayerResult(layer.target, layer.block, False, verdict))
    for key in {key for key, _ in places}:
        clone.patches[key] = [p for p in clone.patches[key] if p is not None]
        if not clone.patches[key]:
            del clone.patches[key]
    # the core compares this to know whether loaded weights still hold
    clone.patches_uuid = uuid.uuid4()
    result.warnings = warnings_of(result.layers, settings)
    result.subspaces_cached = subspaces.cached
    return clone, result


def bypassed(model: Any) -> list[str]:
    """LoRAs that newer cores run beside the weights instead of in them (LoraLoaderBypass), by the name of their injection."""
    return [f"{name} ({len(several)})" for name, several in sorted(getattr(model, "injections", {}).items()) if "lora" in name.lower()]


def _carries_merged(patch: Patch) -> bool:
    """A model that was merged in (ModelMerge) brings its weight and behind it its own patches."""
    inner = patch[1]
    return isinstance(inner, list) and any(_is_lora(p) or _carries_merged(p) for p in inner[1:])


def _is_lora(patch: Patch) -> bool:
    adapter = patch[1]
    return isinstance(adapter, WeightAdapterBase) or (isinstance(adapter, tuple) and len(adapter) == 2 and adapter[0] == "diff")


def _layer_of(key: str, patch: Patch, weights: Weights) -> Layer:
    """Unsupported, with the reason, for what is left as it is."""
    _, core, _, offset, function = patch
    layer = Layer(key, offset, function, False, adapter_of(core))
    reason = fault_of(layer.adapter)
    if reason:
        raise Unsupported(f"it {reason}")
    if key not in weights:
        raise Unsupported("the model has no such weight")
    # of a packed weight the shape is known when it is read, and only what is read needs to fit
    if weights.is_plain(key) and not fits(layer, weights):
        raise Unsupported(OTHER_SHAPE)
    return layer


def _filtered_patch(patch: Patch, layer: Layer, work: LayerAtWork, verdict: Verdict) -> Patch | None:
    """The patch weakened, or with new singular values; None if nothing is left."""
    strength, core, *rest = patch
    if verdict.whole:
        factor = verdict.factor_of(verdict.new_sigma)
        return (strength * factor, core, *rest) if factor else None
    b, a = refactored(work.channels, verdict.new_sigma)
    if not b.shape[1]:
        return None
    source = layer.adapter.tensors[0]
    up, down = (t.to(source.device, wide(source.dtype)) for t in (b, a))
    return (strength, LoRAAdapter(set(), (up, down, None, None, None, None)), *rest)
