"""A base and what a LoRA loader makes of it: the two models, and the two text encoders."""

from __future__ import annotations

from typing import Any

from ..core.identity import differences, identity
from ..core.patches import patches_of

OTHER, SAME, LORA, EXCHANGED, APART = "other", "same", "lora", "exchanged", "apart"
LENT = (
    "The text encoder carries a LoRA, and the base's pictures were drawn with it too: what that LoRA teaches the text encoder looks as if "
    "the base drew it, so leaks may be hidden. Connect the text encoder that goes into the LoRA loader as base_clip."
)


def has_a_lora(clip: Any) -> bool:
    """Does a CLIP carry a LoRA, or another patch of its weights?"""
    patcher = getattr(clip, "patcher", None)
    return bool(getattr(patcher, "patches", None) or getattr(patcher, "injections", None))


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


def check_lora(lora: Any, base: Any) -> None:
    """ValueError unless `base` is the model that went into a LoRA loader, and `lora` the one that came out."""
    wanted = "Connect the MODEL that goes into the LoRA loader as base, and the one that comes out as lora."
    found = relation(lora, base)
    if found == OTHER:
        raise ValueError(f"The two models are different checkpoints. {wanted}")
    if found == SAME:
        raise ValueError(
            "base and lora are the same model with the same LoRAs, so that there is nothing to probe: no LoRA was applied to the model, or "
            f"it changes the text encoder alone, whose leaks are not looked for here. {wanted}"
        )
    if found != LORA:
        raise ValueError(
            f"base carries a LoRA that the model under lora does not have, or has at another strength: are the two exchanged? {wanted}"
        )
