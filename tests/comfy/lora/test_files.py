"""LoRA files: saved, by the folder, damaged and hostile."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from unmemorize_pack.tests.comfy.loras import HOW, LEAKING, layer_names

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
    found = host("lora.lora_files").kohya_hashes(tensors, {"ss_x": "1", "other": "2"}, tmp_path)
    assert found["sshs_model_hash"] == hashlib.sha256(behind).hexdigest()
    assert found["sshs_legacy_hash"] == hashlib.sha256(raw[0x100000:0x110000]).hexdigest()[:8]


@pytest.mark.parametrize("name", ["../out", "a/../../b", "/abs", "", "a//b", "..", "a\\b", "x\0y", "con:x"])
def test_names_cannot_leave_the_folder(nodes, file, loras, name):
    with pytest.raises(ValueError, match="cannot be a file name|leads outside"):
        nodes["UnmemorizeSaveFilteredLoRA"].execute(file[0], name)
    assert not list(loras.rglob("*"))


def test_nothing_left_is_said(nodes, loras):
    with pytest.raises(ValueError, match="this LoRA is empty.*removed everything.*removed nothing"):
        nodes["UnmemorizeSaveFilteredLoRA"].execute({}, "x")


# --- folders ------------------------------------------------------------------------------------------------


def test_a_folder_is_resumed(nodes, demo, loras, monkeypatch):
    run = nodes["UnmemorizeFilterLoRAFolder"].execute
    (loras / "=cmd.safetensors").write_bytes(b"broken")
    given = {"model": demo[0], "output": "clean", **HOW, "deviations": 3.0}
    table, written = run(folder="demo", **given).args
    assert written == 3 and sorted(p.stem for p in (loras / "clean").iterdir()) == ["concept", "leaking", "style"]
    table, written = run(folder="demo", **given).args
    assert written == 0 and table.count("was done before") == 3
    table, written = run(folder="demo", **(given | {"deviations": 2.0})).args
    assert written == 3 and (loras / "clean" / "style_001.safetensors").is_file()
    table, written = run(folder=".", **given).args
    assert written == 0 and "'=cmd.safetensors" in table and "cannot be read" in table
    with pytest.raises(ValueError, match="no folder"):
        run(folder="nowhere", **given)
    with pytest.raises(ValueError, match="leads outside|cannot be"):
        run(folder="demo", **(given | {"output": "../x"}))


def test_a_lora_that_was_filtered_twice_says_so(nodes, split, file, loras, demo):
    """Saved where a folder's results go, it is not taken for the original filtered once."""
    once, _, info, *_ = split(deviations=3.0, info=file[1])
    twice, _, both, *_ = nodes["UnmemorizeBAFFilterLoRA"].execute(lora=once, model=demo[0], info=info, **(HOW | {"deviations": 2.0})).args
    assert both["filter"]["after"] == info["filter"] and "after" not in info["filter"]
    nodes["UnmemorizeSaveFilteredLoRA"].execute(twice, "clean/leaking", both)
    table, written = (
        nodes["UnmemorizeFilterLoRAFolder"].execute(model=demo[0], folder="demo", output="clean", **HOW | {"deviations": 2.0}).args
    )
    assert written == 3 and "was done before" not in table


def test_a_saved_file_tells_of_its_first_filter_when_it_is_filtered_again(nodes, split, file, loras, demo):
    """The note lies in the file, not in the graph that made it."""
    once, _, info, *_ = split(deviations=3.0, info=file[1])
    name = nodes["UnmemorizeSaveFilteredLoRA"].execute(once, "once", info).args[0]
    importlib.import_module("folder_paths").filename_list_cache.clear()
    opened = nodes["UnmemorizeOpenLoRA"].execute(name)
    assert opened.args[1]["filter"] == info["filter"] and "filter" not in opened.ui["unmemorize_report"][0]
    twice = nodes["UnmemorizeBAFFilterLoRA"].execute(lora=opened.args[0], model=demo[0], info=opened.args[1], **(HOW | {"deviations": 2.0}))
    assert twice.args[2]["filter"]["after"] == info["filter"]


def test_a_folder_tells_what_a_filter_left_alone(nodes, demo, loras):
    """Published as filtered, a file that no setting touched would be a lie."""
    table, written = (
        nodes["UnmemorizeFilterLoRAFolder"].execute(model=demo[0], folder="demo", output="same", **HOW | {"deviations": -99.0}).args
    )
    assert written == 3 and table.count("nothing is removed") == 3


@pytest.mark.parametrize(
    ("name", "becomes"), [("style: v2", "style_ v2"), ("why?", "why_"), ("\u753b" * 70, "\u753b" * 66), ("dots..", "dots")]
)
def test_names_that_are_legal_on_one_system_only_get_a_name_of_their_own(run_folder, loras, root, name, becomes):
    (loras / "odd").mkdir()
    shutil.copy(root / "demo" / "lab" / "loras" / "style.safetensors", loras / "odd" / f"{name}.safetensors")
    _, count = run_folder("odd", "named").args
    assert count == 1 and [p.stem for p in (loras / "named").iterdir()] == [becomes]
    table, count = run_folder("odd", "named").args
    assert count == 0 and "was done before" in table


def test_a_changed_subfolder_is_noticed_on_windows(host, monkeypatch, tmp_path):
    folder = host("lora.folder")
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"1")
    monkeypatch.setattr(folder.store, "paths", lambda _: {"sub\\x.safetensors": path, "other\\y.safetensors": tmp_path / "y"})
    before = folder.stamp("sub")
    os.utime(path, ns=(1, 1))
    assert "x.safetensors" in before and "y" not in before.replace("safetensors", "") and folder.stamp("sub") != before


