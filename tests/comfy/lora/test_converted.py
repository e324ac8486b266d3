"""Files that the core knows by a few of their keys: what a filter leaves of them is read as the whole was."""

from __future__ import annotations

import importlib

import pytest
import torch

USO = {
    f"{block}.processor.{name}.{side}.weight": torch.ones(2, 2)
    for block, name in (
        ("single_blocks.37", "qkv_lora"), ("double_blocks.18", "qkv_lora1"), ("double_blocks.18", "qkv_lora2"),
        ("double_blocks.18", "proj_lora1"),
    )
    for side in ("up", "down")
}  # fmt: skip
CONTROL = {
    **{f"img_in.lora_{side}.weight": torch.ones(4, 4) for side in "AB"},
    "single_blocks.0.norm.key_norm.scale": torch.ones(4),
    **{f"double_blocks.0.img_attn.qkv.lora_{side}.weight": torch.ones(4, 4) for side in "AB"},
    "double_blocks.0.img_attn.qkv.lora_B.bias": torch.ones(4),
}
WAN_FUN = {f"lora_unet__blocks_{i}_cross_attn_k.lora_{side}.weight": torch.ones(2, 2) for i in (0, 1) for side in ("up", "down")}
FILES = {"USO": USO, "BFL control": CONTROL, "Wan Fun": WAN_FUN}


@pytest.fixture
def rewriting(comfy):
    return importlib.import_module("unmemorize_pack.host.lora.rewriting")


def by_core(tensors):
    from comfy.lora_convert import convert_lora

    return convert_lora(dict(tensors))


@pytest.mark.parametrize("name", FILES)
def test_a_part_is_read_as_in_the_whole(rewriting, name):
    """Every layer alone: under the names that the core gave it in the whole file."""
    tensors = FILES[name]
    whole = by_core(tensors)
    for layer in {key.rsplit(".", 2)[0] for key in tensors}:
        part = {k: t for k, t in tensors.items() if k.startswith(layer)}
        read = by_core(rewriting.as_read(part, tensors))
        assert {id(t) for t in part.values()} <= {id(t) for t in read.values()}
        assert all(name in whole for name in read), "a name that the whole does not have"
        assert not set(read) & set(part) or read.keys() == whole.keys() & read.keys()


@pytest.mark.parametrize("name", FILES)
def test_what_the_core_still_knows_keeps_its_names(rewriting, name):
    tensors = FILES[name]
    part = dict(list(tensors.items())[:-2]) if name == "Wan Fun" else dict(tensors)
    assert rewriting.as_read(part, tensors) is part


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_not_changed_by_being_read(comfy, name):
    keys = importlib.import_module("unmemorize_pack.host.lora.keys")
    tensors = dict(FILES[name])
    before = list(tensors)
    keys.converted_by_core(tensors)
    assert list(tensors) == before
