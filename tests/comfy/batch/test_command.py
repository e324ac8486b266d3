"""The command line on the demo model: rows, resuming, shards, bad files, exit codes, tables, a cluster that loses a worker."""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .reading import rows_of


@pytest.fixture(scope="module")
def loras(demo, tmp_path_factory):
    """Six small LoRAs of the demo model, one of them twice, and one broken file."""
    folder = tmp_path_factory.mktemp("loras")
    weights = demo[0].model.state_dict()
    names = [k for k in weights if k.startswith("diffusion_model.") and k.endswith(("attn2.to_k.weight", "ff.net.2.weight"))]
    for i in range(6):
        generator, tensors = torch.Generator().manual_seed(i), {}
        for name in names:
            key = "lora_unet_" + name.removeprefix("diffusion_model.").removesuffix(".weight").replace(".", "_")
            out, inner = weights[name].shape
            tensors |= {f"{key}.lora_up.weight": torch.randn(out, 2, generator=generator)}
            tensors |= {f"{key}.lora_down.weight": torch.randn(2, inner, generator=generator), f"{key}.alpha": torch.tensor(2.0)}
        save_file(tensors, folder / f"{i}.safetensors")
    (folder / "twin.safetensors").write_bytes((folder / "0.safetensors").read_bytes())
    (folder / "broken.safetensors").write_bytes(b"nothing")
    return folder


def filtered(loras, out, *more):
    return ["filter", str(loras), "--base", "demo", "--out", str(out), *more]


def test_every_file_is_a_row_and_a_bad_one_does_not_end_the_run(command, loras, tmp_path):
    assert command.main(filtered(loras, tmp_path)) == command.FAILED
    rows = rows_of(tmp_path)
    assert len(rows) == 7, "the twin is the same unit"
    assert [r["also"] for r in rows if "also" in r] == [["twin.safetensors"]], "but it is named"
    good, bad = [r for r in rows if "error" not in r], [r for r in rows if "error" in r]
    assert [r["name"] for r in bad] == ["broken.safetensors"] and "cannot be read" in bad[0]["error"]
    assert all((tmp_path / "filtered" / r["written"]).is_file() and 0 < r["energy_removed"] <= 1 for r in good)


def test_a_lora_of_which_nothing_is_left_is_said_and_not_written(command, loras, tmp_path):
    file = tmp_path / "all.safetensors"
    save_file({k: v for k, v in load_file(loras / "1.safetensors").items() if "attn2" in k}, file)
    assert command.main(["filter", str(file), "--base", "demo", "--out", str(tmp_path / "out")]) == command.FAILED
    (row,) = rows_of(tmp_path / "out")
    assert "nothing to save" in row["error"] and not list((tmp_path / "out").rglob("*.safetensors"))


def test_a_base_that_cannot_be_loaded_is_no_files_fault(command, loras, tmp_path, monkeypatch):
    """It is tried once, and all files are tried again the next time."""
    jobs, tries = importlib.import_module("unmemorize_pack.batch.jobs"), []

    def broken(*_):
        tries.append(1)
        raise ValueError("no model in it")

    with monkeypatch.context() as bad:
        bad.setitem(jobs.TOOLS, "filter", broken)
        assert command.main(filtered(loras, tmp_path)) == command.FAILED
    assert len(tries) == 1 and all(r["again"] and "no model in it" in r["error"] for r in rows_of(tmp_path))
    command.main(filtered(loras, tmp_path))
    assert [r["name"] for r in rows_of(tmp_path) if "error" in r] == ["broken.safetensors"]


def test_progress_is_told_with_the_time_that_is_left(command, loras, tmp_path, capfd):
    command.main(filtered(loras, tmp_path))
    said = capfd.readouterr().err
    assert "7 units, 0 of them done before" in said and re.search(r"7 of 7, 1 failed, \d+ s left", said)


