"""Which layers neurons are looked for in: one table of module names, for every kind of network.

**To add a network**: find the linear layer that ends its feed-forward block in ComfyUI's source (comfy/ldm/...), and add the end of its
module name below, with `\\d+` for numbers. Two things must hold. ComfyUI calls that layer as a module (hooks see it), and its input has
the batch in front, [batch, ..., features]: only then can prompted and empty-prompt rows be told apart. That is why experts which get
their tokens routed (HiDream) and networks that put time in front (Cosmos 1) are not in the table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

PREFIX = "diffusion_model."


@dataclass(frozen=True)
class Pattern:
    """Layers of one kind."""

    ending: str
    """Regular expression for the end of the module's name."""
    networks: str
    """Who has it."""
    after_attention: bool = False
    """The input is [attention, feed-forward] side by side, the attention as wide as the output: its features are left alone."""


@dataclass(frozen=True)
class Layer:
    """A layer of a model."""

    key: str
    """Of its weight, as ComfyUI's patches name it."""
    module: Any
    first: int
    """Its first feature that counts."""
    convolution: bool = False
    """Its input is [batch, features, height, width]: every place is a row."""


FEED_FORWARD_OUT = (
    Pattern(r"transformer_blocks\.\d+\.ff\.net\.2", "SD1, SD2, SDXL, Stable Video Diffusion (GEGLU, the paper's); LTX-Video"),
    Pattern(r"time_stack\.\d+\.ff\.net\.2", "Stable Video Diffusion, along time"),
    Pattern(r"channelwise\.4", "Stable Cascade"),
    Pattern(r"joint_blocks\.\d+\.(x_block|context_block)\.mlp\.fc2", "SD3, SD3.5"),
    Pattern(r"(^|\.)blocks\.\d+\.mlp\.fc2", "PixArt, HunyuanDiT, Hunyuan3D 2.1"),
    Pattern(r"(double_layers\.\d+\.mlp[XC]|single_layers\.\d+\.mlp)\.c_proj", "AuraFlow"),
    Pattern(r"double_blocks\.\d+\.(img|txt)_mlp\.(2|down_proj)", "Flux, Flux 2, Chroma, HunyuanVideo, Hunyuan3D 2"),
    Pattern(r"single_blocks\.\d+\.linear2", "Flux, Flux 2, Chroma, HunyuanVideo, Hunyuan3D 2", after_attention=True),
    Pattern(r"transformer_blocks\.\d+\.(img|txt)_mlp\.net\.2", "Qwen-Image"),
    Pattern(r"transformer_blocks\.\d+\.(img|txt)_mlp\.w2", "Lens"),
    Pattern(r"double_blocks\.\d+\.(img|txt)_mlp\.net\.2", "JoyImage"),
    Pattern(r"(layers|noise_refiner)\.\d+\.feed_forward\.w2", "Lumina 2, Z-Image, Ideogram 4"),
    Pattern(r"(layers|noise_refiner)\.\d+\.feed_forward\.linear_2", "OmniGen 2"),
    Pattern(r"(^|\.)blocks\.\d+\.ffn\.2", "Wan"),
    Pattern(r"(^|\.)blocks\.\d+\.mlp\.layer2", "Cosmos Predict 2"),
    Pattern(r"(^|\.)blocks\.\d+\.mlp_[xy]\.w2", "Mochi"),
    Pattern(r"(^|\.)blocks\.\d+\.mlp\.down", "Krea 2"),
    Pattern(r"(^|\.)blocks\.\d+\.ff_out", "CogVideoX"),
    Pattern(r"layers\.\d+\.mlp\.linear_fc2", "Ernie-Image"),
    Pattern(r"visual_transformer_blocks\.\d+\.feed_forward\.out_layer", "Kandinsky 5"),
    Pattern(r"double_stream_blocks\.\d+\.block\.ff_(i\.shared_experts|t)\.w2", "HiDream, without the routed experts"),
    Pattern(r"single_stream_blocks\.\d+\.block\.ff_i\.shared_experts\.w2", "HiDream, without the routed experts"),
    Pattern(r"transformer\.layers\.\d+\.ff\.ff\.2", "Stable Audio"),
)
FEED_FORWARD_IN = (
    Pattern(r"transformer_blocks\.\d+\.ff\.net\.0\.proj", "SD1, SD2, SDXL, LTX-Video"),
    Pattern(r"joint_blocks\.\d+\.(x_block|context_block)\.mlp\.fc1", "SD3, SD3.5"),
    Pattern(r"(^|\.)blocks\.\d+\.ffn\.0", "Wan"),
)
CROSS_ATTENTION = (
    Pattern(r"transformer_blocks\.\d+\.attn2\.to_[kv]", "SD1, SD2, SDXL, LTX-Video"),
    Pattern(r"(^|\.)blocks\.\d+\.cross_attn\.[kv]", "Wan"),
)
ATTENTION_OUT = (
    Pattern(r"transformer_blocks\.\d+\.attn[12]\.to_out\.0", "SD1, SD2, SDXL, LTX-Video"),
    Pattern(r"joint_blocks\.\d+\.(x_block|context_block)\.attn\.proj", "SD3, SD3.5"),
    Pattern(r"(^|\.)blocks\.\d+\.(self|cross)_attn\.o", "Wan"),
)
CONVOLUTIONS = (Pattern(r"(in_layers\.2|out_layers\.3)", "SD1, SD2, SDXL, Stable Video Diffusion (ResBlocks)"),)
PLACES: dict[str, tuple[Pattern, ...]] = {
    "feed-forward": FEED_FORWARD_OUT,
    "feed-forward, first linear": FEED_FORWARD_IN,
    "cross-attention keys and values": CROSS_ATTENTION,
    "attention outputs": ATTENTION_OUT,
    "convolutions": CONVOLUTIONS,
    "all of these": FEED_FORWARD_OUT + FEED_FORWARD_IN + CROSS_ATTENTION + ATTENTION_OUT + CONVOLUTIONS,
}
"""Only the first is the paper's, and only it knows every network above."""


def layers_of(model: Any, place: str) -> list[Layer]:
    """The layers of a MODEL at a place, in the network's order; ValueError if there are none."""
    if place not in PLACES:
        raise ValueError(f"{place!r} is no place to look for neurons. Choose one of: {', '.join(PLACES)}.")
    found = []
    for name, module in model.model.diffusion_model.named_modules():
        pattern = next((p for p in PLACES[place] if re.search(f"(?:{p.ending})$", name)), None)
        weight = getattr(module, "weight", None)
        convolution = isinstance(module, torch.nn.Conv2d) and module.groups == 1
        if pattern is not None and weight is not None and (convolution or hasattr(module, "in_features")):
            first = module.out_features if pattern.after_attention else 0
            found.append(Layer(f"{PREFIX}{name}.weight", module, first, convolution))
    if not found:
        raise ValueError(
            f"No layer of this model ({type(model.model).__name__}) is known at the place {place!r}, so no neurons can be found in it. "
            f"Known are: {'; '.join(dict.fromkeys(p.networks for p in PLACES[place]))}. For another network, add its layers to the table "
            "in host/neurons/layers.py."
        )
    return found
