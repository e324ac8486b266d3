"""Which weights decide how the picture reads the prompt: queries, keys and values of attention to text, by ComfyUI's names.

Where picture and words share one attention (SD3, Flux, Qwen-Image) only the words' own projections count; where they share the weights too
(single-stream blocks, Lumina 2, Z-Image) nothing can be told apart.

**To add a network**: find its attention to text in ComfyUI's source (comfy/ldm/...) and add the end of the projections' names below.
"""

from __future__ import annotations

import re

READING = (
    r"attn2\.to_[qkv]",  # SD1, SD2, SDXL, Stable Video Diffusion, LTX-Video: the only ones measured
    r"attn2\.([qkv]_proj|kv_proj)",  # HunyuanDiT
    r"cross_attn\.([qkv]|[qkv]_proj|q_linear|kv_linear)",  # Wan, Cosmos Predict 2, PixArt
    r"context_block\.attn\.qkv",  # SD3, SD3.5
    r"txt_attn\.(qkv|[qkv]_proj)",  # Flux, Chroma, HunyuanVideo
    r"attn\.add_[qkv]_proj",  # Qwen-Image
    r"double_layers\.\d+\.attn\.w1[qkv]",  # AuraFlow
)
"""Ends of module names."""


def reads_the_prompt(key: str) -> bool:
    """Of a weight's key in the diffusion model."""
    return any(re.search(rf"(^|\.){pattern}\.weight$", key) for pattern in READING)
