"""What is asked of a guider: which prompts does it hold, what answers for its model, what do its prompts carry?"""

from __future__ import annotations

from typing import Any

import comfy.hooks

CACHES = ("easycache", "lazycache")
"""Keys of the core's wrappers that answer from earlier calls."""

PAIR = ("positive", "negative")
"""What the methods compare: a prompt and the empty prompt, under the core's names."""


def other_prompts(guider: Any) -> str:
    """Why the pair prompt / empty prompt cannot be told from a guider's calls, in words; "" if it can.

    Guiders with further prompts (DualCFGGuider, Perp-Neg) tell ComfyUI's post-CFG functions about pairs of their own.
    """
    if getattr(guider, "uncond_model_patcher", None) is not None:
        return "This guider asks another model for the empty prompt, so that the two predictions tell nothing of this one. Use CFGGuider."
    more = sorted(str(name) for name in set(getattr(guider, "original_conds", {})) - set(PAIR))
    if not more:
        return ""
    return (
        f"This guider holds other prompts than a positive and a negative one ({ascii(', '.join(more))}), so that it cannot be told which "
        "of them a memory would hang on. Use KSampler, CFGGuider or BasicGuider."
    )


def cached(guider: Any) -> str:
    """Why a guider's predictions are no function of what was asked, in words; "" if they are."""
    wrappers = guider.model_options.get("transformer_options", {}).get("wrappers", {})
    if not any(key in by_key for by_key in wrappers.values() for key in CACHES):
        return ""
    return "EasyCache or LazyCache answers some steps from earlier ones, which looks like another run. Bypass it where you guard."


def hooked_loras(conds: dict[str, list[dict[str, Any]]]) -> bool:
    """Do a guider's prompts, or their ControlNets, carry weights for the diffusion model, as Create Hook LoRA makes them?"""
    groups = []
    for cond in (c for side in conds.values() for c in side):
        groups += [cond.get("hooks"), *(cond["control"].get_extra_hooks() if cond.get("control") is not None else [])]
    return any(
        isinstance(hook, comfy.hooks.WeightHook) and hook.strength_model != 0
        for group in groups
        if group is not None
        for hook in group.hooks
    )
