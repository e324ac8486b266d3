"""The default filter: a LoRA without its changes of how the picture reads the prompt."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest
import torch
from unmemorize_pack.tests.comfy import networks
from unmemorize_pack.tests.comfy.loras import HOW, LAYERS, LEAKING, PROMPT_LAYERS

DEFAULT = HOW | {"score": "cross-attention"}
EXPECTED = {
    "SD1.5": r"attn2\.to_[qkv]", "SDXL": r"attn2\.to_[qkv]", "SD3": r"context_block\.attn\.qkv", "Flux": r"txt_attn\.qkv",
    "Flux dev": r"txt_attn\.qkv", "Flux.2": r"txt_attn\.qkv",
    "Qwen-Image": r"attn\.add_[qkv]_proj", "Wan": r"cross_attn\.[qkv]", "AuraFlow": r"double_layers\.\d+\.attn\.w1[qkv]",
    "PixArt": r"cross_attn\.(q|kv)_linear",
}  # fmt: skip
"""Lumina 2, Z-Image and Krea 2 keep words and picture in the same weights."""


@pytest.mark.parametrize("name", networks.TINY)
def test_which_layers_read_the_prompt(comfy, host, name):
    """Exactly the projections of the attention to text of ComfyUI's own networks, as many in each block."""
    keys = [f"diffusion_model.{k}" for k in networks.tiny_model(name).model.diffusion_model.state_dict()]
    found = [k for k in keys if host("lora.prompt_layers").reads_the_prompt(k)]
    if name not in EXPECTED:
        assert not found
        return
    pattern = rf"\.{EXPECTED[name]}\.weight$"
    assert found and found == [k for k in keys if re.search(pattern, k)]
    counts = {
        len([k for k in found if k.startswith(block)])
        for block in {re.sub(r"(attn|attn2|cross_attn|txt_attn)\.\w+\.weight$", "", k) for k in found}
    }
    assert len(counts) == 1, "one set a block"


SHARED = ""
"""Words and picture in the same weights, or no words at all."""
UNET, WAN, FLUX = "middle_block.1.transformer_blocks.0.attn2.to_k", "blocks.0.cross_attn.k", "double_blocks.0.txt_attn.qkv"
NETWORKS = {
    "UNetModel": UNET, "openaimodel.UNetModel": UNET, "StageB": "down_blocks.0.2.kv_mapper.1", "StageC": "down_blocks.0.2.kv_mapper.1",
    "OpenAISignatureMMDITWrapper": "joint_blocks.0.context_block.attn.qkv", "aura.mmdit": "double_layers.0.attn.w1k",
    "ace.ace_step15": "layers.0.cross_attn.k_proj", "ace.model": "transformer_blocks.0.cross_attn.to_k",
    "anima.model": "blocks.0.cross_attn.k_proj", "audio.dit": "transformer.layers.0.cross_attn.to_kv",
    "boogu.model": "double_stream_layers.0.img_instruct_attn.processor.instruct_to_k", "chroma.model": FLUX, "chroma_radiance.model": FLUX,
    "cogvideo.model": SHARED, "cosmos.model": "blocks.block0.blocks.1.block.attn.to_k.0", "cosmos.predict2": "blocks.0.cross_attn.k_proj",
    "depth_anything_3.model": SHARED, "ernie.model": SHARED, "flux.model": FLUX,
    "genmo.joint_model.asymm_models_joint": "blocks.0.attn.qkv_y",
    "hidream.model": "double_stream_blocks.0.block.attn1.to_k_t", "hidream_o1.model": SHARED, "hunyuan3d.model": FLUX,
    "hunyuan3dv2_1.hunyuandit": "blocks.0.attn2.to_k", "hunyuan_video.model": FLUX, "hydit.models": "blocks.0.attn2.kv_proj",
    "ideogram4.model": SHARED, "joyimage.model": "double_blocks.0.attn.txt_attn_qkv", "kandinsky5.model":
    "visual_transformer_blocks.0.cross_attention.to_key", "krea2.model": SHARED, "lens.model": "transformer_blocks.0.attn.txt_qkv",
    "lightricks.av_model": "transformer_blocks.0.attn2.to_k", "lightricks.model": "transformer_blocks.0.attn2.to_k",
    "lumina.model": SHARED, "mage_flow.model": "transformer_blocks.0.attn.add_k_proj", "minimax.model": SHARED,
    "minimax_music.dit": SHARED, "omnigen.omnigen2": SHARED,
    "pixart.pixartms": "blocks.0.cross_attn.kv_linear", "pixeldit.model": "patch_blocks.0.attn.qkv_y",
    "pixeldit.pid": "patch_blocks.0.attn.qkv_y",
    "qwen_image.model": "transformer_blocks.0.attn.add_k_proj", "rt_detr.rtdetr_v4": SHARED, "sam3.detector": SHARED,
    "seedvr.model": SHARED, "trellis2.model": SHARED, "triposplat.model": SHARED, "wan.ar_model": WAN, "wan.model": WAN,
    "wan.model_animate": WAN, "wan.model_animate2": WAN, "wan.model_wandancer": WAN,
}  # fmt: skip
"""Every network of ComfyUI 0.3.75 and 0.33, by its module in comfy.ldm: the key of one projection that reads the prompt."""


