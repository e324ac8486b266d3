"""New factors of a LoRA's layers against ComfyUI's own application of a LoRA: linear layers, convolutions, fused ones, the text encoder."""

from __future__ import annotations

import importlib

import pytest
import torch

X = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(2))
LINEAR, CONVOLUTION = "middle_block.1.transformer_blocks.0.attn2.to_k", "input_blocks.1.0.in_layers.2"


@pytest.fixture(scope="module")
def module(comfy):
    return importlib.import_module("unmemorize_pack.host.combined.new_factors")


@pytest.fixture(scope="module")
def keys(comfy):
    return importlib.import_module("unmemorize_pack.host.lora.keys")


def lora_of(model, *names, seed=5, size=0.4):
    """A LoRA of rank 2 on layers of the demo model."""
    generator, weights, tensors = torch.Generator().manual_seed(seed), model.model.state_dict(), {}
    for name in names:
        m, n, *kernel = weights[f"diffusion_model.{name}.weight"].shape
        key = "lora_unet_" + name.replace(".", "_")
        ones = [1] * len(kernel)
        tensors[f"{key}.lora_up.weight"] = size * torch.randn(m, 2, *ones, generator=generator)
        tensors[f"{key}.lora_down.weight"] = size * torch.randn(2, n, *kernel, generator=generator)
    return tensors


def under(demo, tensors, strength=1.0):
    return importlib.import_module("comfy.sd").load_lora_for_models(*demo[:2], tensors, strength, strength)


def begun(demo, module, keys, tensors):
    """The MODEL under a LoRA, its updates, the factors that begin, and why the other layers have none."""
    whole = under(demo, tensors)[0]
    updates = keys.take_apart(tensors, *demo[:2]).updates
    return (whole, updates, *module.factors_of(updates, whole, whole.load_device))


def written(demo, module, factors, updates, tensors):
    """What is kept, what is gone, and the kinds of layers."""
    sizes = importlib.import_module("unmemorize_pack.host.lora.filter_file").weights_of(*demo[:2])
    return module.written(factors, updates, tensors, sizes)


def predicted(demo, model):
    importlib.import_module("comfy.model_management").load_models_gpu([model])
    context = demo[1].encode_from_tokens_scheduled(demo[1].tokenize("a small red circle on a gray background"))[0][0]
    at, context = X.to(model.load_device), context.to(model.load_device)
    with torch.no_grad():
        return model.model.apply_model(at, torch.tensor([2.0]).to(at), c_crossattn=context).cpu()


def test_new_factors_stand_in_the_place_of_the_old_ones(demo, module, keys):
    """At the start: the LoRA at a third of its strength, of a linear layer and of a convolution; nothing is left behind."""
    tensors = lora_of(demo[0], LINEAR, CONVOLUTION)
    whole, third = under(demo, tensors)[0], under(demo, tensors, 1 / 3)[0]
    wanted, before = predicted(demo, third), predicted(demo, whole)
    assert not torch.allclose(wanted, before, atol=1e-2)
    factors, passed = module.factors_of(keys.take_apart(tensors, *demo[:2]).updates, whole, whole.load_device)
    assert len(factors) == 2 and not passed
    predicted(demo, whole)
    with module.learning(factors):
        assert torch.allclose(predicted(demo, whole), wanted, atol=1e-4)
    assert torch.equal(predicted(demo, whole), before)


def test_what_is_written_does_what_was_learnt_and_adds_up(demo, module, keys):
    tensors = lora_of(demo[0], LINEAR, CONVOLUTION)
    whole, updates, factors, _ = begun(demo, module, keys, tensors)
    with torch.no_grad():
        for f in factors:
            f.new[0].add_(0.1 * torch.randn(f.new[0].shape, generator=torch.Generator().manual_seed(1)).to(f.new[0]))
    kept, gone, groups = written(demo, module, factors, updates, tensors)
    predicted(demo, whole)
    with module.learning(factors):
        wanted = predicted(demo, whole)
    assert torch.allclose(predicted(demo, under(demo, kept)[0]), wanted, atol=1e-4)
    both = under(under(demo, kept), gone)[0]
    assert torch.allclose(predicted(demo, both), predicted(demo, whole), atol=1e-4), "the two add up to the LoRA"
    assert {name: g["layers"] for name, g in groups.items()} == {"cross-attention keys": 1, "other layers": 1}
    assert all(g["strength_left"] > 0.2 for g in groups.values())


