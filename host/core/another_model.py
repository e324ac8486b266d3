"""A second MODEL beside the one that is sampled: the model before a LoRA, or under it.

Both may be clones of one, whose weights are then exchanged.
"""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
from torch import Tensor

from .guiders import CACHES
from .identity import differences, identity
from .patches import patches_of
from .predictions import Conds
from .seeds import kept_generators

OTHER, SAME, LORA, EXCHANGED, APART = "other", "same", "lora", "exchanged", "apart"
"""What a model is to another, see `relation`."""


def relation(model: Any, base: Any) -> str:
    """What a model is to its base: OTHER (another checkpoint), SAME, LORA (the base, and LoRAs more), EXCHANGED (the base has them), APART
    (both have LoRAs of their own)."""
    ours, theirs = identity(model), identity(base)
    if differences(theirs, ours):
        return OTHER
    if ours["patches"] == theirs["patches"]:
        return SAME
    has, had = patches_of(model), patches_of(base)
    return LORA if _within(had, has) else EXCHANGED if _within(has, had) else APART


def _within(few: dict[str, list[str]], many: dict[str, list[str]]) -> bool:
    """Are all patches of one among those of another?"""
    return all(patch in many.get(name, ()) for name, several in few.items() for patch in several)


def has_a_lora_beyond(model: Any, parent: Any) -> bool:
    """Is `parent` the model before a LoRA that `model` has? False: another checkpoint. ValueError if they are the same, or exchanged."""
    found = relation(model, parent)
    if found == SAME:
        raise ValueError(
            "The parent is the same model with the same LoRAs, so that there is nothing to compare it with. Connect as parent the MODEL "
            "that goes into the LoRA loader, and as model the one that comes out."
        )
    if found in (EXCHANGED, APART):
        raise ValueError(
            "The parent carries a LoRA that the model does not have, or has at another strength: what differs between them is no LoRA's "
            "change alone. Connect as parent the MODEL that goes into the LoRA loader, and as model the one that comes out."
        )
    return found == LORA


def before_the_lora(model: Any, parent: Any) -> Any:
    """The parent, with all that nodes have put on `model` beside its LoRAs (attention patches, a shifted schedule, options), so that these
    are no part of the LoRA's change. A parent that was loaded apart from the model stays as it is."""
    if parent.model is not model.model:
        return parent
    twin = model.clone()
    twin.patches = {name: list(several) for name, several in parent.patches.items()}
    twin.patches_uuid = parent.patches_uuid
    if hasattr(parent, "injections"):
        twin.injections = {name: list(several) for name, several in parent.injections.items()}
    return twin


def asked(model: Any, sides: list[Conds | None], facts: dict[str, Any]) -> list[Tensor]:
    """What a MODEL predicts for prepared prompts, [n, c, ...] each, where another one was just asked; it stays loaded.

    `facts`: what ComfyUI tells its post-CFG functions. A place in `sides` is a row's meaning: 0 = positive, 1 = negative.
    """
    comfy.model_management.load_models_gpu([model])
    options = comfy.model_patcher.create_model_options_clone(model.model_options)
    schedule = facts["model_options"].get("transformer_options", {}).get("sample_sigmas")
    inside = options.setdefault("transformer_options", {})
    inside["sample_sigmas"] = schedule
    for name in ("wrappers", "callbacks"):  # as a run of its own would begin with
        merged = comfy.patcher_extension.merge_nested_dicts(inside.get(name, {}), getattr(model, name, {}))
        # caches answer for a run that they have seen begin
        inside[name] = {kind: {k: v for k, v in by_key.items() if k not in CACHES} for kind, by_key in merged.items()}
    with kept_generators(facts["input"].device, seed=0):
        found: list[Tensor] = comfy.samplers.calc_cond_batch(model.model, sides, facts["input"], facts["sigma"], options)
    return found


def asked_meanwhile(other: Any, sampled: Any, sides: list[Conds | None], facts: dict[str, Any]) -> list[Tensor]:
    """`asked(other)` in the middle of a run of `sampled`, which is loaded again afterwards."""
    try:
        return asked(other, sides, facts)
    finally:
        comfy.model_management.load_models_gpu([sampled])