def test_every_network_of_this_comfyui_is_known(comfy, host):
    """A newer ComfyUI with a network that is not in the list fails here; parts of the names are looked up in its source."""
    base = importlib.import_module("comfy.model_base")
    source = Path(base.__file__).read_text(encoding="utf-8")
    named = {m.removeprefix("comfy.ldm.") for m in re.findall(r"unet_model=([\w.]+)", source)} - {"unet_model"}
    modules = {m.rsplit(".", 1)[0] if "." in m else m for m in named}
    assert modules - set(NETWORKS) == set(), "networks of a newer ComfyUI: add them to host/lora/prompt_layers.py"
    reads = host("lora.prompt_layers").reads_the_prompt
    ldm = Path(base.__file__).parent / "ldm"
    for module in sorted(modules & set(NETWORKS)):
        key = NETWORKS[module]
        if not key:
            continue
        assert reads(f"diffusion_model.{key}.weight"), module
        if "." not in module:
            continue
        text = "".join(p.read_text(encoding="utf-8") for p in (ldm / module.split(".")[0]).rglob("*.py"))
        parts = [p for p in key.split(".") if not re.fullmatch(r"\d+|block\d+", p)]
        shared = "".join((ldm / name).read_text(encoding="utf-8") for name in ("flux/layers.py", "qwen_image/model.py"))
        assert all(re.search(rf"\b{p}\b", text + shared) for p in parts), (module, key)


def test_only_cross_attention_goes(nodes, demo, comfy):
    """Everything else passes to the bit, without a look at the base."""
    with torch.inference_mode():
        tensors, info, *_ = nodes["UnmemorizeOpenLoRA"].execute(LEAKING).args
        found = nodes["UnmemorizeBAFFilterLoRA"].execute(lora=tensors, model=demo[0], clip=None, info=info, **DEFAULT).args
    kept, removed, described, energy, spectrum, report = found
    assert set(kept) | set(removed) == set(tensors) and not set(kept) & set(removed)
    assert all("attn2_to_" in k and "attn2_to_out" not in k for k in removed) and len(removed) == 3 * PROMPT_LAYERS
    assert all(kept[k] is tensors[k] for k in kept)
    assert 0 < energy < 0.2 and len(spectrum["layers"]) == LAYERS
    facts = json.loads(report)
    assert "no paper" in facts["method"] and "no paper" in described["filter"]["method"] and facts["subspaces_from_cache"] == 0


def test_applied_loras_lose_the_same(nodes, demo):
    with torch.inference_mode():
        loaded = (
            nodes["UnmemorizeLoadLoRABAF"]
            .execute(model=demo[0], lora_name=LEAKING, strength_model=1.0, strength_clip=1.0, **DEFAULT | {"filter_strength": 0.0})
            .args[0]
        )
        how = {k: v for k, v in DEFAULT.items() if k != "text_encoder"}
        cleaned = nodes["UnmemorizeCleanAppliedLoRAs"].execute(model=loaded, **how).args[0]
    gone = set(loaded.patches) - set(cleaned.patches)
    assert len(gone) == PROMPT_LAYERS and all(re.search(r"attn2\.to_[qkv]\.weight$", k) for k in gone)
    assert all(cleaned.patches[k] == loaded.patches[k] for k in cleaned.patches)


def test_a_lora_that_reads_nothing_is_said_so(nodes, demo):
    with torch.inference_mode():
        tensors, info, *_ = nodes["UnmemorizeOpenLoRA"].execute(LEAKING).args
        rest = {k: t for k, t in tensors.items() if "attn2_to_" not in k}
        kept, removed, _, energy, _, report = nodes["UnmemorizeBAFFilterLoRA"].execute(lora=rest, model=demo[0], info=info, **DEFAULT).args
    assert not removed and energy == 0 and list(kept) == list(rest)
    assert "score" in json.loads(report)["warnings"][0]
