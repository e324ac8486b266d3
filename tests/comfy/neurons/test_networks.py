"""Neurons in other networks than the demo's: the table of layers against ComfyUI's own classes; a pruned SD1.5 saved by the stock node."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch
from unmemorize_pack.tests.comfy import networks

USE = {"seed": 0, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}


@pytest.fixture(scope="module")
def host(comfy):
    names = ("neurons.recording", "neurons.finding", "neurons.masks", "neurons.layers", "core.weights")
    return SimpleNamespace(**{n.split(".")[-1]: importlib.import_module(f"unmemorize_pack.host.{n}") for n in names})


def network(module, name, **config):
    """One of ComfyUI's networks without memory for its weights."""
    operations = importlib.import_module("comfy.ops").disable_weight_init
    return getattr(importlib.import_module(f"comfy.ldm.{module}"), name)(
        **networks.fitting(config), device="meta", dtype=torch.float32, operations=operations
    )


FLUX = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": 64, "context_in_dim": 64, "hidden_size": 128, "mlp_ratio": 4.0, "num_heads": 2,
    "depth": 2, "depth_single_blocks": 3, "axes_dim": [16, 24, 24], "theta": 10000, "patch_size": 2, "qkv_bias": True,
    "guidance_embed": False, "txt_ids_dims": [],
}  # fmt: skip
NETWORKS = {
    "Flux": ("flux.model", "Flux", FLUX, 2 * 2 + 3),
    "SD3": (
        "modules.diffusionmodules.mmdit", "MMDiT",
        {"input_size": None, "depth": 2, "adm_in_channels": 64, "context_embedder_config": {"target": "torch.nn.Linear", "params": {
            "in_features": 64, "out_features": 128}}, "pos_embed_max_size": None}, 2 + 1,
    ),
    "Wan": ("wan.model", "WanModel", {"dim": 128, "ffn_dim": 256, "num_heads": 2, "num_layers": 2, "text_dim": 64}, 2),
    "Qwen-Image": ("qwen_image.model", "QwenImageTransformer2DModel", {"num_layers": 2, "num_attention_heads": 2}, 4),
    "Lumina 2": (
        "lumina.model", "NextDiT",
        {"in_channels": 16, "dim": 192, "n_layers": 2, "n_refiner_layers": 2, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 64,
         "axes_dims": [32, 32, 32], "axes_lens": [300, 512, 512]}, 2 + 2,
    ),
    "LTX": ("lightricks.model", "LTXVModel", {"num_layers": 2, "num_attention_heads": 2}, 2),
    "AuraFlow": ("aura.mmdit", "MMDiT", {"dim": 256, "n_heads": 1, "n_layers": 4, "n_double_layers": 2, "cond_seq_dim": 64}, 2 * 2 + 2),
    "PixArt": ("pixart.pixartms", "PixArtMS", {"depth": 2, "hidden_size": 144, "num_heads": 2}, 2),
}  # fmt: skip
"""By the names the README uses: module, class, configuration, how many layers the table must find."""


@pytest.mark.parametrize("name", NETWORKS)
def test_the_table_finds_the_feed_forward_layers(host, name):
    module, class_name, config, count = NETWORKS[name]
    net = network(module, class_name, **config)
    model = SimpleNamespace(model=SimpleNamespace(diffusion_model=net))
    layers = host.layers.layers_of(model, "feed-forward")
    assert len(layers) == count, [layer.key for layer in layers]
    for layer in layers:
        out, d = layer.module.weight.shape
        assert d - layer.first > out or "txt" in layer.key, f"{layer.key}: a second linear narrows"


@pytest.fixture(scope="module")
def tiny_sd15(comfy):
    """One block of random weights, through ComfyUI's own detection and loading."""
    operations = importlib.import_module("comfy.ops").disable_weight_init
    net = importlib.import_module("comfy.ldm.modules.diffusionmodules.openaimodel").UNetModel(
        image_size=32, in_channels=4, out_channels=4, model_channels=320, num_res_blocks=[1], channel_mult=[1], num_heads=8,
        use_spatial_transformer=True, transformer_depth=[1], transformer_depth_output=[1, 1], transformer_depth_middle=-2,
        context_dim=768, legacy=False, use_linear_in_transformer=False, operations=operations,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    # small, so that activations stay finite
    state = {k: torch.randn(v.shape, generator=generator) * 0.02 for k, v in net.state_dict().items()}
    with torch.inference_mode():
        return importlib.import_module("comfy.sd").load_diffusion_model_state_dict(state)


def mask_of(host, model):
    """A mask of two random prompts against an empty one."""
    generator = torch.Generator().manual_seed(1)
    words, empty = [[[torch.randn(1, 8, 768, generator=generator), {}]] for _ in range(2)], [[torch.zeros(1, 8, 768), {}]]
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    found = [host.recording.record(model, several, empty, latent, 1, USE, "feed-forward", 0.5) for several in (words, [empty])]
    return host.finding.find(model, *found, 0.05, 0.0, "cond only", "wanda")


def test_a_pruned_sd15_saves_by_the_stock_node(tiny_sd15, host, tmp_path, monkeypatch):
    """ModelSave writes the zeros; the file loads without this pack."""
    save = importlib.import_module("comfy_extras.nodes_model_merging").ModelSave()
    monkeypatch.setattr(save, "output_dir", str(tmp_path))
    stored = mask_of(host, tiny_sd15)
    clone = host.masks.pruned(tiny_sd15, stored, 1.0)
    save.save(clone, "pruned")
    (path,) = tmp_path.rglob("*.safetensors")
    again = importlib.import_module("comfy.sd").load_diffusion_model(str(path))
    assert type(again.model) is type(tiny_sd15.model) and not again.patches
    base, found = host.weights.Weights(tiny_sd15), host.weights.Weights(again)
    for key in stored.mask.bits:
        before, weight = base.effective(key, tiny_sd15.load_device), found.effective(key, again.load_device)
        dense = stored.mask.dense(key)
        assert dense.any() and not weight[dense].any()
        assert torch.allclose(weight[~dense], before[~dense], rtol=1e-2, atol=1e-4)
