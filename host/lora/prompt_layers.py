"""Which weights decide how the picture reads the prompt: queries, keys and values of attention to text, by ComfyUI's names.

Where picture and words share one attention (SD3, Flux, Qwen-Image) only the words' own projections count; where they share the weights too
(single-stream blocks, Lumina 2, Z-Image, OmniGen 2, ERNIE ...) nothing can be told apart.

**To add a network**: find its attention to text in ComfyUI's source (comfy/ldm/...) and add the end of the projections' names below.
tests/comfy/lora/test_prompt_layers.py holds the list of networks, and fails for those of a newer ComfyUI that are not in it.
"""

from __future__ import annotations

import re

READING = (
    r"attn2\.to_[qkv]",  # SD1, SD2, SDXL, Stable Video Diffusion, LTX-Video, Hunyuan3D 2.1: the UNets are the only ones measured
    r"attn2\.([qkv]_proj|kv_proj)",  # HunyuanDiT
    r"cross_attn\.([qkv]|[qkv]_proj|q_linear|kv_linear)",  # Wan, Cosmos Predict 2, Anima, ACE-Step 1.5, PixArt
    r"cross_attn\.to_([qkv]|kv)",  # Stable Audio, ACE-Step
    r"cross_attention\.to_(query|key|value)",  # Kandinsky 5
    r"blocks\.block\d+\.blocks\.1\.block\.attn\.to_[qkv]\.0",  # Cosmos 1: the second of a block's parts is its cross-attention
    r"kv_mapper\.1",  # Stable Cascade: the prompt's own way into an attention shared with the picture
    r"context_block\.attn\.qkv",  # SD3, SD3.5
    r"txt_attn\.(qkv|[qkv]_proj)",  # Flux, Chroma, HunyuanVideo
    r"attn\.(txt_attn_qkv|txt_qkv)",  # JoyImage, Lens
    r"attn\.add_[qkv]_proj",  # Qwen-Image
    r"attn1\.to_[qkv]_t",  # HiDream
    r"attn\.qkv_y",  # Mochi, PixelDiT
    r"processor\.instruct_to_[qkv]",  # Boogu
    r"double_layers\.\d+\.attn\.w1[qkv]",  # AuraFlow
)
"""Ends of module names."""
_WEIGHT = re.compile(rf"(^|\.)({'|'.join(READING)})\.weight$")


def reads_the_prompt(key: str) -> bool:
    """Of a weight's key in the diffusion model."""
    return _WEIGHT.search(key) is not None
