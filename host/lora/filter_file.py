"""BAF on a LoRA: every layer against the pristine weight of its base model, and the result under the file's own key names.

Base weights are read one at a time. What cannot be filtered, and every layer in which nothing is removed, passes byte by byte.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import comfy.sd
import torch
from torch import Tensor

from ...unmemorize.lora.channels import Channels, refactored
from ...unmemorize.lora.filtering import Verdict, judge
from ...unmemorize.lora.gates import READING, WHOLE_FILE, Settings, threshold_of_file
from ...unmemorize.lora.reading import judge_by_layer
from ..core.progress import Progress
from ..core.schema import hints
from ..core.weights import Weights
from . import keys
from .adapters import channels_of, kind_of, size_of, tensors_of
from .keys import Contents, Update
from .linalg import linalg_device
from .lora_files import LoRAFile
from .prompt_layers import reads_the_prompt
from .subspaces import Subspaces

FLAT_BASE = "the base's spectrum is flat there: alignment means nothing"
UNDEFINED = "the base layer is too small or zero: it has no principal subspace"
ODD_FUNCTION = "the core rearranges this layer in a way that cannot be undone here"

NOTHING_READS = (
    f"No layer of this LoRA is known to read the prompt, so the score {READING!r} removes nothing. Choose the score mean or singular value."
)


@dataclass(frozen=True)
class Layer:
    """One layer of the report and the plot."""

    target: str
    text_encoder: bool
    verdict: Verdict

    @property
    def block(self) -> str:
        """The layer's block: its key up to the first number."""
        found = re.match(r"(.*?\.\d+)(\.|$)", self.target)
        return (found.group(1) if found else self.target).removeprefix("diffusion_model.")


@dataclass
class Filtered:
    """A LoRA in two parts that add up to it."""

    kept: dict[str, Tensor]
    """Under the file's key names, in their order; tensors that did not change are the very same objects."""
    removed: dict[str, Tensor]
    layers: list[Layer]
    passed: dict[str, list[str]]
    warnings: list[str] = field(default_factory=list)
    subspaces_cached: int = 0


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
    contents = keys.take_apart(tensors, job.model, job.clip, job.text_encoder)
    weights = weights_of(job)
    keys.check(contents, weights)
    passes = 2 if job.settings.gate == WHOLE_FILE else 1
    progress = Progress(passes * len(contents.updates))
    subspaces = Subspaces(job.settings.energy)
    of_the_file = None
    if passes == 2:
        first = [(v.scores.cpu(), v.sigma.cpu()) for _, _, v in verdicts(contents, weights, job.settings, subspaces, progress, None)]
        of_the_file = threshold_of_file(first, job.settings.keep)
    result = Filtered({}, {}, [], {k: list(v) for k, v in contents.passed.items()})
    changes: dict[str, dict[str, Tensor]] = {}
    for update, channels, verdict in verdicts(contents, weights, job.settings, subspaces, progress, of_the_file, result.passed):
        result.layers.append(Layer(update.target, update.text_encoder, on_cpu(verdict)))
        if verdict.changed:
            shape = _kernel(weights[update.text_encoder], update)
            new = written(update, channels, verdict.new_sigma, shape, tensors)
            changes |= {key: {key: new[key]} if key in new else {} for key in update.keys}
            changes[update.keys[0]] |= {key: t for key, t in new.items() if key not in update.keys}
            if both:
                result.removed |= written(update, channels, verdict.removed, shape, tensors)
    for key, tensor in tensors.items():
        result.kept.update(changes.get(key, {key: tensor}))
    subspaces.tidy()
    result.subspaces_cached = subspaces.cached
    result.warnings = warnings_of(result.layers, job.settings)
    return result


def warnings_of(layers: list[Layer], settings: Settings) -> list[str]:
    """What a user should know of the verdicts."""
    found = []
    flat = [layer.target for layer in layers if layer.verdict.flat]
    if flat:
        found.append(f"{len(flat)} layers, {flat[0]} the first: {FLAT_BASE}.")
    if settings.score == READING and not any(bool((layer.verdict.scores < 0).any()) for layer in layers):
        found.append(NOTHING_READS)
    return found


def weights_of(job: Job) -> dict[bool, Weights]:
    """Base weights of the diffusion model (False) and of the text encoder (True)."""
    return {False: Weights(job.model)} | ({} if job.clip is None else {True: Weights(job.clip.patcher)})


