"""Weights of a model before any patch, one at a time."""

from __future__ import annotations

import hashlib
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

PLAIN = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SLICES, SLICE = 128, 512
"""Of a weight's content, for its name: so many evenly spread slices of so many bytes."""


def linalg_device() -> torch.device:
    """Where decompositions run: the device of the models if its linear algebra is complete, else the CPU."""
    device = comfy.model_management.get_torch_device()
    return device if device.type in ("cuda", "cpu") else torch.device("cpu")


def fast_dtype(device: torch.device) -> torch.dtype:
    """A type in which matrices are multiplied several times faster than in float32: bfloat16 on CPUs with instructions for it."""
    known = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return torch.bfloat16 if device.type == "cpu" and any(ask is not None and ask() for ask in known) else torch.float32


class BaseWeights:
    """The unpatched weights of a ModelPatcher, by key; nothing is copied until a weight is asked for."""

    def __init__(self, patcher: Any) -> None:
        # get_key_patches starts from the backup of a patched weight: `module.weight` may hold a loaded LoRA
        self._entries = {key: entries[0] for key, entries in patcher.get_key_patches().items()}

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a weight; of a packed one as it is stored."""
        return tuple(self._entries[key][0].shape)

    def is_plain(self, key: str) -> bool:
        """False: quantised, so that its stored shape may not be its shape."""
        return _is_plain(self._entries[key][0])

    def read(self, key: str, device: torch.device) -> Tensor:
        """A copy of a weight as float32, dequantised."""
        weight, convert = self._entries[key]
        if _is_plain(weight):
            return convert(weight.detach().to(device, torch.float32, copy=True), inplace=True)
        if hasattr(weight, "tensor_type") and hasattr(weight, "tensor_shape"):
            raise ValueError(
                "This model is stored as GGUF, whose weights cannot be read here. Filter the LoRA against the same model in a "
                "safetensors file (fp16, bf16 or fp8)."
            )
        return convert(weight.detach(), inplace=False).to(device, torch.float32, copy=True)

    def digest(self, key: str) -> str:
        """32 hex digits of a weight's shape, type and content, of which evenly spread slices are read.

        Training changes a weight everywhere, so that two that differ, differ there; reading everything would take most of a warm run.
        """
        weight = self._entries[key][0]
        if not _is_plain(weight):
            weight = self.read(key, torch.device("cpu"))
        raw = weight.detach().contiguous().flatten().view(torch.uint8)
        rows = len(raw) // SLICES
        sample = (raw if rows <= SLICE else torch.cat([raw[: SLICES * rows].view(SLICES, rows)[:, :SLICE].flatten(), raw[-SLICE:]])).cpu()
        digest = hashlib.blake2b(f"{weight.dtype}{tuple(weight.shape)}".encode(), digest_size=16)
        digest.update(sample.numpy().tobytes())
        return digest.hexdigest()


def _is_plain(weight: Tensor) -> bool:
    return type(weight) in (Tensor, torch.nn.Parameter) and weight.dtype in PLAIN
