"""Neuron masks found, pruned with, compared and kept, on the real demo checkpoint."""

from __future__ import annotations

import dataclasses
import importlib
import json

import pytest
import torch

SCENE = "a small red circle on a gray background"


@pytest.fixture
def user_folder(tmp_path, monkeypatch):
    paths = importlib.import_module("folder_paths")
    monkeypatch.setattr(paths, "get_user_directory", lambda: str(tmp_path))
    return tmp_path


def weights_of(neuron_host, model, mask):
    """The masked layers' weights as the sampler uses them."""
    known = neuron_host.weights.Weights(model)
    return {key: known.effective(key, model.load_device) for key in mask.mask.bits}


def hooks(model):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.model.modules())


def test_mask_follows_the_definition(neuron_host, method, demo, memorized, reference, mask):
    """Layer by layer from the recorded norms and the weights, in float64."""
    for key, weight in weights_of(neuron_host, demo[0], mask).items():
        mem, null = (a.activity.rms(key).double() for a in (memorized, reference))
        expected = torch.zeros_like(weight, dtype=torch.bool)
        for m, n in zip(mem, null, strict=True):
            scored = weight.double().abs() * m
            k = max(1, int(0.05 * weight.shape[1]))
            top = torch.zeros_like(expected).scatter_(1, scored.sort(dim=1, descending=True, stable=True).indices[:, :k], True)
            expected |= top & (scored > weight.double().abs() * n)
        assert (expected != mask.mask.dense(key)).float().mean() < 1e-4  # float32 rounding of near ties


def test_report_and_density(find, mask):
    again, density, facts = find()
    assert facts["density"] == pytest.approx(density) and 0 < density <= 0.05 * len(facts["levels"])
    assert set(facts["density_by_layer"]) == set(mask.mask.bits) and facts["prompts"] == 2 and facts["warnings"]
    assert all(torch.equal(v, mask.mask.bits[k]) for k, v in again.mask.bits.items())


def test_room_is_made_by_comfyui_itself(find, demo, monkeypatch):
    """What a layer needs beside the loaded models is asked of ComfyUI's memory management before the first one is read."""
    asked = []
    monkeypatch.setattr("comfy.model_management.free_memory", lambda amount, device, *_, **__: asked.append((amount, device)))
    find()
    largest = max(w.numel() for k, w in demo[0].model.state_dict().items() if k.endswith("ff.net.2.weight"))
    assert asked[0][0] >= 2 * 4 * largest and asked[0][1] == demo[0].load_device


def test_a_higher_ratio_takes_less_and_merging_takes_both(find, record, mask, method):
    strict = find(select_ratio=0.6)[0]
    assert strict.mask.weights() < mask.mask.weights()
    other = find(memorized=record(SCENE)[0])[0]
    both = find(merge_with=other)[0]
    for key in mask.mask.bits:
        assert torch.equal(both.mask.dense(key), mask.mask.dense(key) | other.mask.dense(key))
    assert both.facts["merged"] == 2 and both.facts["prompts"] == 3


def test_finding_errors(find, record, reference, nodes, demo):
    with pytest.raises(ValueError, match="mask is empty"):
        find(memorized=reference)
    with pytest.raises(ValueError, match="different ways: steps"):
        find(reference=record("", steps=9)[0])
    early = nodes["UnmemorizeLoadDemoCheckpoint"].execute("early").args[0]
    with pytest.raises(ValueError, match="another model: the two differ in weights"):
        find(model=early)
    with pytest.raises(ValueError, match="not a recording"):
        find(memorized={})
    lora = nodes["UnmemorizeLoadDemoLoRA"].execute(demo[0], "leaking", 1.0).args[0]
    with pytest.raises(ValueError, match="LoRAs"):
        find(model=lora)


def test_a_mask_that_cannot_be_merged_is_refused_before_anything_is_scored(find, mask, host, monkeypatch):
    other = dataclasses.replace(mask, facts=mask.facts | {"model": mask.facts["model"] | {"architecture": "Flux"}})
    monkeypatch.setattr(host("neurons.finding"), "find_mask", lambda *_: pytest.fail("scored before the mask was looked at"))
    with pytest.raises(ValueError, match="mask to merge with belongs to another model: the two differ in architecture"):
        find(merge_with=other)
    with pytest.raises(ValueError, match="merge_with is not a neuron mask"):
        find(merge_with="mask")


