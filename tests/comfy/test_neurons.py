"""Neurons recorded, found, pruned, compared and kept: on the real demo checkpoint."""

from __future__ import annotations

import importlib
import json
from types import SimpleNamespace

import pytest
import torch

PHOTOS = "# two photographs\nclose photo of a tabby cat looking left\nphoto of a raccoon looking at the camera"
SCENE = "a small red circle on a gray background"
SAMPLING = {"seed": 0, "steps": 8, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
FINDING = {"top_share": 0.05, "select_ratio": 0.0, "rows": "both", "score": "wanda", "keep_levels": False}


@pytest.fixture(scope="module")
def host(comfy):
    """Modules of host/ by name."""
    names = ("neurons", "neuron_masks", "neuron_layers", "effective_weights", "demo", "files", "sampling")
    return SimpleNamespace(**{n: importlib.import_module(f"unmemorize_pack.host.{n}") for n in names})


@pytest.fixture(scope="module")
def method(comfy):
    return importlib.import_module("unmemorize_pack.unmemorize.neurons")


@pytest.fixture(scope="module")
def record(nodes, demo, encode):
    """Record Neuron Activity with other settings than these: record(prompts=..., model=...) -> (activity, report)."""

    def run(prompts=PHOTOS, **changes):
        with torch.inference_mode():
            given = {
                "model": demo[0],
                "clip": demo[1],
                "negative": encode(""),
                "latent": {"samples": torch.zeros(1, 4, 16, 16)},
                "seeds": 1,
            }
            given |= {"prompts": prompts, "window_end": 2.0, "place": "feed-forward"} | SAMPLING | changes
            activity, text = nodes["UnmemorizeRecordNeuronActivity"].execute(**given).args
        return activity, json.loads(text)

    return run


@pytest.fixture(scope="module")
def memorized(record):
    return record()[0]


@pytest.fixture(scope="module")
def reference(record):
    return record("")[0]


@pytest.fixture(scope="module")
def find(nodes, demo, memorized, reference):
    def run(**changes):
        given = {"model": demo[0], "memorized": memorized, "reference": reference} | FINDING | changes
        with torch.inference_mode():
            mask, density, text = nodes["UnmemorizeFindMemorizedNeurons"].execute(**given).args
        return mask, density, json.loads(text)

    return run


@pytest.fixture(scope="module")
def mask(find):
    return find()[0]


@pytest.fixture(scope="module")
def prune(nodes, demo, mask):
    def run(model=None, strength=1.0, **changes):
        given = {"model": model or demo[0], "mask": mask, "strength": strength} | changes
        return nodes["UnmemorizePruneNeurons"].execute(**given).args

    return run


@pytest.fixture
def user_folder(tmp_path, monkeypatch):
    paths = importlib.import_module("folder_paths")
    monkeypatch.setattr(paths, "get_user_directory", lambda: str(tmp_path))
    return tmp_path


def weights_of(host, model, mask):
    """The masked layers' weights as the sampler uses them."""
    return dict(host.effective_weights.effective_weights(model, list(mask.mask.bits)))


# --- recording ---------------------------------------------------------------------------------------------


def test_recorded_activity_is_that_of_the_layers(host, method, demo, encode, record):
    """Against all rows, gathered by hooks of our own in a stock run: cond and uncond halves, step by step."""
    activity, facts = record("close photo of a tabby cat looking left", window_end=0.1, steps=3)
    layer = host.neuron_layers.layers_of(demo[0], "feed-forward")[3]
    seen = []
    hook = layer.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    try:
        use = SAMPLING | {"steps": 3}
        latent = {"samples": torch.zeros(1, 4, 16, 16)}
        host.sampling.draw(demo[0], encode("close photo of a tabby cat looking left"), encode(""), latent, use)
    finally:
        hook.remove()
    inside = len(facts["levels"])
    assert 0 < inside < 3 == len(seen)
    uncond_first = torch.stack([torch.stack([z / z.norm(dim=-1, keepdim=True).clamp_min(1e-15) for z in call]) for call in seen[:inside]])
    expected = uncond_first.double().square().sum(2).flip(1).movedim(0, 1)  # [2, levels, d]: ComfyUI puts cond last
    assert torch.allclose(activity.activity.squares[layer.key].double(), expected, rtol=1e-4)
    assert activity.activity.rows[layer.key].tolist() == [[seen[0].shape[1]] * inside] * 2


def test_recording_modifies_nothing_and_leaves_no_hook(demo, record, untouched, encode):
    with untouched(demo[0], encode("")):
        record()


def test_sampling_stops_at_the_end_of_the_window(demo, record):
    calls = []
    hook = demo[0].model.diffusion_model.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        _, facts = record("", steps=20, window_end=5.6)
    finally:
        hook.remove()
    assert len(calls) == len(facts["levels"]) == 4 and min(facts["levels"]) >= 5.6


def test_cond_only_is_what_a_run_without_guidance_does(method, record):
    """At the first step, where both start from the same noise. At CFG 1 ComfyUI asks for no empty prompt."""
    guided, unguided = record(window_end=14.0, steps=20)[0], record(window_end=14.0, steps=20, cfg=1.0)[0]
    for key, squares in unguided.activity.squares.items():
        with_cfg, without = (a.activity.rms(key, (method.COND,)) for a in (guided, unguided))
        assert (with_cfg - without).norm() <= 1e-3 * without.norm()
        assert not squares[method.UNCOND].any() and unguided.activity.rows[key][method.UNCOND].sum() == 0


def test_rows_are_told_apart_however_they_are_batched(demo, record, memorized, monkeypatch):
    """As with little memory: one prompt a call."""
    monkeypatch.setattr(demo[0].model, "memory_required", lambda *_, **__: 1e30)
    apart, _ = record()
    for key, squares in memorized.activity.squares.items():
        assert torch.allclose(apart.activity.squares[key], squares, rtol=1e-3, atol=1e-6)
        assert torch.equal(apart.activity.rows[key], memorized.activity.rows[key])


def test_memory_depends_neither_on_prompts_nor_steps_nor_tokens(record):
    sizes = []
    for changes in (
        {"prompts": SCENE, "steps": 20},
        {"prompts": PHOTOS, "steps": 20, "seeds": 2},
        {"prompts": SCENE, "steps": 45},
        {"prompts": SCENE, "steps": 20, "latent": {"samples": torch.zeros(1, 4, 24, 32)}},
    ):
        activity, facts = record(window_end=0.5, **changes)
        assert len(facts["levels"]) == 16
        sizes.append({k: v.untyped_storage().nbytes() for k, v in activity.activity.squares.items()})
    assert all(s == sizes[0] for s in sizes)


@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "uni_pc", "euler_ancestral", "dpmpp_2m"])
def test_every_kind_of_sampler_is_heard(record, sampler):
    activity, facts = record(SCENE, sampler_name=sampler)
    rows = next(iter(activity.activity.rows.values()))
    assert (rows > 0).all() and torch.equal(rows[0], rows[1]) and len(facts["levels"]) == rows.shape[1]


