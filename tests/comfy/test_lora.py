"""BAF on the demo model and its LoRAs: nodes, contracts, files."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

PHOTO = "rocket before launch"
HOW = {
    "filter_strength": 1.0, "score": "mean", "gate": "hard", "threshold": 0.0, "deviations": 0.0, "temperature": 0.05, "keep": 0.5,
    "base_energy": 0.5, "restore_norm": False, "text_encoder": True, "control_seed": 0,
}  # fmt: skip
LEAKING = "demo/leaking"


@pytest.fixture
def loras(comfy, tmp_path, monkeypatch):
    """An empty loras folder of ComfyUI's, and a user folder beside it."""
    import folder_paths

    folder = tmp_path / "loras"
    folder.mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(folder)], {".safetensors", ".pt"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path / "user"))
    return folder


@pytest.fixture(scope="session")
def file(nodes):
    """LORA_MODEL and info of the leaking demo LoRA."""
    with torch.inference_mode():
        return nodes["UnmemorizeOpenLoRA"].execute(LEAKING).args[:2]


@pytest.fixture
def split(nodes, demo, file):
    def run(lora=None, clip=None, info=None, **changes):
        how = HOW | changes
        return nodes["UnmemorizeBAFFilterLoRA"].execute(lora=lora or file[0], model=demo[0], clip=clip, info=info or file[1], **how).args

    return run


def dense(tensors, name):
    """dW of a kohya layer, zero if it is not there."""
    if f"{name}.lora_up.weight" not in tensors:
        return 0.0
    up, down, alpha = (tensors[f"{name}.{part}"].float() for part in ("lora_up.weight", "lora_down.weight", "alpha"))
    return float(alpha) / len(down) * up @ down


def layer_names(tensors):
    return sorted({k.split(".")[0] for k in tensors})


# --- the split ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"gate": "soft"}, {"gate": "ratio of the file"}, {"deviations": 3.0}, {"restore_norm": True}])
def test_filtered_and_removed_add_up(split, file, changes):
    kept, removed, _, energy, spectrum, _ = split(**changes)
    assert len(spectrum["layers"]) == 84
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
    apart = host("lora_keys").take_apart
    names = layer_names(file[0])
    for wanted in (names, names[::-1]):
        tensors = {k: file[0][k] for name in wanted for k in file[0] if k.split(".")[0] == name}
        assert [update.prefix for update in apart(tensors, demo[0], None).updates] == wanted


def test_off_is_exact(split, file, off_is_exact):
    for changes in ({"filter_strength": 0.0}, {"threshold": -1.0, "deviations": -10.0}):
        kept, removed, _, energy, _, report = split(**changes)
        off_is_exact(kept, file[0])
        assert list(kept) == list(file[0]) and not removed and energy == 0
        assert json.loads(report)["layers_changed"] == 0


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
    assert report["rank_before"] == 84 * 8 and report["rank_after"] < report["rank_before"]
    assert sum(b["rank_after"] for b in report["blocks"].values()) == report["rank_after"] and "output_blocks.0" in report["blocks"]
    picture, channels, removed = nodes["UnmemorizeLoRASpectrumPlot"].execute(spectrum).args
    assert channels == 672 and removed == 672 - report["rank_after"]
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
    source = Path(importlib.import_module("unmemorize_pack.host.lora_files").bundled()) / "leaking.safetensors"
    (loras / "copy.safetensors").write_bytes(source.read_bytes())
    stock_model, stock_clip = core.LoraLoader().load_lora(demo[0], demo[1], "copy.safetensors", 0.8, 0.5)
    model, clip, energy, spectrum, report = load("copy.safetensors", 0.8, 0.5, clip=demo[1], filter_strength=0.0)
    off_is_exact(patches(model), patches(stock_model))
    off_is_exact(sample(PHOTO, model=model), sample(PHOTO, model=stock_model))
    assert type(clip) is type(stock_clip) and energy == 0 and spectrum is None and report == "{}"


def test_strength_zero_returns_the_inputs(load, demo):
    assert load(strength_model=0.0, strength_clip=0.0, clip=demo[1])[:2] == (demo[0], demo[1])


def test_the_filtered_lora_changes_the_model_by_its_part_only(load, demo, split, untouched):
    with untouched(demo[0]):
        model, clip, energy, spectrum, report = load(deviations=3.0)
    assert clip is None and 0 < energy < 1 and json.loads(report)["layers"] == len(spectrum["layers"]) == 84
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
    lora = host("lora")
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


