"""Low-rank adapters on the demo model's transformer blocks, trained and saved as kohya's scripts do."""

from __future__ import annotations

import math
import re
from typing import Any

import comfy.lora
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

KOHYA = re.compile(r"lora_unet_(down_blocks|mid_block_attentions|up_blocks)_")


class LowRank(nn.Module):
    """W -> W + alpha / rank * up @ down, for a linear layer's weight [out, in]. Starts as the identity.

    With `dropout` (kohya's rank_dropout), each of the ranks is left out of that share of the training steps, and the others make up for it:
    what is learnt then does not hang on all of them being there.
    """

    def __init__(
        self, out_features: int, in_features: int, rank: int, alpha: float, generator: torch.Generator, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.down = nn.Parameter((2 * torch.rand(rank, in_features, generator=generator) - 1) / math.sqrt(in_features))
        self.up = nn.Parameter(torch.zeros(out_features, rank))
        self.alpha = alpha
        self.scale = alpha / rank
        self.dropout = dropout
        self._generator = generator

    def forward(self, weight: Tensor) -> Tensor:
        up: Tensor = self.up
        if self.dropout:
            up = up * (torch.rand(up.shape[1], generator=self._generator) >= self.dropout) / (1 - self.dropout)
        return weight + self.scale * (up @ self.down)


def kohya_names(model: Any) -> dict[str, str]:
    """Weight name in the U-Net -> kohya's name, for every linear layer of the transformer blocks (ComfyUI's own key map)."""
    found = {}
    for name, key in comfy.lora.model_lora_keys_unet(model, {}).items():
        if KOHYA.match(name) and isinstance(key, str) and key.endswith(".weight"):
            found[key.removeprefix("diffusion_model.").removesuffix(".weight")] = name
    modules = dict(model.diffusion_model.named_modules())
    return {path: name for path, name in found.items() if "attentions" in name and isinstance(modules.get(path), nn.Linear)}


def attach(model: Any, rank: int, alpha: float, generator: torch.Generator, dropout: float = 0.0) -> dict[str, LowRank]:
    """Put adapters on a BaseModel's transformer blocks; kohya's name -> adapter."""
    adapters = {}
    modules = dict(model.diffusion_model.named_modules())
    for path, name in sorted(kohya_names(model).items()):
        out_features, in_features = modules[path].weight.shape
        adapters[name] = LowRank(out_features, in_features, rank, alpha, generator, dropout)
        parametrize.register_parametrization(modules[path], "weight", adapters[name])
    return adapters


def state_dict(adapters: dict[str, LowRank]) -> dict[str, Tensor]:
    """The file's tensors, half precision: `<name>.lora_up.weight`, `.lora_down.weight`, `.alpha`."""
    tensors = {}
    for name, adapter in adapters.items():
        tensors[f"{name}.lora_up.weight"] = adapter.up.detach().half().contiguous()
        tensors[f"{name}.lora_down.weight"] = adapter.down.detach().half().contiguous()
        tensors[f"{name}.alpha"] = torch.tensor(adapter.alpha).half()
    return tensors
