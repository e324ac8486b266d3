"""Weights as every core hands them out: also where it writes parts of a quantised one beside it."""

from __future__ import annotations

import importlib
import inspect
import json

import pytest
import torch

LAYER = "middle_block.1.transformer_blocks.0.ff.net.2"
KEY = f"diffusion_model.{LAYER}.weight"


@pytest.fixture
def fresh(nodes):
    """A demo model of one's own, to change."""
    return nodes["UnmemorizeLoadDemoCheckpoint"].execute("final").args[0]


@pytest.fixture
def weights(host):
    return host("core.weights")


def test_what_is_written_beside_a_weight_is_none(identities, weights, fresh):
    """A layer that writes a scale it does not hold, as ComfyUI 0.33's of fp8 models do: the same weights, of the patched one its own."""
    before, plain = identities.identity(fresh), weights.Weights(fresh).base(KEY, torch.device("cpu"))
    layer = fresh.model.diffusion_model.get_submodule(LAYER)
    layer.register_state_dict_post_hook(lambda _module, written, prefix, _: written.update({f"{prefix}weight_scale": torch.ones(())}))
    assert f"{KEY}_scale" in fresh.model_state_dict() and identities.identity(fresh) == before
    clone = fresh.clone()
    clone.add_patches({KEY: (torch.ones_like(plain),)}, 0.5)
    clone.load(clone.load_device)
    try:
        found = weights.Weights(clone)
        assert torch.equal(found.base(KEY, torch.device("cpu")), plain)
        assert torch.allclose(found.effective(KEY, clone.load_device).cpu(), plain + 0.5, atol=1e-3)
        assert f"{KEY}_scale" not in found
    finally:
        clone.detach()


def test_a_packed_weight_is_unpacked_once_for_all_that_hold_the_same(weights):
    class Packed(torch.Tensor):
        """Half the number, and how much that is worth."""

        def __tensor_flatten__(self):
            return ["half", "worth"], None

    def packed(half, worth):
        made = half.as_subclass(Packed)
        made.half, made.worth = half, torch.tensor(worth)
        return made

    asked = []

    def unpack(weight, inplace):
        asked.append(weight)
        return weight.as_subclass(torch.Tensor) * worth

    half = torch.rand(48, 40)
    for worth, edited, times in ((2.0, False, 1), (2.0, False, 1), (3.0, False, 2), (3.0, True, 3)):
        half = half.clone()
        half[:] += 1.0 if edited else 0.0
        found = weights.few_of(packed(half, worth), unpack, 8)
        assert torch.equal(found, weights.spread((half * worth).flatten(), 8)) and len(asked) == times


def test_a_layer_in_scaled_fp8_can_be_named_recorded_and_pruned(host, identities, weights, fresh, encode, draw):
    operations = importlib.import_module("comfy.ops").mixed_precision_ops
    if "quant_config" not in inspect.signature(operations).parameters:
        pytest.skip("this core loads quantised layers in another way")
    layers, recording, finding, masks = (host(f"neurons.{name}") for name in ("layers", "recording", "finding", "masks"))
    old = fresh.model.diffusion_model.get_submodule(LAYER)
    plain = old.weight.detach().float()
    scale = plain.abs().max() / 448
    layer = operations({}, torch.float32).Linear(old.in_features, old.out_features)
    said = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
    parts = {"weight": (plain / scale).to(torch.float8_e4m3fn), "weight_scale": scale, "bias": old.bias.detach().float()}
    layer.load_state_dict(parts | {"comfy_quant": said})
    parent, name = LAYER.rsplit(".", 1)
    setattr(fresh.model.diffusion_model.get_submodule(parent), name, layer)
    assert identities.identity(fresh)["precision"] == "packed"
    use = {"seed": 0, "steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}
    empty = {"samples": torch.zeros(1, 8, 8, 8)}
    both = [recording.record(fresh, [encode(text)], encode(""), empty, 1, use, "feed-forward", 0.5) for text in ("a red ring", "")]
    found = finding.find(fresh, *both, 0.05, 0.0, "cond only", "wanda")
    pruned, dense = masks.pruned(fresh, found, 1.0), found.mask.dense(KEY)
    assert KEY in {known.key for known in layers.layers_of(fresh, "feed-forward")} and dense.any()
    silenced = pruned.patch_weight_to_device(KEY, pruned.load_device, return_weight=True).dequantize().float().cpu()
    assert not silenced[dense].any() and torch.allclose(silenced[~dense], plain[~dense], atol=float(plain.abs().max()) / 16)
    assert not torch.equal(draw(model=pruned, steps=2), draw(model=fresh, steps=2))