def test_every_kind_of_work_has_a_page(command, loras, tmp_path):
    """Names are data there."""
    (tmp_path / "loras").mkdir()
    (tmp_path / "loras" / "<img src=x onerror=alert(1)>.safetensors").write_bytes((loras / "1.safetensors").read_bytes())
    (tmp_path / "loras" / "broken.safetensors").write_bytes(b"")
    out = tmp_path / "out"
    command.main(filtered(tmp_path / "loras", out))
    assert command.main(["merge", "--out", str(out)]) == command.FAILED
    page = (out / "index.html").read_text()
    assert "&lt;img src=x" in page and "<img" not in page and "2 rows, 1 failed" in page and "cannot be read" in page
    assert re.search(r'data-name="rank before" data-value="\d+"', page)


def test_an_audit_is_told_parent_profile_and_references(command, root, tmp_path, monkeypatch):
    tools = importlib.import_module("unmemorize_pack.batch.tools")
    early, load = root / "demo/lab/early.safetensors", tools.demo.load_demo
    loaded = []
    monkeypatch.setattr(tools.demo, "load_demo", lambda path: loaded.append(path) or load(early if len(loaded) % 2 == 0 else path))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.effect_noise((64, 64), 80).convert("RGB").save(pictures / "a.png")
    (tmp_path / "list.txt").write_text("a red ring\n")
    line = [
        "audit", str(tmp_path / "list.txt"), "--base", "demo", "--steps", "20", "--cfg", "3", "--width", "128", "--height", "128",
        "--seeds", "2", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    more = ["--parent", "demo", "--profile", "demo/demo", "--references", str(pictures), "--copy-limit", "0.7"]
    assert command.main([*line, *more]) == command.GOOD
    (row,) = rows_of(tmp_path / "out")
    assert row["beyond"] is not None and row["nearest"] == "a.png" and row["copies"] == 0 and "memorized" in row
    assert row["map_score"] is not None
    pictures.rename(tmp_path / "elsewhere")
    more[5] = str(tmp_path / "elsewhere")
    before = (tmp_path / "out" / "rows.jsonl").read_text()
    assert command.main([*line, *more]) == command.GOOD and (tmp_path / "out" / "rows.jsonl").read_text() == before, "named by content"
    assert command.main([*line, "--copy-limit", "0.7"]) == command.WRONG, "a copy of what?"
    assert command.main([*line, "--profile", "nobody"]) == command.WRONG
    monkeypatch.setattr(tools.demo, "load_demo", load)
    assert command.main([*line[:-1], str(tmp_path / "same"), "--parent", "demo"]) == command.FAILED
    assert "base is the same model" in rows_of(tmp_path / "same")[0]["error"]


def test_the_program_tells_where_comfyui_is_missing(root, tmp_path):
    """Nothing was begun: exit code 2."""
    line = [sys.executable, str(root / "batch" / "run.py"), "merge", "--out", str(tmp_path)]
    run = subprocess.run(line, env=os.environ | {"COMFYUI_PATH": str(tmp_path)}, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 2 and "COMFYUI_PATH" in run.stderr


def test_what_is_done_is_not_done_again(command, loras, tmp_path, monkeypatch):
    command.main(filtered(loras, tmp_path))
    before = (tmp_path / "rows.jsonl").read_text()
    tools = importlib.import_module("unmemorize_pack.batch.jobs").Tools
    monkeypatch.setattr(tools, "row", lambda *_: pytest.fail("done again"))
    assert command.main(filtered(loras, tmp_path)) == command.FAILED, "the broken file is still broken"
    assert (tmp_path / "rows.jsonl").read_text() == before


def test_a_line_that_was_cut_off_is_done_again(command, loras, tmp_path):
    command.main(filtered(loras, tmp_path))
    whole = (tmp_path / "rows.jsonl").read_text()
    (tmp_path / "rows.jsonl").write_text(whole[: len(whole) - 20])
    command.main(filtered(loras, tmp_path))
    assert len(rows_of(tmp_path)) == 7


def test_shards_split_the_work_and_merge(command, loras, tmp_path):
    for i in (1, 2, 3):
        command.main(filtered(loras, tmp_path, "--shard", f"{i}/3"))
    assert len(list(tmp_path.glob("rows-*-of-3.jsonl"))) == 3 and len(rows_of(tmp_path)) == 7
    assert command.main(["merge", "--out", str(tmp_path)]) == command.FAILED
    with (tmp_path / "table.csv").open() as file:
        assert {r["name"] for r in csv.DictReader(file)} >= {"1.safetensors", "broken.safetensors"}


def test_nothing_to_do_is_said(command, tmp_path):
    assert command.main(["filter", str(tmp_path), "--base", "demo", "--out", str(tmp_path / "out")]) == command.WRONG
    assert command.main(["filter", "nowhere", "--base", "demo", "--out", str(tmp_path / "out")]) == command.WRONG
    assert command.main(["merge", "--out", str(tmp_path)]) == command.WRONG


def test_spreadsheets_run_nothing(tmp_path):
    rows = importlib.import_module("unmemorize_pack.batch.rows")
    rows.as_csv([{"kind": "audit", "name": "=cmd()", "base": "+1", "verdict": "\ud800"}], tmp_path / "t.csv")
    text = (tmp_path / "t.csv").read_text()
    assert "'=cmd()" in text and "'+1" in text


ROW = '{"id": "1", "kind": "copies", "name": "a", "also": ["\u732b.png"], "score": 0.5}\n'


def test_tables_are_readable_in_every_language(command, tmp_path):
    (tmp_path / "rows.jsonl").write_text(ROW)
    assert command.main(["merge", "--out", str(tmp_path)]) == command.GOOD
    table = (tmp_path / "table.csv").read_bytes()
    assert table.startswith(b"\xef\xbb\xbfkind,"), "Excel takes a table without the mark for another code page"
    assert "\u732b.png" in table.decode("utf-8-sig") and "\u732b.png" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_a_full_disk_leaves_the_table_that_was_there(command, tmp_path, monkeypatch, capfd):
    (tmp_path / "rows.jsonl").write_text(ROW)
    command.main(["merge", "--out", str(tmp_path)])
    assert "1 row, 0 failed" in capfd.readouterr().err
    before = (tmp_path / "table.csv").read_bytes()
    (tmp_path / "rows.jsonl").write_text(ROW + ROW.replace('"1"', '"2"'))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        assert command.main(["merge", "--out", str(tmp_path)]) == command.WRONG
    assert (tmp_path / "table.csv").read_bytes() == before and "No space left" in capfd.readouterr().err


def test_what_cannot_be_written_is_said_in_a_sentence(command, loras, tmp_path, capfd, monkeypatch):
    """Exit code 2, and no traceback."""
    (tmp_path / "rows.jsonl").write_text(ROW)
    (tmp_path / "table.csv").mkdir()
    assert command.main(["merge", "--out", str(tmp_path)]) == command.WRONG
    said = capfd.readouterr().err
    assert "table.csv' cannot be read or written: Is a directory" in said and "Traceback" not in said
    rows = importlib.import_module("unmemorize_pack.host.core.rows")
    monkeypatch.setattr(rows.Writer, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    line = ["filter", str(loras / "1.safetensors"), "--base", "demo", "--out", str(tmp_path / "out")]
    assert command.main(line) == command.WRONG
    said = capfd.readouterr().err
    assert "1 unit, 0 of them" in said and "A file cannot be read or written: No space left on device" in said


def test_prompts_are_audited_and_merged_to_a_page(command, tmp_path):
    (tmp_path / "list.csv").write_text("caption\na red ring\n<script>alert(1)</script>\n")
    small = ["--steps", "2", "--cfg", "2", "--width", "64", "--height", "64", "--seeds", "2", "--neighbours", "0"]
    assert command.main(["audit", str(tmp_path / "list.csv"), "--base", "demo", "--out", str(tmp_path / "out"), *small]) == command.GOOD
    assert command.main(["merge", "--out", str(tmp_path / "out")]) == command.GOOD
    page = (tmp_path / "out" / "index.html").read_text()
    assert "a red ring" in page and "<script>alert(1)" not in page


def test_a_probe_leaves_a_row_and_a_gallery(command, loras, tmp_path):
    small = ["--steps", "2", "--cfg", "2", "--width", "64", "--height", "64", "--pictures", "8", "--groups", "2"]
    assert command.main(["probe", str(loras / "1.safetensors"), "--base", "demo", "--out", str(tmp_path), *small]) == command.GOOD
    (row,) = rows_of(tmp_path)
    assert row["leaks"] >= 0 and [p.name for p in (tmp_path / "galleries").iterdir()] == [row["gallery"]]


def test_a_lora_of_another_model_is_not_probed_clean(command, tmp_path):
    """ComfyUI would skip each of its layers, and nothing would be found."""
    key, tensors = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k", {}
    for name in (key, "lora_unet_nothing_of_ours"):
        tensors |= {f"{name}.lora_up.weight": torch.ones(7, 2), f"{name}.lora_down.weight": torch.ones(2, 5)}
    save_file(tensors, tmp_path / "other.safetensors")
    small = ["--steps", "2", "--width", "64", "--height", "64", "--pictures", "8", "--groups", "2"]
    line = ["probe", str(tmp_path / "other.safetensors"), "--base", "demo", "--out", str(tmp_path / "out"), *small]
    assert command.main(line) == command.FAILED
    assert "leaks" not in rows_of(tmp_path / "out")[0]


@pytest.mark.parametrize("content", [b"<html>not found</html>", b"", b"\x80\x04K\x01."])
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_a_base_that_is_no_checkpoint_ends_no_run(command, loras, tmp_path, content, suffix):
    bad = tmp_path / f"bad.{suffix}"
    bad.write_bytes(content)
    line = ["filter", str(loras / "1.safetensors"), "--base", str(bad), "--base", "demo", "--out", str(tmp_path / "out")]
    assert command.main(line) == command.FAILED
    failed, good = sorted(rows_of(tmp_path / "out"), key=lambda row: row["base"] == "demo")
    assert failed["again"] and f"bad.{suffix}' cannot be loaded as a checkpoint" in failed["error"] and "error" not in good


def test_a_model_that_comes_in_several_files_is_said(command, loras, tmp_path, monkeypatch):
    tools = importlib.import_module("unmemorize_pack.batch.tools")
    real = tools.Base.__init__

    def bare(self, name):
        real(self, name)
        self.clip = None

    monkeypatch.setattr(tools.Base, "__init__", bare)
    assert command.main(["probe", str(loras / "1.safetensors"), "--base", "demo", "--out", str(tmp_path)]) == command.FAILED
    assert "holds no text encoder" in rows_of(tmp_path)[0]["error"]


def test_rows_of_the_nodes_audit_are_not_merged(command, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"id": "1", "prompt": "a cat"}\n')
    assert command.main(["merge", "--out", str(tmp_path)]) == command.WRONG
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"], "nothing is put beside them"


def test_killed_and_resumed_loses_nothing(loras, tmp_path, root):
    """The real program, killed with -9 after its first rows."""
    line = [sys.executable, str(root / "batch" / "run.py"), *filtered(loras, tmp_path), "--", "--cpu"]
    first = subprocess.Popen(line, env=os.environ, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(rows_of(tmp_path)) < 2 and first.poll() is None:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = [r["id"] for r in rows_of(tmp_path)]
    second = subprocess.run(line, env=os.environ, capture_output=True, text=True, timeout=200, check=False)
    rows = rows_of(tmp_path)
    assert second.returncode == 1, second.stderr[-2000:]
    assert len(rows) == 7 and [r["id"] for r in rows][: len(kept)] == kept
    assert len({r["written"] for r in rows if "written" in r}) == 6 == len(list((tmp_path / "filtered").glob("*.safetensors")))


def test_a_folder_holds_rows_of_one_setting(command, loras, tmp_path):
    command.main(filtered(loras, tmp_path, "--score", "mean"))
    before = rows_of(tmp_path)
    assert command.main(filtered(loras, tmp_path)) == command.WRONG
    assert rows_of(tmp_path) == before and json.loads((tmp_path / "settings.json").read_text())["settings"]["score"] == "mean"


def test_what_failed_for_want_of_room_is_tried_again(command, loras, tmp_path, monkeypatch):
    """A full device; and a full disk, as the library that writes says it."""
    jobs, files = (importlib.import_module(f"unmemorize_pack.{name}") for name in ("batch.jobs", "host.core.files"))

    def full(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as room:
        room.setitem(jobs.WORK, "filter", lambda *_: (_ for _ in ()).throw(RuntimeError("No space left for kernels")))
        assert command.main(filtered(loras, tmp_path)) == command.FAILED
    assert all(r["again"] and "No space" in r["error"] for r in rows_of(tmp_path))
    with monkeypatch.context() as room:
        room.setattr(files, "save_file", full)
        assert command.main(filtered(loras, tmp_path)) == command.FAILED
    assert all("No space left on device" in r["error"] and r["again"] for r in rows_of(tmp_path) if r["name"] != "broken.safetensors")
    assert command.main(filtered(loras, tmp_path)) == command.FAILED
    assert [r["name"] for r in rows_of(tmp_path) if "error" in r] == ["broken.safetensors"]


def test_other_references_or_too_few_are_refused_before_work(command, tmp_path):
    pictures, known = tmp_path / "pictures", tmp_path / "known"
    for folder, count in ((pictures, 1), (known, 4)):
        folder.mkdir()
        for i in range(count):
            noise = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(i + count))
            Image.fromarray((noise * 255).byte().numpy()).resize((64, 64)).save(folder / f"{i}.png")
    line = ["copies", str(pictures), "--references", str(known), "--out", str(tmp_path / "out"), "--false-alarms"]
    assert command.main([*line, "0.02"]) == command.WRONG, "four references cannot tell 2 %"
    assert not (tmp_path / "out").exists()
    assert command.main([*line, "0.3"]) == command.GOOD and rows_of(tmp_path / "out")[0]["verdict"] in ("copy", "no copy", "unclear")
    (known / "copy.png").write_bytes((pictures / "0.png").read_bytes())
    assert command.main([*line, "0.3"]) == command.WRONG, "an old answer would stand for new references"


def actors_of(process) -> list[int]:
    """Ray's workers of ours below a process."""
    return [p.pid for p in psutil.Process(process).children(recursive=True) if "_Actor" in " ".join(p.cmdline() or [p.name()])]


def test_a_cluster_that_loses_a_worker_loses_no_file(command, loras, tmp_path, monkeypatch):
    """Two workers of a real Ray; one is killed while both work."""
    ray = importlib.import_module("ray")
    engines = importlib.import_module("unmemorize_pack.batch.engines")
    whole, killed = engines.ray, []

    def losing_one(units, options, workers):
        for row in whole(units, options, workers):
            if not killed:
                killed.append(actors_of(os.getpid())[0])
                os.kill(killed[0], signal.SIGKILL)
            yield row

    monkeypatch.setattr(engines, "ray", losing_one)
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    try:
        assert command.main(filtered(loras, tmp_path, "--engine", "ray", "--workers", "5"), ["--cpu"]) == command.FAILED, (
            "five are more than fit"
        )
    finally:
        ray.shutdown()
    assert killed and len(rows_of(tmp_path)) == 7
    assert [r["name"] for r in rows_of(tmp_path) if "error" in r] == ["broken.safetensors"]