def verdicts(
    contents: Contents,
    weights: dict[bool, Weights],
    settings: Settings,
    subspaces: Subspaces,
    progress: Progress,
    of_the_file: float | None,
    passed: dict[str, list[str]] | None = None,
) -> Iterator[tuple[Update, Channels, Verdict]]:
    """Each layer judged, one base weight in memory at a time; `passed` collects the layers that have no verdict.

    Without the whole file's threshold, its gate lets everything through: only scores are wanted then.
    """
    device = linalg_device()
    for number, update in enumerate(contents.updates):
        progress.advance()
        channels = channels_of(update.adapter, device)
        if not len(channels):
            continue
        threshold = float("-inf") if of_the_file is None else of_the_file
        if settings.score == READING:
            reading = update.text_encoder or reads_the_prompt(update.target)
            yield update, channels, judge_by_layer(channels, reading, settings, threshold)
            continue
        base = weights[update.text_encoder]

        def read(base: Weights = base, update: Update = update) -> Tensor:
            return base_of(base.base(update.target, device), update.offset, update.function)

        try:
            name = cache_name(base.digest(update.target), update.offset, update.function)
            found = subspaces.of(size_of(update.adapter), name, read)
        except NotImplementedError:
            (passed if passed is not None else {}).setdefault(ODD_FUNCTION, []).extend(update.keys)
            continue
        if found is None:
            (passed if passed is not None else {}).setdefault(UNDEFINED, []).extend(update.keys)
            continue
        yield update, channels, judge(channels, found, settings, number, threshold)


def cache_name(digest: str, offset: tuple[int, int, int] | None, function: Any) -> str:
    """What a cached subspace is computed from: the weight's content, the part of it, its arrangement."""
    part = "" if offset is None else "-" + "_".join(str(x) for x in offset)
    return digest + part + ("" if function is None else "-arranged")


def base_of(weight: Tensor, offset: tuple[int, int, int] | None, function: Any) -> Tensor:
    """The part of a base weight that an update changes, arranged as the update is, [m, n].

    The core adds function(dW); the base is compared before it, so function must be its own inverse. NotImplementedError if not.
    """
    if offset is not None:
        weight = weight.narrow(*offset)
    if function is not None:
        arranged = function(weight.clone())
        if not torch.equal(function(arranged.clone()), weight):
            raise NotImplementedError
        weight = arranged
    return weight.flatten(1)


def written(update: Update, channels: Channels, sigma: Tensor, kernel: tuple[int, ...], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a layer with new singular values [c], as the file spells them; empty if no channel is left.

    LoRA stays LoRA with alpha = the new rank. LoHa and LoKr become LoRA, since a part of a product is no product; full differences stay
    whole, and so does what would be smaller whole.
    """
    b, a = refactored(channels, sigma)
    rank = b.shape[1]
    if not rank:
        return {}
    source = tensors_of(update.adapter)[0]
    kind = kind_of(update.adapter)
    if kind == "lora":
        up, down = update.adapter.weights[:2]
        core = update.adapter.weights[3]
        shape = (rank, *down.shape[1:]) if core is None else (rank, down.shape[1], *core.shape[2:])
        named = {update.name_of(up): b.reshape(len(b), rank, *[1] * (up.ndim - 2)), update.name_of(down): a.reshape(shape)}
    elif kind == "diff":
        return {update.name_of(source): (b @ a).reshape(source.shape).to(source), **{k: tensors[k] for k in update.keys[1:]}}
    elif rank * (len(b) + a.shape[1]) < len(b) * a.shape[1]:
        named = {
            f"{update.prefix}.lora_up.weight": b.reshape(len(b), rank, *[1] * (len(kernel) - 1)),
            f"{update.prefix}.lora_down.weight": a.reshape(rank, *kernel),
        }
    else:
        return {f"{update.prefix}.diff": (b @ a).reshape(len(b), *kernel).to(source)}
    result = {key: t.to(source.device, source.dtype).contiguous() for key, t in named.items()}
    # where the file has an alpha it is the rank: the loader's alpha / rank is then 1, as it is without one
    return result | {k: torch.full_like(tensors[k], float(rank)) for k in update.keys if k.endswith(".alpha")}


def _kernel(weights: Weights, update: Update) -> tuple[int, ...]:
    """[in, *kernel] of the layer, as a LoRA's down has it behind the rank."""
    shape = weights.shape(update.target)[1:]
    size = size_of(update.adapter)[1]
    return shape if math.prod(shape) == size else (size,)


def on_cpu(verdict: Verdict) -> Verdict:
    """For reports: nothing of it stays on the device of the models."""
    parts = (verdict.scores.cpu(), verdict.sigma.cpu(), verdict.new_sigma.cpu())
    return Verdict(*parts, verdict.k, verdict.deviation, verdict.flat)


def load_filtered(file: LoRAFile, strength_model: float, strength_clip: float, job: Job) -> tuple[Any, Any, Filtered | None]:
    """MODEL and CLIP with a filtered LoRA, through the stock loader. Filter strength 0: the stock result, no report."""
    result = filter_lora(file.tensors, job, both=False) if job.settings.strength > 0 else None
    tensors = file.tensors if result is None else result.kept
    load = comfy.sd.load_lora_for_models
    more = hints(load, lora_metadata=file.info["metadata"] or None)  # newer cores keep it with the model
    return *load(job.model, job.clip, tensors, strength_model, strength_clip, **more), result
