"""Find the memorized neurons: two recordings compared, weight by weight."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import comfy.model_management
from torch import Tensor

from ...unmemorize.neurons.activity import COND, SIDES, UNCOND, Activity
from ...unmemorize.neurons.masks import SCORES, Mask, find_mask, merge, seen_levels
from ..core.identity import differences, identity
from ..core.progress import Progress
from ..core.settings import check_range
from ..core.weights import Weights
from .masks import MASKS, StoredMask
from .recording import StoredActivity

TENSORS_AT_ONCE, FLOAT32 = 3, 4
"""A layer, its mask by levels and a block of its scores; bytes of a value."""
SAME_RUN = ("place", "steps", "cfg", "sampler_name", "scheduler", "window", "levels")
"""What two recordings must agree in to be compared."""


def find(
    model: Any, memorized: StoredActivity, reference: StoredActivity, share: float, select_ratio: float, rows: str, score: str,
    keep_levels: bool = False, merge_with: StoredMask | None = None,
) -> StoredMask:  # fmt: skip
    """The mask of weights that memorized prompts use and the reference does not. ValueError on what does not fit, before any work."""
    _check_pair(model, memorized, reference)
    check_range("top_share", share, 0, 1)
    check_range("select_ratio", select_ratio, 0, 1)
    if rows not in SIDES or score not in SCORES:
        raise ValueError(f"rows {rows!r} or score {score!r} is none of {list(SIDES)}, {list(SCORES)}.")
    if merge_with is not None:
        _check_of_model(merge_with, memorized.facts["model"])
    weights = _weights(model, list(memorized.activity.squares))
    mask = find_mask(weights, memorized.activity, reference.activity, share, select_ratio, SIDES[rows], SCORES[score], keep_levels)
    if mask.weights() == 0:
        raise ValueError(
            "The mask is empty: under the memorized prompts no weight is more active than under the reference. Are they the same prompts, "
            "or is select_ratio too high?"
        )
    seen = seen_levels(memorized.activity, reference.activity, SIDES[rows])
    facts = {
        "kind": MASKS.noun, **{k: memorized.facts[k] for k in (*SAME_RUN, "prompts", "seeds", "seed", "model")}, "share": share,
        "select_ratio": select_ratio, "rows": rows, "score": score, "reference_prompts": reference.facts["prompts"], "merged": 1,
    }  # fmt: skip
    if seen:  # what single levels took stands beside these
        facts["levels"] = [memorized.facts["levels"][level] for level in seen]
    found = StoredMask(Mask(_on_cpu(mask.bits), mask.shapes, _on_cpu(mask.by_level), mask.level_shares), facts)
    return found if merge_with is None else merged(found, merge_with)


def own_mask(model: Any, run: Activity, share: float, score: str) -> Mask:
    """Weights that a guided run's prompt uses and the other prompt of its guidance does not (see `recording.record_run`)."""
    weights = _weights(model, list(run.squares))
    return find_mask(weights, run.of_side(COND), run.of_side(UNCOND), share, 0.0, (COND,), SCORES[score])


def _weights(model: Any, keys: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Weights as they are sampled with, one at a time; room for the largest is made first."""
    known, progress = Weights(model), Progress(len(keys))
    largest = max(math.prod(known.shape(key)) for key in keys)
    comfy.model_management.free_memory(TENSORS_AT_ONCE * FLOAT32 * largest, model.load_device)
    for key in keys:
        yield key, known.effective(key, model.load_device)
        progress.advance()


def _on_cpu(several: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.cpu() for k, v in several.items()}


def merged(mask: StoredMask, other: StoredMask) -> StoredMask:
    """Union of two masks of one model, without single levels; the facts are the first one's."""
    _check_of_model(other, mask.facts["model"])
    total = {k: mask.facts[k] + other.facts[k] for k in ("prompts", "merged")}
    return StoredMask(merge([mask.mask, other.mask]), {**mask.facts, **total})


def _check_of_model(other: Any, model: dict[str, str]) -> None:
    """ValueError unless it is a mask of the model of that identity."""
    if not isinstance(other, StoredMask):
        raise ValueError("merge_with is not a neuron mask. Connect Find Memorized Neurons or Load Neuron Mask, or leave it open.")
    unlike = differences(other.facts["model"], model)
    if unlike:
        raise ValueError(
            f"The mask to merge with belongs to another model: the two differ in {', '.join(unlike)}. Find both on the same model."
        )


def _check_pair(model: Any, memorized: Any, reference: Any) -> None:
    """ValueError unless both recordings are of this model, with all its patches, made in the same way."""
    for name, recorded in (("memorized", memorized), ("reference", reference)):
        if not isinstance(recorded, StoredActivity):
            raise ValueError(f"`{name}` is not a recording of neurons. Connect the activity of Record Neuron Activity.")
    here = identity(model)
    for name, recorded in (("memorized", memorized), ("reference", reference)):
        there = recorded.facts["model"]
        other = differences(there, here) + (["patches (LoRAs)"] if there["patches"] != here["patches"] else [])
        if other:
            raise ValueError(
                f"`{name}` was recorded with another model: the two differ in {', '.join(other)}. Use the same MODEL in all three nodes."
            )
    unlike = [f"{k} ({memorized.facts[k]} / {reference.facts[k]})" for k in SAME_RUN if memorized.facts[k] != reference.facts[k]]
    if unlike:
        raise ValueError(f"The two recordings were made in different ways: {', '.join(unlike)}. Use the same settings in both.")
