"""Filters on the demo model and its LoRAs: nodes and contracts."""

from __future__ import annotations

import importlib
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from unmemorize_pack.tests.comfy.loras import HOW, LAYERS, LEAKING, dense, layer_names

PHOTO = "a large halved blue cross on a sand background"

# --- the split ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"gate": "soft"}, {"gate": "ratio of the file"}, {"deviations": 3.0}, {"restore_norm": True}])
def test_filtered_and_removed_add_up(split, file, changes):
    kept, removed, _, energy, spectrum, _ = split(**changes)
    assert len(spectrum["layers"]) == LAYERS
    for name in layer_names(file[0]):
        whole = dense(file[0], name)
        assert (dense(kept, name) + dense(removed, name) - whole).norm() < 2e-3 * whole.norm(), "half precision"
    assert 0 < energy < 1 or changes.get("restore_norm")


def test_filtered_and_removed_add_up_exactly_in_single_precision(split, file):
    single = {k: v.float() for k, v in file[0].items()}
    kept, removed, *_ = split(lora=single)
    for name in layer_names(single):
        whole = dense(single, name)
        assert (dense(kept, name) + dense(removed, name) - whole).norm() < 1e-5 * whole.norm()


def test_layers_come_in_the_order_of_the_file(host, demo, file):
    """Not in the core's, which hash randomisation shuffles: the random control would be another after a restart."""
    apart = host("lora.keys").take_apart
    names = layer_names(file[0])
    for wanted in (names, names[::-1]):
        tensors = {k: file[0][k] for name in wanted for k in file[0] if k.split(".")[0] == name}
        assert [update.names.prefix for update in apart(tensors, demo[0], None).updates] == wanted


def test_off_is_exact(split, file, off_is_exact):
    for changes in ({"filter_strength": 0.0}, {"threshold": -1.0, "deviations": -10.0}):
        kept, removed, _, energy, _, report = split(**changes)
        off_is_exact(kept, file[0])
        assert list(kept) == list(file[0]) and not removed and energy == 0
        assert not json.loads(report).get("layers_changed")


def test_keys_dtype_and_alpha_stay_in_style(split, file):
    kept, removed, *_ = split(deviations=3.0)
    for part in (kept, removed):
        assert set(part) <= set(file[0])
        for name in layer_names(part):
            rank = len(part[f"{name}.lora_down.weight"])
            assert float(part[f"{name}.alpha"]) == rank == part[f"{name}.lora_up.weight"].shape[1]
        assert {t.dtype for t in part.values()} == {torch.float16}
    assert [k for k in file[0] if k in kept] == list(kept)


def test_unchanged_layers_pass_byte_by_byte(split, file):
    kept, removed, _, _, spectrum, _ = split()
    untouched = [k for k in kept if kept[k] is file[0][k]]
    assert untouched and len(untouched) % 3 == 0
    assert not {k.split(".")[0] for k in untouched} & set(layer_names(removed))


def test_nothing_is_modified(split, demo, file, untouched):
    with untouched(demo[0], dict(file[0])):
        split(gate="soft")


def test_same_input_same_bytes(split, off_is_exact):
    off_is_exact(split(gate="soft")[0], split(gate="soft")[0])


def test_the_base_is_read_without_its_patches(nodes, demo, file, split, off_is_exact):
    """A LoRA that is already on the model is no part of the anchor."""
    patched = nodes["UnmemorizeLoadDemoLoRA"].execute(demo[0], "style", 1.0).args[0]
    result = nodes["UnmemorizeBAFFilterLoRA"].execute(lora=file[0], model=patched, clip=None, info=None, **HOW).args
    off_is_exact(result[0], split()[0])


def test_report_and_plot(split, nodes):
    *_, spectrum, text = split(deviations=3.0)
    report = json.loads(text)
    assert report["rank_before"] == LAYERS * 8 and report["rank_after"] < report["rank_before"]
    assert sum(b["rank_after"] for b in report["blocks"].values()) == report["rank_after"] and "output_blocks.0" in report["blocks"]
    picture, channels, removed = nodes["UnmemorizeLoRASpectrumPlot"].execute(spectrum).args
    assert channels == LAYERS * 8 and removed == LAYERS * 8 - report["rank_after"]
    assert picture.ndim == 4 and picture.shape[-1] == 3 and float(picture.min()) >= 0 and float(picture.max()) <= 1
    with pytest.raises(ValueError, match="nothing to plot"):
        nodes["UnmemorizeLoRASpectrumPlot"].execute(None)


def test_hostile_names_are_only_drawn(split, nodes):
    *_, spectrum, _ = split()
    for name in ("<script>alert(1)</script>", "\u202e\x00\n" * 50, "x" * 5000):
        assert nodes["UnmemorizeLoRASpectrumPlot"].execute(spectrum | {"name": name}).args[0].shape[0] == 1


# --- loading ------------------------------------------------------------------------------------------------


