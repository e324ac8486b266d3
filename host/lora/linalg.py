"""Where and in which type the decompositions of LoRA layers run."""

from __future__ import annotations

import comfy.model_management
import torch


def linalg_device() -> torch.device:
    """The device of the models if its linear algebra is complete, else the CPU."""
    device = comfy.model_management.get_torch_device()
    return device if device.type in ("cuda", "cpu") else torch.device("cpu")


def fast_dtype(device: torch.device) -> torch.dtype:
    """A type in which matrices are multiplied several times faster than in float32: bfloat16 on CPUs with instructions for it."""
    known = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return torch.bfloat16 if device.type == "cpu" and any(ask is not None and ask() for ask in known) else torch.float32
