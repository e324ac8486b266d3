"""Neuron masks: laid over a MODEL as a weight patch, kept in files, refused for another model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from comfy.weight_adapter import WeightAdapterBase
from torch import Tensor

from ...unmemorize.neurons.activity import SIDES
from ...unmemorize.neurons.masks import DENSE, SCORES, Mask, prune_in_place
from ...unmemorize.pictures.views import density_view
from ..core import facts, store
from ..core.identity import differences, identity, in_another_precision, shown
from ..core.settings import check_range
from ..core.weights import Weights

MASKS = store.user_store("neuron mask", "masks")
FACTS = {
    "kind": facts.text(), **facts.SAMPLING, "place": facts.text(), "window": facts.several(facts.number(0, 1e9), 2, 2),
    "levels": facts.several(facts.number(0, 1e9), 1, 10_000), "prompts": facts.COUNT, "seeds": facts.COUNT, "seed": facts.SEED,
    "model": facts.IDENTITY, "share": facts.number(0, 1), "select_ratio": facts.number(0, 1), "rows": facts.one_of(SIDES),
    "score": facts.one_of(SCORES), "reference_prompts": facts.COUNT, "merged": facts.COUNT,
    "shapes": facts.table(facts.several(facts.whole(1, 2**31), 2, 2)),
}  # fmt: skip
"""Of a file."""


@dataclass(frozen=True)
class StoredMask:
    """A mask and how it was found: model identity, place, prompts, sampling, window, settings."""

    mask: Mask
    facts: dict[str, Any]


class PruneAdapter(WeightAdapterBase):
    """W <- W (1 - strength M) as one of ComfyUI's weight patches: it acts on what the patches before it made of the weight.

    ComfyUI rebuilds adapters as type(adapter)(loaded_keys, weights) when it streams them, so all tensors are in `weights`: the packed mask.
    """

    name = "unmemorize_prune"

    def __init__(self, loaded_keys: set[str], weights: tuple[Tensor, ...]) -> None:
        self.loaded_keys = loaded_keys
        self.weights = weights  # type: ignore[assignment]

    def calculate_weight(
        self, weight: Tensor, key: str, strength: float, strength_model: float, offset: Any, function: Any,
        intermediate_dtype: torch.dtype = torch.float32, original_weight: Any = None,
    ) -> Tensor:  # fmt: skip
        """The patched weight: the very tensor, which the core made for its patches, in the precision it came in."""
        return prune_in_place(weight.flatten(1), self.weights[0].to(weight.device), strength).view_as(weight)


def pruned(model: Any, stored: StoredMask, strength: float) -> Any:
    """A clone of MODEL with the mask over its patched weights; at strength 0 the MODEL itself. ValueError for another model's mask."""
    check_mask(stored, model)
    check_range("strength", strength, 0, 1)
    if strength == 0:
        return model
    known = Weights(model)
    for key, shape in stored.mask.shapes.items():
        if key not in known:
            raise ValueError(f"The mask silences {key!a}, which this model does not have. Find a mask on this model.")
        out, *rest = known.shape(key)
        here = (out, math.prod(rest))
        sides = slice(None) if known.is_plain(key) else slice(1)  # packed weights (NVFP4) keep their first size
        if here[sides] != tuple(shape)[sides]:
            raise ValueError(f"{key!a} has the shape {list(here)} here, {list(shape)} in the mask. Find a mask on this model.")
    return laid_over(model, stored.mask, strength)


def laid_over(model: Any, mask: Mask, strength: float = 1.0) -> Any:
    """A clone of MODEL with a mask of its own over its patched weights."""
    clone = model.clone()
    clone.add_patches({key: PruneAdapter({key}, (bits,)) for key, bits in mask.bits.items()}, strength)
    return clone


def check_mask(stored: Any, model: Any) -> None:
    """ValueError, naming both models and what differs, unless the mask was found on this model."""
    if not isinstance(stored, StoredMask):
        raise ValueError("This is not a neuron mask. Connect Find Memorized Neurons or Load Neuron Mask.")
    here = identity(model)
    other = differences(stored.facts["model"], here)
    if other:
        names = [f"{m['architecture']} with weights {m['weights']}" for m in (stored.facts["model"], here)]
        raise ValueError(
            f"This neuron mask belongs to another model: the two differ in {', '.join(other)}. It was found on {names[0]}, this model is "
            f"{names[1]}. Connect that model, or find a mask on this one."
        )


def report(stored: StoredMask, model: Any = None) -> dict[str, Any]:
    """Settings, density of the whole and by layer, and warnings: too dense, or found under other LoRAs than `model` has; JSON-able."""
    density = stored.mask.density()
    found = {
        **stored.facts, "model": shown(stored.facts["model"]), "density": round(density, 6), "weights": stored.mask.weights(),
        "density_by_layer": {k: round(v, 5) for k, v in stored.mask.density_by_layer().items()}, "warnings": [],
    }  # fmt: skip
    if density > DENSE:
        found["warnings"].append(f"{density:.1%} of the weights are silenced; above {DENSE:.0%} other pictures begin to suffer.")
    if model is not None:
        here = identity(model)
        if here["patches"] != stored.facts["model"]["patches"]:
            found["warnings"].append("The model carries other patches (LoRAs) than when the mask was found.")
        found["warnings"] += filter(None, [in_another_precision(stored.facts["model"], here)])
    return found


def view_of(stored: StoredMask) -> dict[str, Any]:
    """For the view in the node: density by layer and noise level."""
    mask = stored.mask
    return density_view(mask.density_by_layer(), mask.density_by_level(), stored.facts.get("levels", []))


def save_mask(stored: Any, name: str) -> str:
    """Write a mask into the user's folder; returns the name it got."""
    if not isinstance(stored, StoredMask):
        raise ValueError("This is not a neuron mask. Connect Find Memorized Neurons.")
    return store.save(MASKS, name, *as_file(stored))


def load_mask(name: str) -> StoredMask:
    """Read a mask by its name in the list."""
    return read_mask(store.find(MASKS, name))


def as_file(stored: StoredMask) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata, as `read_mask` expects them."""
    mask = stored.mask
    tensors = {f"bits.{k}": v for k, v in mask.bits.items()} | {f"levels.{k}": v for k, v in mask.by_level.items()}
    noted = {**stored.facts, "density": mask.density(), "shapes": {k: list(v) for k, v in mask.shapes.items()}}
    return tensors, store.facts_as_metadata(noted)


def read_mask(path: Path) -> StoredMask:
    """Read a mask from a file; ValueError if it is none."""
    file, (tensors, found) = path.name, store.read(path, MASKS.noun)
    kept = facts.checked(file, found, FACTS)
    shapes = {key: (out, d) for key, (out, d) in kept.pop("shapes").items()}
    bits, by_level = {}, {}
    for key, (out, d) in shapes.items():
        packed = (out, -(-d // 8))
        bits[key] = facts.tensor(file, tensors, f"bits.{key}", packed, (torch.uint8,))
        if f"levels.{key}" in tensors:
            by_level[key] = facts.tensor(file, tensors, f"levels.{key}", (len(kept["levels"]), *packed), (torch.uint8,))
    return StoredMask(Mask(bits, shapes, by_level), kept)