@pytest.fixture
def load(nodes, demo):
    def run(name=LEAKING, strength_model=1.0, strength_clip=1.0, clip=None, model=None, **changes):
        node = nodes["UnmemorizeLoadLoRABAF"]
        given = {"lora_name": name, "strength_model": strength_model, "strength_clip": strength_clip}
        return node.execute(model=model or demo[0], clip=clip, **given, **(HOW | changes)).args

    return run


def patches(model):
    """Patches of a MODEL by value."""
    return {k: [(p[0], [t for t in p[1].weights if t is not None], p[2:]) for p in several] for k, several in model.patches.items()}


def test_filter_off_is_the_stock_loader(load, demo, nodes, off_is_exact, sample, loras):
    """Bit by bit what LoraLoader gives for the same file."""
    core = importlib.import_module("nodes")
    source = importlib.import_module("unmemorize_pack.host.lora.lora_files").LORAS.bundled / "leaking.safetensors"
    (loras / "copy.safetensors").write_bytes(source.read_bytes())
    stock_model, stock_clip = core.LoraLoader().load_lora(demo[0], demo[1], "copy.safetensors", 0.8, 0.5)
    model, clip, energy, spectrum, report = load("copy.safetensors", 0.8, 0.5, clip=demo[1], filter_strength=0.0)
    off_is_exact(patches(model), patches(stock_model))
    off_is_exact(sample(PHOTO, model=model), sample(PHOTO, model=stock_model))
    assert type(clip) is type(stock_clip) and energy == 0 and spectrum is None and report == "{}"


def test_strength_zero_returns_the_inputs(load, demo):
    assert load(strength_model=0.0, strength_clip=0.0, clip=demo[1])[:2] == (demo[0], demo[1])


def test_a_node_that_filters_nothing_says_so(nodes, demo):
    """Without a result of its own the node would go on showing that of the run before."""
    said = {"unmemorize_report": [{"verdict": "off"}]}
    execute = nodes["UnmemorizeLoadLoRABAF"].execute
    for model, clip, strength in ((0.0, 0.0, 1.0), (1.0, 1.0, 0.0)):
        how = HOW | {"strength_model": model, "strength_clip": clip, "filter_strength": strength}
        assert execute(model=demo[0], clip=demo[1], lora_name=LEAKING, **how).ui == said
    how = {k: v for k, v in HOW.items() if k != "text_encoder"} | {"filter_strength": 0.0}
    assert nodes["UnmemorizeCleanAppliedLoRAs"].execute(model=demo[0], **how).ui == said


def test_the_filtered_lora_changes_the_model_by_its_part_only(load, demo, split, untouched):
    with untouched(demo[0]):
        model, clip, energy, spectrum, report = load(deviations=3.0)
    assert clip is None and 0 < energy < 1 and json.loads(report)["layers"] == len(spectrum["layers"]) == LAYERS
    kept = split(deviations=3.0)[0]
    assert len(model.patches) == len(layer_names(kept))


def test_drop_in_for_the_stock_loader(nodes):
    """Same sockets and widget order first."""
    schema = nodes["UnmemorizeLoadLoRABAF"].define_schema()
    assert [i.id for i in schema.inputs][:5] == ["model", "clip", "lora_name", "strength_model", "strength_clip"]
    assert [o.get_io_type() for o in schema.outputs][:2] == ["MODEL", "CLIP"]


def test_applied_loras_are_cleaned_as_files_are(nodes, demo, load, sample):
    applied = nodes["UnmemorizeLoadDemoLoRA"].execute(demo[0], "leaking", 1.0).args[0]
    how = {k: v for k, v in HOW.items() if k != "text_encoder"} | {"deviations": 3.0}
    before = patches(applied)
    cleaned, energy, spectrum, _ = nodes["UnmemorizeCleanAppliedLoRAs"].execute(model=applied, **how).args
    assert str(patches(applied)) == str(before) and not demo[0].patches
    from_file, _, energy_of_file, *_ = load(deviations=3.0)
    assert energy == pytest.approx(energy_of_file, abs=1e-6) and set(cleaned.patches) == set(from_file.patches)
    assert torch.allclose(sample(PHOTO, model=cleaned), sample(PHOTO, model=from_file), atol=2e-2)
    assert not torch.allclose(sample(PHOTO, model=cleaned), sample(PHOTO, model=applied), atol=2e-2)
    off = nodes["UnmemorizeCleanAppliedLoRAs"].execute(model=applied, **(how | {"filter_strength": 0.0})).args
    assert off[0] is applied
    with pytest.raises(ValueError, match="carries no LoRA"):
        nodes["UnmemorizeCleanAppliedLoRAs"].execute(model=demo[0], **how)


def test_cancel_between_layers(split, host, monkeypatch):
    management = importlib.import_module("comfy.model_management")
    seen = []
    lora = host("lora.judging")
    original = lora.judge

    def judging(*arguments):
        seen.append(1)
        if len(seen) == 5:
            management.interrupt_current_processing(True)
        return original(*arguments)

    monkeypatch.setattr(lora, "judge", judging)
    try:
        with pytest.raises(management.InterruptProcessingException):
            split()
    finally:
        management.interrupt_current_processing(False)
    assert len(seen) == 5


