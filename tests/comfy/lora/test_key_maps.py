"""LoRA keys of models too large to load here: which key leads to which weight, on the meta device."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from unmemorize_pack.tests.comfy import networks

FLUX = {
    "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 768, "context_in_dim": 4096,
    "hidden_size": 3072, "mlp_ratio": 4.0, "num_heads": 24, "depth": 2, "depth_single_blocks": 2, "axes_dim": [16, 56, 56], "theta": 10000,
    "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": [],
}  # fmt: skip
QWEN = {"image_model": "qwen_image", "in_channels": 16, "num_layers": 2}
Z_IMAGE = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 3840, "cap_feat_dim": 2560, "n_layers": 2, "qk_norm": True,
    "n_heads": 30, "n_kv_heads": 30, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512], "rope_theta": 256.0,
    "ffn_dim_multiplier": 8.0 / 3.0,
    "z_image_modulation": True, "time_scale": 1000.0,
}  # fmt: skip
SDXL = {
    "use_checkpoint": False, "image_size": 32, "out_channels": 4, "use_spatial_transformer": True, "legacy": False,
    "num_classes": "sequential", "adm_in_channels": 2816, "in_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 2, 2, 10, 10], "channel_mult": [1, 2, 4], "transformer_depth_middle": 10,
    "use_linear_in_transformer": True, "context_dim": 2048, "num_head_channels": 64,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "use_temporal_attention": False, "use_temporal_resblock": False,
}  # fmt: skip
MODELS = {
    "SDXL": ("SDXL", SDXL, [
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_up.weight",
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight",
        "lora_unet_output_blocks_0_1_transformer_blocks_9_ff_net_0_proj.lora_up.weight",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight",
    ]),
    "Flux": ("Flux", FLUX, [
        "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight",
        "lora_unet_single_blocks_1_linear1.lora_up.weight",
        "transformer.transformer_blocks.0.attn.to_q.lora_B.weight",
        "transformer.single_transformer_blocks.0.attn.to_v.lora_B.weight",
        "lora_transformer_transformer_blocks_0_attn_to_k.lora_up.weight",
        "diffusion_model.double_blocks.1.txt_mlp.0.lora_B.weight",
    ]),
    "Qwen-Image": ("QwenImage", QWEN, [
        "transformer_blocks.0.attn.to_q.lora_B.default.weight",
        "transformer.transformer_blocks.0.attn.to_k.lora_B.weight",
        "diffusion_model.transformer_blocks.1.attn.to_v.lora_B.weight",
        "lora_unet_transformer_blocks_1_attn_to_q.lora_up.weight",
    ]),
    "Z-Image": ("ZImage", Z_IMAGE, [
        "diffusion_model.layers.0.attention.qkv.lora_B.weight",
        "diffusion_model.layers.0.attention.to_q.lora_B.weight",
        "lora_unet_layers_1_feed_forward_w1.lora_up.weight",
    ]),
}  # fmt: skip
"""By the names the README uses: class of comfy.supported_models, configuration, one key of each way to spell a LoRA."""
FUSED = {
    "transformer.transformer_blocks.0.attn.to_q.lora_B.weight", "transformer.single_transformer_blocks.0.attn.to_v.lora_B.weight",
    "lora_transformer_transformer_blocks_0_attn_to_k.lora_up.weight", "diffusion_model.layers.0.attention.to_q.lora_B.weight",
}  # fmt: skip
"""Parts of a fused weight."""


@pytest.mark.parametrize("name", MODELS)
def test_key_maps_on_the_meta_device(comfy, host, name):
    """No weights: only which key leads where. Fused qkv is reached in thirds or whole."""
    import comfy.supported_models

    class_name, config, keys = MODELS[name]
    kind = getattr(comfy.supported_models, class_name)(networks.fitting(config))
    kind.set_inference_dtype(torch.float16, None)
    with torch.device("meta"):
        model = SimpleNamespace(model=kind.get_model({}, "", device="meta"))
    down = {"lora_up.weight": "lora_down.weight", "lora_B.weight": "lora_A.weight", "lora_B.default.weight": "lora_A.default.weight",
            "_lora.up.weight": "_lora.down.weight"}  # fmt: skip
    for key in keys:
        end = next(e for e in down if key.endswith(e))
        found = host("lora.keys").take_apart({key: torch.ones(8, 2), key.removesuffix(end) + down[end]: torch.ones(2, 8)}, model, None)
        assert len(found.updates) == 1 and not found.passed, key
        target = found.updates[0].layer
        assert target.target in model.model.state_dict()
        assert (target.offset is not None) == (key in FUSED), key
