"""BAF on the LoRAs that a MODEL already carries, whichever loader put them there."""

from __future__ import annotations

import uuid
from typing import Any

from comfy.weight_adapter import LoRAAdapter, WeightAdapterBase
from torch import Tensor

from ...unmemorize.lora.channels import refactored
from ...unmemorize.lora.filtering import Verdict, judge
from ...unmemorize.lora.gates import READING, WHOLE_FILE, Settings, threshold_of_file
from ...unmemorize.lora.reading import judge_by_layer
from ..core.progress import Progress
from ..core.weights import Weights
from .adapters import Unsupported, channels_of, check_supported, size_of, tensors_of
from .filter_file import ODD_FUNCTION, UNDEFINED, Filtered, Layer, base_of, cache_name, on_cpu, warnings_of
from .keys import is_finite
from .linalg import linalg_device
from .prompt_layers import reads_the_prompt
from .subspaces import Subspaces

Patch = tuple[Any, ...]
"""(strength, adapter, strength of the model, offset, function), as the core keeps them by weight key."""
NO_LORA = "This MODEL carries no LoRA that could be filtered. Put this node behind the LoRA loaders."


def clean_applied(model: Any, settings: Settings) -> tuple[Any, Filtered]:
    """A clone of MODEL whose LoRA patches are filtered, and what was done. ValueError if there are none."""
    settings.check()
    # in the order of their names: that of the patches changes from one start of Python to the next
    work = [(key, i) for key in sorted(model.patches, key=str) for i, p in enumerate(model.patches[key]) if _is_lora(p)]
    if not work:
        raise ValueError(NO_LORA)
    weights, subspaces = Weights(model), Subspaces(settings.energy)
    passes = 2 if settings.gate == WHOLE_FILE else 1
    progress = Progress(passes * len(work))
    result = Filtered({}, {}, [], {})
    threshold = float("-inf")
    if passes == 2:
        judged = [_judged(model.patches[k][i], k, n, weights, settings, subspaces, progress, None) for n, (k, i) in enumerate(work)]
        threshold = threshold_of_file([(v.scores.cpu(), v.sigma.cpu()) for v in judged if isinstance(v, Verdict)], settings.keep)
    clone = model.clone()
    for number, (key, i) in enumerate(work):
        patch = model.patches[key][i]
        found = _judged(patch, key, number, weights, settings, subspaces, progress, threshold)
        if isinstance(found, str):
            result.passed.setdefault(found, []).append(str(key))
            continue
        result.layers.append(Layer(str(key), False, on_cpu(found)))
        if found.changed:
            clone.patches[key][i] = _filtered_patch(patch, found)
    for key in {key for key, _ in work}:
        clone.patches[key] = [p for p in clone.patches[key] if p is not None]
        if not clone.patches[key]:
            del clone.patches[key]
    # the core compares this to know whether loaded weights still hold
    clone.patches_uuid = uuid.uuid4()
    subspaces.tidy()
    result.warnings = warnings_of(result.layers, settings)
    result.subspaces_cached = subspaces.cached
    return clone, result


def _is_lora(patch: Patch) -> bool:
    adapter = patch[1]
    return isinstance(adapter, WeightAdapterBase) or (isinstance(adapter, tuple) and len(adapter) == 2 and adapter[0] == "diff")


def _judged(
    patch: Patch, key: str, number: int, weights: Weights, settings: Settings, subspaces: Subspaces, progress: Progress,
    threshold: float | None,
) -> Verdict | str:  # fmt: skip
    """The verdict on one patch, or why there is none."""
    progress.advance()
    device = linalg_device()
    _, adapter, _, offset, function = patch

    def read() -> Tensor:
        return base_of(weights.base(key, device), offset, function)

    try:
        check_supported(adapter)
        if not all(is_finite(t) for t in tensors_of(adapter)):
            raise Unsupported("it holds values that are not numbers")
        channels = channels_of(adapter, device)
        if not len(channels):
            return "it changes nothing"
        size = size_of(adapter)
        of_the_file = float("-inf") if threshold is None else threshold
        if settings.score == READING:
            return judge_by_layer(channels, reads_the_prompt(key), settings, of_the_file)
        subspace = subspaces.of(size, cache_name(weights.digest(key), offset, function), read)
        if subspace is not None and size != (len(subspace.u), len(subspace.v)):
            raise Unsupported("its shape is not the layer's")
    except Unsupported as reason:
        return str(reason)
    except (ValueError, NotImplementedError) as error:
        return str(error) or ODD_FUNCTION
    if subspace is None:
        return UNDEFINED
    return judge(channels, subspace, settings, number, of_the_file)


def _filtered_patch(patch: Patch, verdict: Verdict) -> Patch | None:
    """The patch with new singular values; None if no channel is left."""
    strength, adapter, strength_model, offset, function = patch
    source = tensors_of(adapter)[0]
    b, a = refactored(channels_of(adapter, linalg_device()), verdict.new_sigma.to(linalg_device()))
    if not b.shape[1]:
        return None
    up, down = (t.to(source.device, source.dtype) for t in (b, a))
    return strength, LoRAAdapter(set(), (up, down, None, None, None, None)), strength_model, offset, function
