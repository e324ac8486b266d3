"""The default filter: a LoRA without its changes of how the picture reads the prompt."""

from __future__ import annotations

import json
import re

import pytest
import torch
from unmemorize_pack.tests.comfy import networks
from unmemorize_pack.tests.comfy.loras import HOW, LEAKING

DEFAULT = HOW | {"score": "cross-attention"}
EXPECTED = {
    "SD1.5": r"attn2\.to_[qkv]", "SDXL": r"attn2\.to_[qkv]", "SD3": r"context_block\.attn\.qkv", "Flux": r"txt_attn\.qkv",
    "Qwen-Image": r"attn\.add_[qkv]_proj", "Wan": r"cross_attn\.[qkv]", "AuraFlow": r"double_layers\.\d+\.attn\.w1[qkv]",
    "PixArt": r"cross_attn\.(q|kv)_linear",
}  # fmt: skip
"""Lumina 2 and Z-Image keep words and picture in the same weights."""


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


def test_only_cross_attention_goes(nodes, demo, comfy):
    """Everything else passes to the bit, without a look at the base."""
    with torch.inference_mode():
        tensors, info, *_ = nodes["UnmemorizeOpenLoRA"].execute(LEAKING).args
        found = nodes["UnmemorizeBAFFilterLoRA"].execute(lora=tensors, model=demo[0], clip=None, info=info, **DEFAULT).args
    kept, removed, described, energy, spectrum, report = found
    assert set(kept) | set(removed) == set(tensors) and not set(kept) & set(removed)
    assert all("attn2_to_" in k and "attn2_to_out" not in k for k in removed) and len(removed) == 3 * 3 * 7
    assert all(kept[k] is tensors[k] for k in kept)
    assert 0 < energy < 0.2 and len(spectrum["layers"]) == 84
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
    assert len(gone) == 21 and all(re.search(r"attn2\.to_[qkv]\.weight$", k) for k in gone)
    assert all(cleaned.patches[k] == loaded.patches[k] for k in cleaned.patches)


def test_a_lora_that_reads_nothing_is_said_so(nodes, demo):
    with torch.inference_mode():
        tensors, info, *_ = nodes["UnmemorizeOpenLoRA"].execute(LEAKING).args
        rest = {k: t for k, t in tensors.items() if "attn2_to_" not in k}
        kept, removed, _, energy, _, report = nodes["UnmemorizeBAFFilterLoRA"].execute(lora=rest, model=demo[0], info=info, **DEFAULT).args
    assert not removed and energy == 0 and list(kept) == list(rest)
    assert "score" in json.loads(report)["warnings"][0]