# --- pruning -----------------------------------------------------------------------------------------------------


def test_pruned_weights_are_masked(neuron_host, demo, mask, prune):
    before = weights_of(neuron_host, demo[0], mask)
    for strength in (1.0, 0.3):
        after = weights_of(neuron_host, prune(strength=strength)[0], mask)
        for key, weight in before.items():
            dense = mask.mask.dense(key)
            assert torch.equal(after[key][~dense], weight[~dense])
            assert torch.allclose(after[key][dense], weight[dense] * (1 - strength))


def test_a_pruned_layer_computes_without_its_masked_weights(demo, mask, prune, neuron_host, sample):
    """W (1 - M) z + bias, of the very module while it samples."""
    model, _ = prune()
    layer = neuron_host.layers.layers_of(demo[0], "feed-forward")[2]
    weight = weights_of(neuron_host, demo[0], mask)[layer.key] * ~mask.mask.dense(layer.key)
    bias, seen = layer.module.bias.detach().float().clone(), []
    hook = layer.module.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0].float(), output.float())))
    try:
        sample(SCENE, steps=1, model=model)
    finally:
        hook.remove()
    z, output = seen[0]
    assert torch.allclose(output, torch.nn.functional.linear(z, weight, bias), atol=2e-3)


def test_pruning_costs_no_evaluation_and_the_base_stays(demo, prune, sample, off_is_exact):
    before = sample(SCENE)
    model, _ = prune()
    changed = sample(SCENE, model=model)
    assert not torch.equal(changed, before)
    off_is_exact(sample(SCENE), before)
    calls = []
    hook = demo[0].model.diffusion_model.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        sample(SCENE)
        plain = len(calls)
        sample(SCENE, model=model)
    finally:
        hook.remove()
    assert len(calls) == 2 * plain and hooks(model) == hooks(demo[0])


def test_strength_0_is_the_stock_model(demo, prune, sample, off_is_exact, untouched):
    with untouched(demo[0]):
        model, _ = prune(strength=0.0)
    off_is_exact(sample(SCENE, model=model), sample(SCENE))


def test_after_a_lora_both_are_silenced_before_it_only_the_base(nodes, neuron_host, demo, mask, prune):
    """Patches act in order: put Prune Neurons last."""
    add = nodes["UnmemorizeLoadDemoLoRA"].execute
    last = weights_of(neuron_host, prune(model=add(demo[0], "leaking", 1.0).args[0])[0], mask)
    first = weights_of(neuron_host, add(prune()[0], "leaking", 1.0).args[0], mask)
    with_lora, without = weights_of(neuron_host, add(demo[0], "leaking", 1.0).args[0], mask), weights_of(neuron_host, demo[0], mask)
    changed = 0
    for key in mask.mask.bits:
        dense = mask.mask.dense(key)
        assert not last[key][dense].any() and torch.equal(last[key][~dense], with_lora[key][~dense])
        assert torch.allclose(first[key][dense], (with_lora[key] - without[key])[dense], atol=1e-5)
        changed += int(first[key][dense].count_nonzero())
    assert changed, "the LoRA touches none of these layers: the test shows nothing"


def test_another_lora_than_the_masks_is_a_warning(nodes, demo, prune):
    assert json.loads(prune()[1])["warnings"] == [w for w in json.loads(prune()[1])["warnings"] if "LoRA" not in w]
    lora = nodes["UnmemorizeLoadDemoLoRA"].execute(demo[0], "style", 1.0).args[0]
    assert any("LoRA" in w for w in json.loads(prune(model=lora)[1])["warnings"])