@pytest.fixture
def run_folder(nodes, demo):
    """run_folder(folder, output) -> the node's result."""

    def run(folder, output):
        importlib.import_module("folder_paths").filename_list_cache.clear()
        return nodes["UnmemorizeFilterLoRAFolder"].execute(model=demo[0], folder=folder, output=output, **HOW)

    return run


def test_a_bad_file_is_a_line_of_the_table(run_folder, loras, root):
    """A broken link, a pipe, text, damage of every kind beside good LoRAs: each its line, and the run goes on."""
    source = loras / "mixed"
    source.mkdir()
    good = next((root / "demo" / "lab" / "loras").glob("*.safetensors"))
    shutil.copy(good, source / "a-good.safetensors")
    shutil.copy(good, source / "z-good.safetensors")
    (source / "b-link.safetensors").symlink_to(loras / "nothing")
    os.mkfifo(source / "c-pipe.safetensors")
    (source / "d-text.safetensors").write_text("no LoRA")
    (source / "e-cut.safetensors").write_bytes(good.read_bytes()[:5000])
    table, written = run_folder(folder="mixed", output="out").args
    rows = {r["file"]: r for r in csv.DictReader(io.StringIO(table))}
    assert set(rows) == {f"mixed/{n}.safetensors" for n in ("a-good", "b-link", "c-pipe", "d-text", "e-cut", "z-good")}
    assert written == 2 and all(rows[f"mixed/{n}-good.safetensors"]["result"] for n in "az")
    assert all(r["note"] and not r["result"] for n, r in rows.items() if "good" not in n)
    assert not any(str(loras) in r["note"] for r in rows.values())


@pytest.mark.parametrize("planted", ['{"settings": 3}', "[1]", '{"source": "x"}', '{"a":' * 50_000 + "1" + "}" * 50_000, "NaN"])
def test_a_planted_file_in_the_output_stops_nothing(run_folder, loras, planted):
    (loras / "out").mkdir()
    save_file({"x": torch.zeros(1)}, loras / "out" / "planted.safetensors", metadata={"unmemorize_baf": planted})
    _, written = run_folder(folder="demo", output="out").args
    assert written >= 1


@pytest.mark.parametrize("output", [" out", "out ", "out/", " out / inner "])
def test_a_space_more_is_the_same_folder(run_folder, loras, output):
    """Filtered again, the output is not taken for a source."""
    run = run_folder
    if output.strip().endswith("/"):
        with pytest.raises(ValueError, match="file name"):
            run(folder="demo", output=output)
        return
    _, first = run(folder="demo", output=output).args
    _, again = run(folder="demo", output=output).args
    table, _ = run(folder=".", output=output).args
    assert first >= 1 and again == 0 and "out" not in {r["file"].split("/")[0] for r in csv.DictReader(io.StringIO(table))}


def test_the_source_as_output_is_refused(run_folder, loras, root):
    good = next((root / "demo" / "lab" / "loras").glob("*.safetensors"))
    (loras / "mine").mkdir()
    shutil.copy(good, loras / "mine" / "a.safetensors")
    with pytest.raises(ValueError, match="is the folder that is filtered"):
        run_folder(folder="mine", output=" mine")


# --- hostile and odd files ----------------------------------------------------------------------------------


def broken(file, how):
    tensors = {k: v.clone() for k, v in file[0].items()}
    name = layer_names(tensors)[3]
    up, down, alpha = f"{name}.lora_up.weight", f"{name}.lora_down.weight", f"{name}.alpha"
    if how == "NaN":
        tensors[up][0, 0] = float("nan")
    if how == "infinite alpha":
        tensors[alpha] = torch.tensor(float("inf"))
    if how == "ranks differ":
        tensors[down] = tensors[down][:5]
    if how == "rank 0":
        tensors[up], tensors[down] = tensors[up][:, :0], tensors[down][:0]
    if how == "half a layer":
        del tensors[down]
    if how == "long alpha":
        tensors[alpha] = torch.ones(3)
    return tensors


@pytest.mark.parametrize("how", ["NaN", "infinite alpha", "ranks differ", "rank 0", "half a layer", "long alpha"])
def test_broken_layers_are_refused_before_work(split, file, how, monkeypatch, host):
    monkeypatch.setattr(host("lora.judging"), "judge", lambda *_: pytest.fail("work had begun"))
    with pytest.raises(ValueError, match="broken|damaged"):
        split(lora=broken(file, how))


def test_a_missing_alpha_means_one(split, file):
    tensors = {k: v for k, v in file[0].items() if not k.endswith(".alpha")}
    kept, *_ = split(lora=tensors, deviations=3.0)
    assert kept and not [k for k in kept if k.endswith(".alpha")]


def test_a_lora_of_another_model_is_refused(split):
    with pytest.raises(ValueError, match="may be made for another model"):
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


def test_a_users_own_folder_of_the_bundled_name_is_filtered_too(run_folder, loras, root):
    """The root stands for all of the user's files; those that ship are not among them."""
    good = next((root / "demo" / "lab" / "loras").glob("*.safetensors"))
    (loras / "demo").mkdir(exist_ok=True)
    shutil.copy(good, loras / "demo" / "mine.safetensors")
    table, _ = run_folder(folder=".", output="out").args
    assert "demo/mine.safetensors" in [r["file"] for r in csv.DictReader(io.StringIO(table))]