# --- saving -------------------------------------------------------------------------------------------------


def test_saved_files_keep_metadata_and_tell_what_was_done(nodes, split, file, loras, host):
    kept, _, info, *_ = split(deviations=3.0, info=file[1] | {"metadata": file[1]["metadata"] | {"sshs_model_hash": "old"}})
    save = nodes["UnmemorizeSaveFilteredLoRA"]
    assert save.execute(kept, "mine/a", info).args == ("mine/a.safetensors",)
    assert save.execute(kept, "mine/a", info).args == ("mine/a_001.safetensors",)
    with safe_open(loras / "mine" / "a.safetensors", "pt") as saved:
        metadata = saved.metadata()
        assert all(torch.equal(saved.get_tensor(k), kept[k]) for k in kept)
    assert metadata["ss_output_name"] == "leaking" and metadata["ss_network_dim"] == "Dynamic"
    made = json.loads(metadata["unmemorize_baf"])
    assert made["source"] == {"name": LEAKING, "sha256": file[1]["sha256"]} and made["settings"]["deviations"] == 3.0
    assert len(metadata["sshs_model_hash"]) == 64 and len(metadata["sshs_legacy_hash"]) == 8
    opened, again, _ = nodes["UnmemorizeOpenLoRA"].execute("mine/a.safetensors").args
    assert set(opened) == set(kept) and again["key_style"] == "kohya" and again["metadata"] == metadata
    assert not list(loras.rglob("*.tmp"))


def test_hashes_are_kohyas(host, tmp_path):
    """By hand: of a file with only the ss_ metadata, from behind the header; and 64 KB from the first megabyte on."""
    import hashlib

    from safetensors.torch import save

    tensors = {"a": torch.arange(600_000, dtype=torch.float32)}
    raw = save(tensors, {"ss_x": "1"})
    behind = raw[8 + int.from_bytes(raw[:8], "little") :]
    found = host("lora_files").kohya_hashes(tensors, {"ss_x": "1", "other": "2"}, tmp_path)
    assert found["sshs_model_hash"] == hashlib.sha256(behind).hexdigest()
    assert found["sshs_legacy_hash"] == hashlib.sha256(raw[0x100000:0x110000]).hexdigest()[:8]


@pytest.mark.parametrize("name", ["../out", "a/../../b", "/abs", "", "a//b", "..", "a\\b", "x\0y", "con:x"])
def test_names_cannot_leave_the_folder(nodes, file, loras, name):
    with pytest.raises(ValueError, match="cannot be a file name|leads outside"):
        nodes["UnmemorizeSaveFilteredLoRA"].execute(file[0], name)
    assert not list(loras.rglob("*"))


def test_nothing_left_is_said(nodes, loras):
    with pytest.raises(ValueError, match="removed every channel"):
        nodes["UnmemorizeSaveFilteredLoRA"].execute({}, "x")


# --- folders ------------------------------------------------------------------------------------------------


def test_a_folder_is_resumed(nodes, demo, loras, monkeypatch):
    run = nodes["UnmemorizeFilterLoRAFolder"].execute
    (loras / "=cmd.safetensors").write_bytes(b"broken")
    given = {"model": demo[0], "output": "clean", **HOW, "deviations": 3.0}
    table, written = run(folder="demo", **given).args
    assert written == 2 and sorted(p.name for p in (loras / "clean").iterdir()) == ["leaking.safetensors", "style.safetensors"]
    table, written = run(folder="demo", **given).args
    assert written == 0 and table.count("was done before") == 2
    table, written = run(folder="demo", **(given | {"deviations": 2.0})).args
    assert written == 2 and (loras / "clean" / "style_001.safetensors").is_file()
    table, written = run(folder=".", **given).args
    assert written == 0 and "'=cmd.safetensors" in table and "cannot be read" in table
    with pytest.raises(ValueError, match="no folder"):
        run(folder="nowhere", **given)
    with pytest.raises(ValueError, match="leads outside|cannot be"):
        run(folder="demo", **(given | {"output": "../x"}))


# --- cache --------------------------------------------------------------------------------------------------