# --- cache --------------------------------------------------------------------------------------------------


def test_cached_subspaces_give_the_same_bytes(split, host, loras, monkeypatch, off_is_exact, tmp_path):
    subspaces = host("lora.subspaces")
    without = split()[0]
    monkeypatch.setattr(subspaces, "WORTH_KEEPING", 0)
    cold, warm = split(), split()
    off_is_exact(cold[0], without)
    off_is_exact(warm[0], without)
    assert json.loads(cold[5])["subspaces_from_cache"] == 0 and json.loads(warm[5])["subspaces_from_cache"] == LAYERS
    folder = tmp_path / "user" / "unmemorize" / "subspaces"
    (one,) = folder.iterdir()
    sound = one.read_bytes()
    one.write_bytes(b"damaged")
    off_is_exact(split()[0], without)
    assert one.read_bytes() == sound, "whoever writes it, and when, the same bytes"


def test_a_base_is_one_file_and_the_longest_unused_goes_first(split, host, loras, monkeypatch, tmp_path):
    subspaces, folder = host("lora.subspaces"), tmp_path / "user" / "unmemorize" / "subspaces"
    monkeypatch.setattr(subspaces, "WORTH_KEEPING", 0)
    split(), split(base_energy=0.3)
    first, second = sorted(folder.iterdir(), key=lambda path: path.name.endswith("0.3.safetensors"))
    os.utime(second, (1, 1))
    subspaces._evict(folder, first.stat().st_size)
    assert list(folder.iterdir()) == [first]


def test_new_subspaces_do_not_pile_up_in_memory(split, host, loras, monkeypatch, off_is_exact, tmp_path):
    subspaces, folder = host("lora.subspaces"), tmp_path / "user" / "unmemorize" / "subspaces"
    without = split()[0]
    monkeypatch.setattr(subspaces, "WORTH_KEEPING", 0)
    monkeypatch.setattr(subspaces, "MOST_WAITING", 30_000)
    off_is_exact(split()[0], without)
    assert 2 < len(list(folder.iterdir())) < LAYERS
    assert json.loads(split()[5])["subspaces_from_cache"] == LAYERS


def test_subspaces_of_other_values_are_not_used(split, host, loras, monkeypatch, off_is_exact, tmp_path):
    """A file that was written for other sizes, or holds other kinds of numbers, is as if it were not there."""
    subspaces, folder = host("lora.subspaces"), tmp_path / "user" / "unmemorize" / "subspaces"
    without = split()[0]
    monkeypatch.setattr(subspaces, "WORTH_KEEPING", 0)
    split()
    (one,) = folder.iterdir()
    tensors = {k: v[:-1] if n % 2 else v.float() for n, (k, v) in enumerate(load_file(one).items())}
    save_file(tensors, one, metadata=host("core.files").metadata(one, "file"))
    off_is_exact(split()[0], without)


def test_a_layer_that_two_loras_change_is_decomposed_once(host, nodes, demo, monkeypatch, tmp_path, loras):
    judging, subspaces = host("lora.judging"), host("lora.subspaces")
    model = (
        nodes["UnmemorizeLoadDemoLoRA"]
        .execute(nodes["UnmemorizeLoadDemoLoRA"].execute(demo[0], "leaking", 1.0).args[0], "style", 0.5)
        .args[0]
    )
    names, original = [], subspaces.principal_subspace
    monkeypatch.setattr(subspaces, "principal_subspace", lambda *given: names.append(1) or original(*given))
    how = {k: v for k, v in HOW.items() if k != "text_encoder"}
    nodes["UnmemorizeCleanAppliedLoRAs"].execute(model=model, **how)
    assert len(names) == len(model.patches) < sum(len(several) for several in model.patches.values())
    assert judging.MOST_TOGETHER > 1


@pytest.mark.parametrize("together", [1, 7])
def test_how_many_layers_are_taken_at_a_time_changes_nothing(split, host, monkeypatch, together):
    """Up to rounding: single layers are decomposed as those of one size are."""
    whole = split(gate="ratio of the file", keep=0.7)
    monkeypatch.setattr(host("lora.judging"), "MOST_TOGETHER", together)
    parts = split(gate="ratio of the file", keep=0.7)
    assert list(whole[0]) == list(parts[0])
    for name in layer_names(whole[0]):
        assert torch.allclose(dense(whole[0], name), dense(parts[0], name), atol=1e-3 * float(dense(whole[0], name).abs().max()))


@pytest.mark.parametrize("changes", [{"score": "x"}, {"gate": "x"}, {"filter_strength": 2.0}])
def test_widgets_are_checked(split, load, changes):
    with pytest.raises(ValueError, match="none of|Out of range"):
        split(**changes)
    with pytest.raises(ValueError, match="none of|Out of range"):
        load(**changes)
