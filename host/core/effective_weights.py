"""Weights as the sampler uses them: dequantised, with all patches (LoRAs) of a MODEL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.lora
import torch
from torch import Tensor


def effective_weights(model: Any, keys: list[str]) -> Iterator[tuple[str, Tensor]]:
    """(key, float32 copy on the model's device), one at a time. ValueError for files whose weights cannot be read."""
    # starts from the backup of a patched weight: `module.weight` may hold the LoRAs of another clone
    entries = model.get_key_patches("diffusion_model.")
    for key in keys:
        (weight, convert), *patches = entries[key]
        if hasattr(weight, "tensor_type") and hasattr(weight, "tensor_shape"):
            raise ValueError(
                "This model is stored as GGUF, whose weights cannot be read here. Find the neurons on the same model in a safetensors "
                "file (fp16, bf16 or fp8)."
            )
        if type(weight) in (Tensor, torch.nn.Parameter):
            weight = convert(weight.detach().to(model.load_device, torch.float32, copy=True), inplace=True)
        else:  # a packed tensor becomes numbers by its own conversion only
            weight = convert(weight.detach(), inplace=False).to(model.load_device, torch.float32, copy=True)
        yield key, comfy.lora.calculate_weight(patches, weight, key) if patches else weight