def hooks(model):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.model.modules())


def test_hooks_are_gone_after_an_error(demo, record, monkeypatch):
    before = hooks(demo[0])
    layer = demo[0].model.diffusion_model.out[2]

    def fail(*_):
        raise RuntimeError("out of memory")

    hook = layer.register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            record()
        assert hooks(demo[0]) == before + 1
    finally:
        hook.remove()


def test_hooks_are_gone_after_cancel(demo, record, interrupted):
    before = hooks(demo[0])
    with interrupted(demo[0], after=3):
        record()
    assert hooks(demo[0]) == before


def test_recording_errors(nodes, demo, record, host):
    with pytest.raises(ValueError, match="No step of this schedule"):
        record(window_end=900.0)
    with pytest.raises(ValueError, match="no place to look"):
        record(place="ears")
    other = demo[0].clone()
    other.model = SimpleNamespace(diffusion_model=torch.nn.Sequential(torch.nn.Identity()))
    with pytest.raises(ValueError, match="No layer of this model"):
        host.neuron_layers.layers_of(other, "feed-forward")


def test_a_layer_that_is_never_heard_is_an_error(record, demo, monkeypatch):
    """As in a compiled model."""
    monkeypatch.setattr(torch.nn.Module, "register_forward_pre_hook", lambda *_: SimpleNamespace(remove=lambda: None))
    with pytest.raises(ValueError, match="never heard"):
        record()


@pytest.mark.parametrize("place", ["feed-forward, first linear", "cross-attention keys and values", "attention outputs", "all of these"])
def test_other_places(record, find, place):
    there, nothing = record(place=place)[0], record("", place=place)[0]
    mask, density, _ = find(memorized=there, reference=nothing)
    assert 0 < density < 0.3 and len(mask.mask.bits) == len(there.activity.squares)


# --- finding -------------------------------------------------------------------------------------------------