def test_cached_subspaces_give_the_same_bytes(split, host, loras, monkeypatch, off_is_exact, tmp_path):
    subspaces = host("subspaces")
    without = split()[0]
    monkeypatch.setattr(subspaces, "WORTH_KEEPING", 0)
    cold, warm = split(), split()
    off_is_exact(cold[0], without)
    off_is_exact(warm[0], without)
    assert json.loads(cold[5])["subspaces_from_cache"] == 0 and json.loads(warm[5])["subspaces_from_cache"] == 84
    folder = tmp_path / "user" / "unmemorize" / "subspaces"
    one = next(folder.iterdir())
    one.write_bytes(b"damaged")
    off_is_exact(split()[0], without)
    subspaces._evict(folder, 100_000)
    assert 0 < sum(p.stat().st_size for p in folder.iterdir()) <= 100_000


# --- hostile and odd files ----------------------------------------------------------------------------------


def broken(file, how):
    tensors = {k: v.clone() for k, v in file[0].items()}
    name = layer_names(tensors)[3]
    up, down, alpha = f"{name}.lora_up.weight", f"{name}.lora_down.weight", f"{name}.alpha"
    if how == "NaN":
        tensors[up][0, 0] = float("nan")
    if how == "infinite alpha":
        tensors[alpha] = torch.tensor(float("inf"))
    if how == "wrong shape":
        tensors[up] = torch.zeros(7, 8)
    if how == "ranks differ":
        tensors[down] = tensors[down][:5]
    if how == "rank 0":
        tensors[up], tensors[down] = tensors[up][:, :0], tensors[down][:0]
    if how == "half a layer":
        del tensors[down]
    if how == "long alpha":
        tensors[alpha] = torch.ones(3)
    return tensors


@pytest.mark.parametrize("how", ["NaN", "infinite alpha", "wrong shape", "ranks differ", "rank 0", "half a layer", "long alpha"])
def test_broken_layers_are_refused_before_work(split, file, how, monkeypatch, host):
    monkeypatch.setattr(host("lora"), "channels_of", lambda *_: pytest.fail("work had begun"))
    with pytest.raises(ValueError, match="broken|damaged|another model"):
        split(lora=broken(file, how))


def test_a_missing_alpha_means_one(split, file):
    tensors = {k: v for k, v in file[0].items() if not k.endswith(".alpha")}
    kept, *_ = split(lora=tensors, deviations=3.0)
    assert kept and not [k for k in kept if k.endswith(".alpha")]


def test_a_lora_of_another_model_is_refused(split):
    with pytest.raises(ValueError, match="made for another model"):
        split(lora={"lora_unet_foo.lora_up.weight": torch.ones(4, 2), "lora_unet_foo.lora_down.weight": torch.ones(2, 4)})


def test_unknown_keys_pass_and_are_named(split, file):
    odd = {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": torch.ones(4, 2), "<b>evil</b>": torch.ones(3)}
    kept, removed, *_, report = split(lora=file[0] | odd, deviations=3.0)
    assert all(kept[k] is odd[k] for k in odd) and not set(odd) & set(removed)
    assert sorted(sum(json.loads(report)["passed_through"].values(), [])) == sorted(odd)


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 8 + b"{}", (2**40).to_bytes(8, "little") + b"{}"])
def test_damaged_files(nodes, loras, content):
    (loras / "bad.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read"):
        nodes["UnmemorizeOpenLoRA"].execute("bad.safetensors")


def test_truncated_empty_and_pickled_files(nodes, loras, file):
    save_file(dict(list(file[0].items())[:6]), loras / "whole.safetensors")
    (loras / "cut.safetensors").write_bytes((loras / "whole.safetensors").read_bytes()[:-10])
    save_file({}, loras / "empty.safetensors")
    (loras / "old.pt").write_bytes(b"pickle")
    for name, message in (("cut.safetensors", "cannot be read"), ("empty.safetensors", "no tensors"), ("old.pt", "no LoRA")):
        with pytest.raises(ValueError, match=message):
            nodes["UnmemorizeOpenLoRA"].execute(name)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "demo/../../x", "demo/nothing", ""])
def test_names_are_never_paths(nodes, loras, name, tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "secret.safetensors")
    with pytest.raises(ValueError, match="no LoRA"):
        nodes["UnmemorizeOpenLoRA"].execute(name)


@pytest.mark.parametrize("changes", [{"score": "x"}, {"gate": "x"}, {"filter_strength": 2.0}])
def test_widgets_are_checked(split, load, changes):
    with pytest.raises(ValueError, match="none of|Out of range"):
        split(**changes)
    with pytest.raises(ValueError, match="none of|Out of range"):
        load(**changes)
