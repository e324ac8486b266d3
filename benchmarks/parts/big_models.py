"""Models of real sizes, of ComfyUI's own classes, with random weights made in memory: for speed and memory only.

On a GPU SDXL and Flux as they are, at 1024 x 1024. On a CPU as many layers, narrower: a tenth of SDXL's weights, a sixtieth of Flux's, and
small pictures.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from comfy.ldm.flux.model import FluxParams
from safetensors.torch import save_file
from torch import Tensor

SDXL = {
    "use_checkpoint": False, "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4], "num_head_channels": 64, "use_spatial_transformer": True, "use_linear_in_transformer": True,
    "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10, "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "context_dim": 2048, "num_classes": "sequential", "adm_in_channels": 2816, "legacy": False, "use_temporal_attention": False,
}  # fmt: skip
FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096, "hidden_size": 3072,
    "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38, "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2,
    "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
DECAY = 0.35
"""Columns of a weight shrink as j^-DECAY, so that its spectrum falls about as a trained one's."""
RANK = 32
REAL, SMALL = (128, 20), (16, 8)
"""Side of a latent and steps, on a GPU and on a CPU."""
FILTERED = r"(attn\d?|ff|mlp|qkv|proj|linear[12])\b"
"""What a LoRA changes: linear layers of attention and feed-forward."""


@dataclass(frozen=True)
class Kind:
    """A network, and what it is asked with."""

    name: str
    config_class: str
    config: dict[str, Any]
    narrow: dict[str, Any]
    """What is otherwise on a CPU."""
    words: tuple[int, int]
    """Tokens of a prompt, and their width."""
    pooled: int
    channels: int
    dtype: str
    cfg: float


KINDS = {
    "sdxl": Kind("sdxl", "SDXL", SDXL, {"model_channels": 96, "num_head_channels": 32}, (77, 2048), 1280, 4, "float16", 6.0),
    "flux": Kind("flux", "Flux", FLUX, {"hidden_size": 384, "num_heads": 3}, (128, 4096), 768, 16, "bfloat16", 1.0),
}


@dataclass(frozen=True)
class Big:
    """A model and how it is used here."""

    kind: Kind
    model: Any
    side: int
    """Of a latent."""
    steps: int
    weights: int

    def prompt(self, seed: int) -> list[Any]:
        """CONDITIONING of random words; seed 0 is the empty prompt."""
        generator = torch.Generator().manual_seed(seed)
        words, pooled = (torch.randn(1, *size, generator=generator) for size in (self.kind.words, (self.kind.pooled,)))
        return [[words * bool(seed), {"pooled_output": pooled * bool(seed)}]]

    def latent(self, side: int | None = None) -> dict[str, Tensor]:
        """A LATENT of a picture, not of this model's: what is measured is time."""
        side = side or self.side
        return {"samples": torch.randn(1, self.kind.channels, side, side, generator=torch.Generator().manual_seed(1))}

    def sampling(self, steps: int | None = None) -> dict[str, Any]:
        """KSampler's settings."""
        return {"seed": 1, "steps": steps or self.steps, "cfg": self.kind.cfg, "sampler_name": "euler", "scheduler": "normal"}


def made(name: str, full: bool) -> Big:
    """A MODEL of ComfyUI's own class on its device; `full`: of real size."""
    kind = KINDS[name]
    device = comfy.model_management.get_torch_device()
    found = getattr(comfy.supported_models, kind.config_class)
    known = {k: v for k, v in (kind.config | ({} if full else kind.narrow)).items() if name != "flux" or k in _flux_parameters()}
    config = found(known)
    config.set_inference_dtype(getattr(torch, kind.dtype) if full else torch.float32, None)
    with torch.inference_mode():
        model = config.get_model({}, "", device=device)
        generator = torch.Generator(device).manual_seed(0)
        for key, value in model.diffusion_model.state_dict().items():
            _fill(key, value, generator)
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=comfy.model_management.unet_offload_device())
    count = sum(value.numel() for value in model.diffusion_model.state_dict().values())
    return Big(kind, patcher, *(REAL if full else SMALL), count)


def _flux_parameters() -> set[str]:
    """0.33 asks for one parameter that 0.3.75 does not know."""
    return {*FluxParams.__dataclass_fields__, "image_model"}


def _fill(key: str, value: Tensor, generator: torch.Generator) -> None:
    """Random weights that keep activations near one; norms are 1, biases 0."""
    if value.ndim < 2:
        value.fill_(1.0 if re.search(r"(norm|scale|in_layers\.0|out_layers\.0|out\.0)", key) and not key.endswith("bias") else 0.0)
        return
    value.normal_(0, 1, generator=generator)
    falling = torch.arange(1, value.shape[1] + 1, device=value.device, dtype=torch.float32) ** -DECAY
    falling /= (falling.square().mean() * value[0].numel()).sqrt()
    value.mul_(falling.to(value.dtype).reshape(1, -1, *[1] * (value.ndim - 2)))


def linear_layers(big: Big) -> dict[str, Tensor]:
    """Weight keys of what a LoRA changes, and the weights."""
    weights = big.model.model.state_dict()
    return {k: w for k, w in weights.items() if w.ndim == 2 and min(w.shape) >= 64 and k.endswith(".weight") and re.search(FILTERED, k)}


def write_lora(big: Big, path: Any, seed: int = 0) -> int:
    """A LoRA of all these layers, float16; half of its directions as its base writes them, half anywhere. Returns how many layers."""
    layers, tensors = linear_layers(big), {}
    for number, (key, weight) in enumerate(layers.items()):
        generator = torch.Generator(weight.device).manual_seed(1000 * seed + number)
        m, n = weight.shape
        x = torch.randn(n, RANK, generator=generator, device=weight.device, dtype=torch.float32)
        up = torch.randn(m, RANK, generator=generator, device=weight.device, dtype=torch.float32)
        up[:, ::2] = weight.float() @ x[:, ::2] * m**0.5
        falling = 1.2 ** -torch.arange(RANK, device=weight.device)
        name = key.removesuffix(".weight")
        tensors[f"{name}.lora_B.weight"] = (up * falling / m**0.5).half().cpu()
        tensors[f"{name}.lora_A.weight"] = (x.T / n**0.5).half().cpu().contiguous()
    save_file(tensors, path)
    return len(layers)
