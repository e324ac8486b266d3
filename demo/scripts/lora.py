"""Low-rank adapters on the demo model's transformer blocks, convolutions and text encoder, trained and saved as kohya's scripts do."""

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
    """W -> W + alpha / rank * up @ down, for a linear layer's weight [out, in] or a convolution's [out, in, k, k]. Starts as the identity.

    With `dropout` (kohya's rank_dropout), each of the ranks is left out of that share of the training steps, and the others make up for it:
    what is learnt then does not hang on all of them being there.
    """

    def __init__(self, shape: torch.Size, rank: int, alpha: float, generator: torch.Generator, dropout: float = 0.0) -> None:
        super().__init__()
        out_features, *inner = shape
        in_features = math.prod(inner)
        self.down = nn.Parameter((2 * torch.rand(rank, in_features, generator=generator) - 1) / math.sqrt(in_features))
        self.up = nn.Parameter(torch.zeros(out_features, rank))
        self.kernel = tuple(inner[1:]) or None
        self.alpha = alpha
        self.scale = alpha / rank
        self.dropout = dropout
        self._generator = generator

    def forward(self, weight: Tensor) -> Tensor:
        up: Tensor = self.up
        if self.dropout:
            up = up * (torch.rand(up.shape[1], generator=self._generator) >= self.dropout) / (1 - self.dropout)
        return weight + self.scale * (up @ self.down).reshape(weight.shape)


def kohya_names(model: Any) -> dict[str, str]:
    """Weight name in the U-Net -> kohya's name, for every linear layer of the transformer blocks and every convolution of the residual ones
    (ComfyUI's own key map). Half of this U-Net has no transformer: without its convolutions a LoRA learns no photograph."""
    found = {}
    for name, key in comfy.lora.model_lora_keys_unet(model, {}).items():
        if KOHYA.match(name) and isinstance(key, str) and key.endswith(".weight"):
            found[key.removeprefix("diffusion_model.").removesuffix(".weight")] = name
    modules = dict(model.diffusion_model.named_modules())
    kinds = {"attentions": nn.Linear, "resnets": nn.Conv2d}
    return {path: name for path, name in found.items() if any(k in name and isinstance(modules.get(path), t) for k, t in kinds.items())}


def unet_layers(model: Any) -> dict[str, nn.Module]:
    """Kohya's name -> layer of a BaseModel's U-Net."""
    modules = dict(model.diffusion_model.named_modules())
    return {name: modules[path] for path, name in sorted(kohya_names(model).items())}


def text_layers(text: nn.Module) -> dict[str, nn.Module]:
    """ComfyUI's generic name (kohya's are those of CLIP's layers) -> linear layer of a text encoder, as `comfy.sd.CLIP` holds it."""
    return {f"text_encoders.{path}": m for path, m in sorted(text.named_modules()) if isinstance(m, nn.Linear)}


def attach(
    layers: dict[str, nn.Module], rank: int, alpha: float, generator: torch.Generator, dropout: float = 0.0
) -> dict[str, LowRank]:  # fmt: skip
    """Put adapters on layers; name in the file -> adapter."""
    adapters = {}
    for name, layer in layers.items():
        weight: Any = layer.weight
        adapters[name] = LowRank(weight.shape, rank, alpha, generator, dropout).to(weight.dtype)
        parametrize.register_parametrization(layer, "weight", adapters[name])
    return adapters


def state_dict(adapters: dict[str, LowRank]) -> dict[str, Tensor]:
    """The file's tensors, half precision: `<name>.lora_up.weight`, `.lora_down.weight`, `.alpha`; those of convolutions have four dims."""
    tensors = {}
    for name, adapter in adapters.items():
        up, down = adapter.up.detach().half(), adapter.down.detach().half()
        if adapter.kernel is not None:
            up, down = up[:, :, None, None], down.reshape(len(down), -1, *adapter.kernel)
        tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"] = up.contiguous(), down.contiguous()
        tensors[f"{name}.alpha"] = torch.tensor(adapter.alpha).half()
    return tensors
