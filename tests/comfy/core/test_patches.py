"""Digests of what lies over a model's weights: all that decides what a patch does counts, and what does not is left out."""

from __future__ import annotations

import importlib

import pytest
import torch
from safetensors.torch import load_file

KEY = "diffusion_model.middle_block.1.transformer_blocks.0.ff.net.2.weight"


@pytest.fixture
def digest(demo, identities):
    """Of the demo model with one patch more: digest(values, strength, key)."""

    def make(values, strength=1.0, key=KEY, strength_model=1.0):
        model = demo[0].clone()
        assert model.add_patches({key: values}, strength, strength_model)
        return identities.identity(model)["patches"]

    return make


@pytest.fixture(scope="module")
def factors(host, demo):
    out, d = host("core.weights").Weights(demo[0]).shape(KEY)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(out, 4, generator=generator), torch.randn(4, d, generator=generator)


@pytest.fixture(scope="module")
def lora(comfy):
    adapters = importlib.import_module("comfy.weight_adapter")
    return lambda up, down, alpha=4.0, scale=None, reshape=None: adapters.LoRAAdapter({KEY}, (up, down, alpha, None, scale, reshape))


def test_every_part_of_a_lora_counts(digest, factors, lora):
    up, down = factors
    other = up.clone()
    other[-1] += 1
    half = up.shape[0] // 2
    several = [
        digest(lora(up, down)), digest(lora(up, down), 0.5), digest(lora(up, down, 1.0)), digest(lora(up, down, None)),
        digest(lora(up, down, reshape=[up.shape[0], down.shape[1]])), digest(lora(up, down, scale=torch.ones(up.shape[0], 1))),
        digest(lora(up + 1, down)), digest(lora(up[:half], down), key=(KEY, (0, 0, half))),
        digest(lora(up[:half], down), key=(KEY, (0, half, half))), digest(lora(up[:half], down), key=(KEY, (0, 0, half), lambda w: w)),
    ]  # fmt: skip
    assert len(set(several)) == len(several) and digest(lora(up, down)) == several[0]


def test_what_is_the_same_has_the_same_digest_in_another_precision_of_the_file(digest, factors, lora):
    up, down = (t.half() for t in factors)
    assert digest(lora(up, down)) == digest(lora(up.float(), down.float()))


def test_masks_that_differ_in_a_few_weights_differ(digest, host):
    """Eight of their bytes would hardly ever hold a bit."""
    adapter, pack = host("neurons.masks").PruneAdapter, importlib.import_module("unmemorize_pack.unmemorize.neurons.masks").pack
    bits = torch.zeros(1024, 512, dtype=torch.bool)
    one = bits.clone()
    one[3, 77] = True
    assert digest(adapter({KEY}, (pack(bits),))) != digest(adapter({KEY}, (pack(one),)))


def test_a_lora_inside_of_a_merged_model_counts(identities, nodes, demo, early, merge):
    def merged(strength):
        return identities.identity(merge(early, nodes["UnmemorizeLoadDemoLoRA"].execute(demo[0], "leaking", strength).args[0], 0.5))

    assert merged(0.2)["patches"] != merged(1.0)["patches"]
    assert merged(0.2)["patches"] == merged(0.2)["patches"]


def test_two_files_that_differ_in_their_alphas_are_two_loras(host, demo, identities, root):
    """What is kept of one (an audit, a filter) is found by this name, and must not be served for the other."""
    sd = importlib.import_module("comfy.sd")
    tensors = load_file(root / "demo/lab/loras/leaking.safetensors")
    weaker = {k: v * 0.25 if k.endswith("alpha") else v for k, v in tensors.items()}
    assert any(k.endswith("alpha") for k in tensors)
    one, other = (sd.load_lora_for_models(demo[0], None, t, 1.0, 0)[0] for t in (tensors, weaker))
    assert identities.shown(identities.identity(one)) != identities.shown(identities.identity(other))
    with pytest.raises(ValueError, match="LoRA that the model does not have"):
        host("core.another_model").has_a_lora_beyond(one, other)
