"""ComfyUI's own models with tiny random networks: the real classes, conditioning and noise schedules of each architecture."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import pytest
import torch

FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 64, "context_in_dim": 64, "hidden_size": 128,
    "mlp_ratio": 4.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 2, "axes_dim": [16, 24, 24], "theta": 10000, "patch_size": 2,
    "qkv_bias": True, "guidance_embed": False, "txt_ids_dims": [],
}  # fmt: skip
UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 64, "num_res_blocks": [1, 1], "channel_mult": [1, 2],
    "use_spatial_transformer": True, "transformer_depth": [0, 1], "transformer_depth_output": [0, 0, 1, 1],
    "transformer_depth_middle": 1, "context_dim": 64, "legacy": False,
}  # fmt: skip
MMDIT = {
    "in_channels": 16, "depth": 2, "input_size": None, "adm_in_channels": 64, "pos_embed_max_size": 16, "num_patches": 256,
    "pos_embed_scaling_factor": None, "context_embedder_config": {"target": "torch.nn.Linear", "params": {
        "in_features": 64, "out_features": 128}},
}  # fmt: skip
LUMINA = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 192, "cap_feat_dim": 64, "n_layers": 2, "qk_norm": True,
    "n_heads": 2, "n_kv_heads": 2, "axes_dims": [32, 32, 32], "axes_lens": [300, 512, 512],
}  # fmt: skip


class Tiny(NamedTuple):
    """A class of comfy.supported_models, its configuration, and what it is given."""

    kind: str
    config: dict[str, Any]
    latent: tuple[int, ...] = (16, 8, 8)
    pooled: int = 64


TINY = {
    "SD1.5": Tiny("SD15", UNET | {"use_linear_in_transformer": False}, (4, 8, 8)),
    "SDXL": Tiny("SDXL", UNET | {"use_linear_in_transformer": True, "num_classes": "sequential", "adm_in_channels": 2816}, (4, 8, 8), 1280),
    "SD3": Tiny("SD3", MMDIT),
    "Flux": Tiny("Flux", FLUX),
    "Flux dev": Tiny("Flux", FLUX | {"guidance_embed": True}),
    "Flux.2": Tiny("Flux2", FLUX | {
        "image_model": "flux2", "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "mlp_ratio": 3.0, "num_heads": 1,
        "axes_dim": [32, 32, 32, 32], "theta": 2000, "patch_size": 1, "qkv_bias": False, "txt_ids_dims": [3], "global_modulation": True,
        "mlp_silu_act": True, "ops_bias": False,
    }, (128, 4, 4)),
    "Krea 2": Tiny("Krea2", {
        "image_model": "krea2", "features": 128, "tdim": 32, "txtdim": 32, "heads": 2, "kvheads": 1, "layers": 2, "txtlayers": 2,
        "txtheads": 1, "txtkvheads": 1,
    }, (16, 1, 8, 8)),
    "Qwen-Image": Tiny(
        "QwenImage", {"image_model": "qwen_image", "num_layers": 2, "num_attention_heads": 2, "joint_attention_dim": 64}, (16, 1, 8, 8)
    ),
    "Z-Image": Tiny("ZImage", LUMINA | {
        "dim": 256, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512], "z_image_modulation": True, "time_scale": 1000.0,
    }),
    "Lumina 2": Tiny("Lumina2", LUMINA),
    "Wan": Tiny("WAN21_T2V", {
        "image_model": "wan2.1", "model_type": "t2v", "dim": 128, "ffn_dim": 256, "num_heads": 1, "num_layers": 2, "text_dim": 64,
    }, (16, 1, 8, 8)),
    "AuraFlow": Tiny("AuraFlow", {
        "dim": 256, "n_heads": 1, "n_layers": 2, "n_double_layers": 1, "cond_seq_dim": 64, "max_seq": 16,
    }, (4, 8, 8)),
    "PixArt": Tiny("PixArtSigma", {
        "image_model": "pixart_sigma", "depth": 2, "hidden_size": 144, "num_heads": 2, "caption_channels": 64, "micro_condition": False,
        "pe_interpolation": 1,
    }, (4, 40, 40)),  # smaller ones have no place in its table of positions
}  # fmt: skip
"""By the names the README uses."""
NEWER = {"Krea 2"}
"""Those that ComfyUI 0.3.75 has no class of; with any other they must be there."""


def fitting(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration for the running ComfyUI: 0.33 asks for one parameter of Flux that 0.3.75 does not know."""
    known = importlib.import_module("comfy.ldm.flux.model").FluxParams.__dataclass_fields__
    return {k: v for k, v in config.items() if k != "txt_ids_dims" or k in known}


def tiny_model(name: str) -> Any:
    """MODEL of an architecture: ComfyUI's own class around a small network of random weights."""
    if name in NEWER and importlib.import_module("comfyui_version").__version__.startswith("0.3."):
        pytest.skip(f"ComfyUI 0.3.75 has no {name}")
    management, patcher = (importlib.import_module(f"comfy.{m}") for m in ("model_management", "model_patcher"))
    config = getattr(importlib.import_module("comfy.supported_models"), TINY[name].kind)(fitting(TINY[name].config))
    config.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    with torch.inference_mode():
        model = config.get_model({}, "", device=cpu)
        generator = torch.Generator().manual_seed(0)
        for key, value in model.diffusion_model.state_dict().items():
            # wide enough that prompts matter, small enough that activations stay finite
            value.copy_(torch.randn(value.shape, generator=generator) * (1 / max(value[0].numel(), 1) ** 0.5 if value.ndim > 1 else 0.1))
            if key.endswith(("norm.weight", "scale")):
                value.add_(1)
    return patcher.ModelPatcher(model, load_device=management.get_torch_device(), offload_device=cpu)


def prompt(name: str, seed: int) -> list[Any]:
    """CONDITIONING of random words; seed 0 is the empty prompt."""
    generator = torch.Generator().manual_seed(seed)
    words, pooled = (torch.randn(1, *s, generator=generator) for s in ((8, 64), (TINY[name].pooled,)))
    return [[words * bool(seed), {"pooled_output": pooled * bool(seed)}]]


def latent(name: str, n: int = 1) -> torch.Tensor:
    """A batch of empty latents."""
    return torch.zeros(n, *TINY[name].latent)
