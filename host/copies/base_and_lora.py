"""A base and what a LoRA loader makes of it: the two models, and the two text encoders."""

from __future__ import annotations

from typing import Any

from ..core.another_model import has_a_lora_beyond
from ..core.identity import differences, identity

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
    ours, theirs = identity(lora), identity(base)
    wanted = "Connect the MODEL that goes into the LoRA loader as base, and the one that comes out as lora."
    if differences(theirs, ours):
        raise ValueError(f"The two models are different checkpoints. {wanted}")
    if ours["patches"] == theirs["patches"]:
        raise ValueError(
            "base and lora are the same model with the same LoRAs, so that there is nothing to probe: no LoRA was applied to the model, or "
            f"it changes the text encoder alone, whose leaks are not looked for here. {wanted}"
        )
    try:
        has_a_lora_beyond(lora, base)
    except ValueError as error:
        raise ValueError(
            f"base carries a LoRA that the model under lora does not have, or has at another strength: are the two exchanged? {wanted}"
        ) from error
