"""A base and what a LoRA loader makes of it: the two models, and the two text encoders."""

from __future__ import annotations

from typing import Any

from ..core.another_model import LORA, OTHER, SAME, relation

LENT = (
    "The text encoder carries a LoRA, and the base's pictures were drawn with it too: what that LoRA teaches the text encoder looks as if "
    "the base drew it, so leaks may be hidden. Connect the text encoder that goes into the LoRA loader as base_clip."
)


def has_a_lora(clip: Any) -> bool:
    """Does a CLIP carry a LoRA, or another patch of its weights?"""
    patcher = getattr(clip, "patcher", None)
    return bool(getattr(patcher, "patches", None) or getattr(patcher, "injections", None))


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