def test_partial_loading(demo, mask, prune, neuron_host, sample):
    """Weights that stay where they are and are patched as they are used."""
    whole = sample(SCENE, model=prune()[0])
    model = prune()[0]
    layer = neuron_host.layers.layers_of(model, "feed-forward")[2]
    importlib.import_module("comfy.model_management").unload_all_models()
    try:
        model.load(model.load_device, lowvram_model_memory=1)
        assert layer.module.weight_function, "the layer was loaded whole: the test shows nothing"
        z = torch.randn(1, 7, layer.module.in_features, generator=torch.Generator().manual_seed(0)).to(layer.module.weight.dtype)
        found = layer.module(z)
    finally:
        model.detach()
    weight = weights_of(neuron_host, demo[0], mask)[layer.key] * ~mask.mask.dense(layer.key)
    assert torch.allclose(found.float(), torch.nn.functional.linear(z.float(), weight, layer.module.bias.float()), atol=2e-2)
    assert torch.equal(sample(SCENE, model=prune()[0]), whole)


def test_fp8_weights(nodes, neuron_host, method):
    """A layer stored in fp8: masked weights are zero. Of the others ComfyUI's rounding moves about one in a thousand to its neighbour."""
    model = nodes["UnmemorizeLoadDemoCheckpoint"].execute("early").args[0]
    layer = neuron_host.layers.layers_of(model, "feed-forward")[0]
    eighth = layer.module.weight.detach().to(torch.float8_e4m3fn)
    layer.module.weight = torch.nn.Parameter(eighth, requires_grad=False)
    dense = torch.rand(eighth.shape, generator=torch.Generator().manual_seed(0)) < 0.1
    clone = model.clone()
    clone.add_patches({layer.key: neuron_host.masks.PruneAdapter({layer.key}, (method.pack(dense),))}, 1.0)
    read = neuron_host.weights.Weights(clone).effective(layer.key, clone.load_device)
    assert torch.equal(read, eighth.float() * ~dense)
    clone.patch_weight_to_device(layer.key, clone.load_device)
    patched = layer.module.weight
    assert patched.dtype == torch.float8_e4m3fn and not patched.float()[dense].any()
    kept, was = patched.float()[~dense], eighth.float()[~dense]
    assert (kept != was).float().mean() < 0.01 and torch.allclose(kept, was, rtol=0.13, atol=2**-9)


def test_a_mask_of_another_model_is_refused_and_says_which(nodes, prune, mask, demo):
    early = nodes["UnmemorizeLoadDemoCheckpoint"].execute("early").args[0]
    with pytest.raises(
        ValueError, match=f"another model: the two differ in weights.*found on BaseModel with weights {mask.facts['model']['weights']}"
    ):
        prune(model=early)
    with pytest.raises(ValueError, match="another model"):
        prune(model=early, strength=0.0)
    with pytest.raises(ValueError, match="not a neuron mask"):
        prune(mask={})


# --- files -------------------------------------------------------------------------------------------------------------


def test_round_trip(nodes, find, user_folder):
    mask, _, _ = find(keep_levels=True)
    (name,) = nodes["UnmemorizeSaveNeuronMask"].execute(mask, "mine/cats").args
    (second,) = nodes["UnmemorizeSaveNeuronMask"].execute(mask, "mine/cats").args
    assert name == "mine/cats" and second == "mine/cats_001"
    assert (user_folder / "unmemorize/masks/mine/cats.safetensors").is_file()
    loaded, text = nodes["UnmemorizeLoadNeuronMask"].execute(name).args
    assert loaded.facts == mask.facts and loaded.mask.shapes == mask.mask.shapes
    for part in ("bits", "by_level"):
        ours, theirs = getattr(mask.mask, part), getattr(loaded.mask, part)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert json.loads(text)["density"] > 0
    assert nodes["UnmemorizeLoadNeuronMask"].validate_inputs(name) is True
    assert "no neuron mask" in nodes["UnmemorizeLoadNeuronMask"].validate_inputs("other")


