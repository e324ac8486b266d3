"""What is asked of a guider: which prompts does it hold?"""

from __future__ import annotations

from typing import Any

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
