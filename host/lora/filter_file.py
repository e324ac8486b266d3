"""A LoRA file, filtered: the result under the file's own key names.

What cannot be filtered, and every layer in which nothing is removed, passes byte by byte.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sd
import torch
from torch import Tensor

from ...unmemorize.lora.channels import refactored
from ...unmemorize.lora.filtering import Verdict
from ...unmemorize.lora.gates import Settings
from ...unmemorize.lora.scores import SCORES
from ..core.schema import hints
from ..core.settings import check_range
from ..core.weights import Weights
from . import keys
from .adapters import MOST_OF_HALF
from .judging import LayerAtWork, judged
from .keys import Update
from .layers import TOO_LARGE, is_finite
from .lora_files import LoRAFile
from .results import Filtered, LayerResult, warnings_of
from .rewriting import Rewritten, as_read, with_changes
from .subspaces import Subspaces

WHOLE_KEEPS = "What is a product of products (LoKr, LoHa) is written as plain layers; the score cross-attention keeps its kind and size."
MUCH_LARGER = 4
"""Times as many numbers, from which on a user is told."""
MOST_STRENGTH = 100.0
"""As the stock LoRA loader's widget."""


@dataclass(frozen=True)
class Job:
    """What a LoRA is filtered with."""

    model: Any
    clip: Any
    settings: Settings
    text_encoder: bool = True


def filter_lora(tensors: dict[str, Tensor], job: Job, both: bool = True) -> Filtered:
    """Split a LoRA's tensors into what is kept and what is removed; without `both` the removed part is not written out.

    ValueError before work if LoRA and model do not belong together.
    """
    job.settings.check()
    weights = weights_of(job.model, job.clip)
    contents = keys.check(keys.take_apart(tensors, job.model, job.clip, job.text_encoder), weights)
    if SCORES[job.settings.score].needs_base:
        for update in contents.updates:
            weights[update.layer.text_encoder].check_readable(update.layer.target)
    growth = "" if SCORES[job.settings.score].whole else growth_of(contents.updates, 2 if both else 1)
    subspaces = Subspaces(job.settings.energy)
    result = Filtered({}, {}, [], {k: list(v) for k, v in contents.passed.items()})
    changes: Rewritten = []
    layers = judged([update.layer for update in contents.updates], weights, job.settings, subspaces)
    for update, (layer, work, verdict) in zip(contents.updates, layers, strict=True):
        if isinstance(verdict, str):
            result.passed.setdefault(verdict, []).extend(update.keys)
            continue
        new, gone = {}, {}
        if verdict.changed:
            kernel = kernel_of(update, weights[layer.text_encoder])
            new = written(update, work, verdict, verdict.new_sigma, kernel)
            gone = written(update, work, verdict, verdict.removed, kernel) if both else {}
            # no number that is written is larger than twice the layer's norm
            large = 2 * float(verdict.sigma.norm()) >= MOST_OF_HALF
            if large and not all(is_finite(t) for t in (*new.values(), *gone.values())):
                result.passed.setdefault(TOO_LARGE, []).extend(update.keys)
                continue
            changes.append((update, new))
        result.removed |= gone
        result.layers.append(LayerResult(layer.target, layer.block, layer.text_encoder, verdict))
    result.kept, result.removed = as_read(with_changes(tensors, changes), tensors), as_read(result.removed, tensors)
    result.subspaces_cached = subspaces.cached
    result.warnings = [*warnings_of(result.layers, job.settings), *([growth] if growth else [])]
    return result


def growth_of(updates: list[Update], parts: int) -> str:
    """A warning if layers may grow far larger as plain ones, or "". ValueError before work if memory cannot hold them."""
    adapters = [update.layer.adapter for update in updates]
    values = sum(min(math.prod(a.shape), a.rank * sum(a.shape)) for a in adapters)
    times = values / max(1, sum(t.numel() for a in adapters for t in a.tensors))
    need, free = 4 * parts * values, comfy.model_management.get_free_memory(torch.device("cpu"))
    if need > free:
        raise ValueError(
            f"Filtered channel by channel this LoRA needs up to {need / 2**30:.0f} GB of memory, {free / 2**30:.0f} are free. {WHOLE_KEEPS}"
        )
    return f"The file may become {times:.0f} times as large. {WHOLE_KEEPS}" if times >= MUCH_LARGER else ""


def weights_of(model: Any, clip: Any) -> dict[bool, Weights]:
    """Base weights of the diffusion model (False) and of the text encoder (True)."""
    return {False: Weights(model)} | ({} if clip is None else {True: Weights(clip.patcher)})


def written(update: Update, work: LayerAtWork, verdict: Verdict, sigma: Tensor, kernel: tuple[int, ...]) -> dict[str, Tensor]:
    """Tensors of a layer with new singular values [c], as the file spells them; empty if nothing is left.

    A layer that was judged as one is weakened as one: its own tensors, scaled.
    """
    adapter = update.layer.adapter
    if verdict.whole:
        factor = verdict.factor_of(sigma)
        return adapter.scaled(factor, update.names) if factor else {}
    b, a = refactored(work.channels, sigma)
    return adapter.rewritten(b, a, update.names, kernel) if b.shape[1] else {}


def kernel_of(update: Update, weights: Weights) -> tuple[int, ...]:
    """[in, *kernel] of the layer, as a LoRA's down has it behind the rank."""
    shape, size = weights.shape(update.layer.target)[1:], update.layer.adapter.shape[1]
    return shape if math.prod(shape) == size else (size,)


def check_strengths(strength_model: float, strength_clip: float) -> None:
    """ValueError on strengths that no widget gives."""
    for name, value in (("strength_model", strength_model), ("strength_clip", strength_clip)):
        check_range(name, value, -MOST_STRENGTH, MOST_STRENGTH)


def load_filtered(file: LoRAFile, strength_model: float, strength_clip: float, job: Job) -> tuple[Any, Any, Filtered | None]:
    """MODEL and CLIP with a filtered LoRA, through the stock loader. Filter strength 0: the stock result, no report."""
    if job.settings.strength > 0:
        result = filter_lora(file.tensors, job, both=False)
    else:
        result = None
        keys.take_apart(file.tensors, job.model, job.clip)  # what the core cannot read is said in words
    tensors = file.tensors if result is None else result.kept
    load = comfy.sd.load_lora_for_models
    more = hints(load, lora_metadata=file.info["metadata"] or None)  # newer cores keep it with the model
    return *load(job.model, job.clip, tensors, strength_model, strength_clip, **more), result
