"""What kinds of layers a LoRA changes, by ComfyUI's names: groups that a user knows."""

from __future__ import annotations

import re

from .layers import Layer
from .prompt_layers import reads_the_prompt

CROSS_ATTENTION = r"(attn2|cross_attn|cross_attention)\."
KINDS = (
    ("cross-attention queries", CROSS_ATTENTION + r"(to_)?q"),
    ("cross-attention keys", CROSS_ATTENTION + r"(to_)?k(ey|_proj)?\.weight"),
    ("cross-attention values", CROSS_ATTENTION + r"(to_)?v(alue|_proj)?\.weight"),
    ("cross-attention output", CROSS_ATTENTION),
)
"""Asked in this order."""
FURTHER = (("attention", r"(attn|attention)"), ("feed-forward", r"(\.ff\.|mlp|feed_forward|\.ffn)"))


def group_of(layer: Layer) -> str:
    """The group that a layer belongs to."""
    if layer.text_encoder:
        return "text encoder"
    for name, pattern in KINDS:
        if re.search(pattern, layer.target):
            return name
    if reads_the_prompt(layer.target):
        return "the prompt's own projections"
    return next((name for name, pattern in FURTHER if re.search(pattern, layer.target)), "other layers")