def test_levels_without_a_call_are_left_out_of_files_and_views(nodes, record, find, user_folder):
    """dpm_fast passes over levels of its schedule: what is kept of the others comes back under their names."""
    recordings = {name: record(prompts, sampler_name="dpm_fast")[0] for name, prompts in (("memorized", SCENE), ("reference", ""))}
    heard = next(iter(recordings["memorized"].activity.rows.values())).sum(0) > 0
    assert not heard.all(), "every level was called: the test shows nothing"
    mask = find(**recordings, keep_levels=True)[0]
    known = [level for level, there in zip(recordings["memorized"].facts["levels"], heard.tolist(), strict=True) if there]
    assert mask.facts["levels"] == known and {len(v) for v in mask.mask.by_level.values()} == {len(known)}
    nodes["UnmemorizeSaveNeuronMask"].execute(mask, "passed over")
    back = nodes["UnmemorizeLoadNeuronMask"].execute("passed over").args[0]
    assert back.facts["levels"] == known and all(torch.equal(v, mask.mask.by_level[k]) for k, v in back.mask.by_level.items())
    other = find(keep_levels=True)[0]
    assert nodes["UnmemorizeCompareNeuronMasks"].execute(mask, other, "").ui["unmemorize_density"][0]["columns"] == ["all"]


def test_damaged_and_foreign_files(nodes, mask, neuron_host, user_folder):
    facts = {**mask.facts, "shapes": {k: list(v) for k, v in mask.mask.shapes.items()}}
    bits = {f"bits.{k}": v for k, v in mask.mask.bits.items()}
    load = nodes["UnmemorizeLoadNeuronMask"].execute
    key = next(iter(bits))
    for name, tensors, stored, match in (
        ("less", {k: v for k, v in bits.items() if k != key}, facts, "damaged"),
        ("cut", {**bits, key: bits[key][:-1].clone()}, facts, "shape"),
        ("bare", bits, {"kind": "neuron mask"}, "damaged"),
        ("odd", bits, {**facts, "shapes": 3}, "damaged"),
        ("profile", bits, {**facts, "kind": "stability profile"}, "not a neuron mask"),
    ):
        neuron_host.store.save(neuron_host.masks.MASKS, name, tensors, neuron_host.store.facts_as_metadata(stored))
        with pytest.raises(ValueError, match=match):
            load(name)
    for hostile in ("../x", "/etc/passwd", "demo/../../x", "nothing"):
        with pytest.raises(ValueError):
            load(hostile)


# --- comparing -------------------------------------------------------------------------------------------------------


def test_compare(nodes, find, record, mask):
    node = nodes["UnmemorizeCompareNeuronMasks"]
    other = find(memorized=record(SCENE)[0])[0]
    plot, mean, text = node.execute(mask, other, "photos, scene", mask_3=mask, mask_4=None).args
    facts = json.loads(text)
    assert plot.shape[0] == 1 and plot.shape[3] == 3 and plot.min() >= 0 and plot.max() <= 1
    assert (
        facts["names"] == ["photos", "scene", "3"]
        and facts["iou"][0][2] == facts["iou"][0][0] > 0
        and facts["iou"][0][1] == facts["iou"][1][0] < 1
    )
    assert mean == pytest.approx((facts["iou"][0][1] + facts["iou"][0][2] + facts["iou"][1][2]) / 3, abs=1e-4)


def test_compare_by_level(nodes, find):
    first, second = find(keep_levels=True)[0], find(keep_levels=True, rows="cond only")[0]
    plain = nodes["UnmemorizeCompareNeuronMasks"].execute(find()[0], find()[0], "").args[0]
    plot = nodes["UnmemorizeCompareNeuronMasks"].execute(first, second, "a name that is far too long for its place, b").args[0]
    assert plot.shape[2] > plain.shape[2] - 400


def test_compare_refuses_masks_of_other_layers(nodes, record, find, mask):
    elsewhere = find(memorized=record(place="attention outputs")[0], reference=record("", place="attention outputs")[0])[0]
    with pytest.raises(ValueError, match="same layers"):
        nodes["UnmemorizeCompareNeuronMasks"].execute(mask, elsewhere, "")
    with pytest.raises(ValueError, match="not a neuron mask"):
        nodes["UnmemorizeCompareNeuronMasks"].execute(mask, {}, "")