def test_a_layer_that_changes_nothing_stays_and_is_named(demo, module, keys):
    """Frozen blocks are saved with zeros: written with rank 0, no LoRA loader could read them."""
    tensors = lora_of(demo[0], LINEAR, CONVOLUTION)
    frozen = next(k for k in tensors if "input_blocks" in k and k.endswith("lora_up.weight"))
    tensors[frozen] = torch.zeros_like(tensors[frozen])
    whole, updates, factors, passed = begun(demo, module, keys, tensors)
    assert len(factors) == 1 and list(passed) == [module.NOTHING]
    kept, _, _ = written(demo, module, factors, updates, tensors)
    assert kept[frozen] is tensors[frozen]


def test_only_the_largest_channels_learn_and_the_parts_still_add_up(demo, module, keys, monkeypatch):
    monkeypatch.setattr(module, "MOST_RANK", 1)
    tensors = lora_of(demo[0], LINEAR)
    whole, updates, factors, _ = begun(demo, module, keys, tensors)
    assert factors[0].new[1].shape[0] == 1
    kept, gone, _ = written(demo, module, factors, updates, tensors)
    both = under(under(demo, kept), gone)[0]
    assert torch.allclose(predicted(demo, both), predicted(demo, whole), atol=1e-4)
    predicted(demo, whole)
    with module.learning(factors):
        taught = predicted(demo, whole)
    assert torch.allclose(predicted(demo, under(demo, kept)[0]), taught, atol=1e-4), "what is taught is what is written"


def test_a_part_of_a_fused_layer_changes_its_own_outputs(module):
    """Rows 3 to 5 of 7, as the second part of a fused qkv."""
    layer = type("Layer", (), {"offset": (0, 3, 2)})()
    for linear, x in ((torch.nn.Linear(4, 7), torch.randn(2, 5, 4)), (torch.nn.Conv2d(4, 7, 1), torch.randn(2, 4, 3, 3))):
        old = torch.zeros(2, 1), torch.zeros(1, 4)
        new = torch.nn.Parameter(torch.ones(2, 1)), torch.nn.Parameter(torch.ones(1, 4))
        factors = module.Factors(type("Update", (), {"layer": layer})(), linear, old, new)
        change = factors.change(x).movedim(1, -1) if x.ndim == 4 else factors.change(x)
        inputs = x.movedim(1, -1) if x.ndim == 4 else x
        assert change.shape[-1] == 7 and not change[..., [0, 1, 2, 5, 6]].any()
        assert torch.allclose(change[..., 3], inputs.sum(-1), atol=1e-5) and torch.equal(change[..., 3], change[..., 4])


def test_layers_of_the_text_encoder_go_and_others_that_cannot_learn_stay(demo, module, keys):
    name = next(k for k in demo[1].cond_stage_model.state_dict() if k.endswith("fc1.weight"))
    m, n = demo[1].cond_stage_model.state_dict()[name].shape
    stem = "text_encoders." + name.removesuffix(".weight")
    tensors = lora_of(demo[0], LINEAR) | {f"{stem}.lora_up.weight": torch.ones(m, 1), f"{stem}.lora_down.weight": torch.ones(1, n)}
    whole, updates, factors, passed = begun(demo, module, keys, tensors)
    assert len(factors) == 1 and list(passed) == [module.OF_TEXT]
    kept, gone, _ = written(demo, module, factors, updates, tensors)
    assert not any(k.startswith(stem) for k in kept) and all(gone[k] is t for k, t in tensors.items() if k.startswith(stem))
    odd = [u for u in updates if not u.layer.text_encoder]
    turned = type(odd[0])(module.Layer(odd[0].layer.target, (1, 0, 4), None, False, odd[0].layer.adapter), odd[0].keys, odd[0].names)
    assert module.factors_of([turned], whole, whole.load_device) == ([], {module.REARRANGED: list(odd[0].keys)})