def test_mask_follows_the_definition(host, method, demo, memorized, reference, mask):
    """Layer by layer from the recorded norms and the weights, in float64."""
    for key, weight in host.effective_weights.effective_weights(demo[0], list(mask.mask.bits)):
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
    with pytest.raises(ValueError, match="another model: weights"):
        find(model=early)
    with pytest.raises(ValueError, match="not a recording"):
        find(memorized={})
    lora = nodes["UnmemorizeLoadDemoLoRA"].execute(demo[0], "leaking", 1.0).args[0]
    with pytest.raises(ValueError, match="LoRAs"):
        find(model=lora)


# --- pruning -----------------------------------------------------------------------------------------------------


def test_pruned_weights_are_masked(host, demo, mask, prune):
    before = weights_of(host, demo[0], mask)
    for strength in (1.0, 0.3):
        after = weights_of(host, prune(strength=strength)[0], mask)
        for key, weight in before.items():
            dense = mask.mask.dense(key)
            assert torch.equal(after[key][~dense], weight[~dense])
            assert torch.allclose(after[key][dense], weight[dense] * (1 - strength))


def test_a_pruned_layer_computes_without_its_masked_weights(demo, mask, prune, host, sample):
    """W (1 - M) z + bias, of the very module while it samples."""
    model, _ = prune()
    layer = host.neuron_layers.layers_of(demo[0], "feed-forward")[2]
    weight = weights_of(host, demo[0], mask)[layer.key] * ~mask.mask.dense(layer.key)
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


def test_after_a_lora_both_are_silenced_before_it_only_the_base(nodes, host, demo, mask, prune):
    """Patches act in order: put Prune Neurons last."""
    add = nodes["UnmemorizeLoadDemoLoRA"].execute
    last = weights_of(host, prune(model=add(demo[0], "leaking", 1.0).args[0])[0], mask)
    first = weights_of(host, add(prune()[0], "leaking", 1.0).args[0], mask)
    with_lora, without = weights_of(host, add(demo[0], "leaking", 1.0).args[0], mask), weights_of(host, demo[0], mask)
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


def test_partial_loading(demo, mask, prune, host, sample):
    """Weights that stay where they are and are patched as they are used."""
    whole = sample(SCENE, model=prune()[0])
    model = prune()[0]
    layer = host.neuron_layers.layers_of(model, "feed-forward")[2]
    importlib.import_module("comfy.model_management").unload_all_models()
    try:
        model.load(model.load_device, lowvram_model_memory=1)
        assert layer.module.weight_function, "the layer was loaded whole: the test shows nothing"
        z = torch.randn(1, 7, layer.module.in_features, generator=torch.Generator().manual_seed(0)).to(layer.module.weight.dtype)
        found = layer.module(z)
    finally:
        model.detach()
    weight = weights_of(host, demo[0], mask)[layer.key] * ~mask.mask.dense(layer.key)
    assert torch.allclose(found.float(), torch.nn.functional.linear(z.float(), weight, layer.module.bias.float()), atol=2e-2)
    assert torch.equal(sample(SCENE, model=prune()[0]), whole)


def test_fp8_weights(nodes, host, method):
    """A layer stored in fp8: masked weights are zero. Of the others ComfyUI's rounding moves about one in a thousand to its neighbour."""
    model = nodes["UnmemorizeLoadDemoCheckpoint"].execute("early").args[0]
    layer = host.neuron_layers.layers_of(model, "feed-forward")[0]
    eighth = layer.module.weight.detach().to(torch.float8_e4m3fn)
    layer.module.weight = torch.nn.Parameter(eighth, requires_grad=False)
    dense = torch.rand(eighth.shape, generator=torch.Generator().manual_seed(0)) < 0.1
    clone = model.clone()
    clone.add_patches({layer.key: host.neuron_masks.PruneAdapter({layer.key}, (method.pack(dense),))}, 1.0)
    ((_, read),) = host.effective_weights.effective_weights(clone, [layer.key])
    assert torch.equal(read, eighth.float() * ~dense)
    clone.patch_weight_to_device(layer.key, clone.load_device)
    patched = layer.module.weight
    assert patched.dtype == torch.float8_e4m3fn and not patched.float()[dense].any()
    kept, was = patched.float()[~dense], eighth.float()[~dense]
    assert (kept != was).float().mean() < 0.01 and torch.allclose(kept, was, rtol=0.13, atol=2**-9)


def test_a_mask_of_another_model_is_refused_and_says_which(nodes, prune, mask, demo):
    early = nodes["UnmemorizeLoadDemoCheckpoint"].execute("early").args[0]
    with pytest.raises(ValueError, match=f"another model: weights.*found on BaseModel with weights {mask.facts['model']['weights']}"):
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


def test_damaged_and_foreign_files(nodes, mask, host, user_folder):
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
        host.files.save("masks", name, tensors, stored)
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
