"""Which files are units, how rows name them, and which row counts."""

from __future__ import annotations

import csv
import importlib
import json
import os
import shutil

import pytest
from PIL import Image

from .reading import rows_of


@pytest.fixture(scope="module")
def jobs(comfy):
    return importlib.import_module("unmemorize_pack.batch.jobs")


@pytest.fixture(scope="module")
def arguments(comfy):
    return importlib.import_module("unmemorize_pack.batch.arguments")


def picture(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), colour).save(path)


@pytest.fixture
def line(command, tmp_path):
    """A command that compares with five pictures."""
    for k, colour in enumerate(("red", "green", "blue", "black", "white")):
        picture(tmp_path / "known" / f"{k}.png", colour)
    more = ["--references", str(tmp_path / "known"), "--false-alarms", "0.3"]
    return lambda *sources, out="out": ["copies", *map(str, sources), *more, "--out", str(tmp_path / out)]


@pytest.mark.parametrize("kind", ["filter", "probe", "copies"])
def test_results_are_no_sources(jobs, tmp_path, kind):
    out, suffix = tmp_path / "out", "png" if kind == "copies" else "safetensors"
    for place in (tmp_path / f"a.{suffix}", tmp_path / "inner" / f"b.{suffix}", out / "filtered" / f"c.{suffix}"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"x")
    (tmp_path / "link").symlink_to(out / "filtered")
    wanted = [str(tmp_path / f"a.{suffix}"), str(tmp_path / "inner" / f"b.{suffix}")]
    assert jobs.sources_of(kind, [str(tmp_path)], out) == wanted
    assert jobs.sources_of(kind, [str(tmp_path), str(tmp_path / "link"), str(out / "filtered" / f"c.{suffix}")], out) == wanted
    with pytest.raises(ValueError, match="all files lie in the folder of the results.*--out"):
        jobs.sources_of(kind, [str(out)], out)


def test_what_cannot_be_opened_is_a_row(command, line, tmp_path, shut, capfd):
    """And no traceback; of the references it is said."""
    mine = tmp_path / "mine"
    for name in ("a.png", "closed/b.png", "listed/c.png"):
        picture(mine / name, "pink")
    picture(tmp_path / "known" / "theirs" / "original.png", "pink")
    for folder in (mine / "closed", mine / "listed", tmp_path / "known" / "theirs"):
        shut(folder, names=folder.name == "listed")
    assert command.main(line(mine)) == command.FAILED
    rows = {r["name"]: r.get("error", "") for r in rows_of(tmp_path / "out")}
    assert rows.keys() == {"a.png", "closed", "listed/c.png"} and not rows["a.png"]
    assert "'closed' cannot be opened" in rows["closed"] and "Permission denied" in rows["listed/c.png"]
    assert "left out of the references: 'theirs': a folder that cannot be opened" in capfd.readouterr().err
    assert command.main(line(mine / "closed" / "b.png", out="other")) == command.WRONG


def test_what_is_no_file_is_a_row(command, line, tmp_path):
    """A link to nothing, as a moved model leaves it; a pipe, which would be waited for."""
    mine = tmp_path / "mine"
    picture(mine / "a.png", "pink")
    (mine / "gone.png").symlink_to(tmp_path / "moved.png")
    os.mkfifo(mine / "pipe.png")
    assert command.main(line(mine)) == command.FAILED
    rows = {r["name"]: r.get("error", "") for r in rows_of(tmp_path / "out")}
    assert rows.keys() == {"a.png", "gone.png", "pipe.png"} and not rows["a.png"]
    assert "'gone.png' is a link to nothing" in rows["gone.png"] and "no file" in rows["pipe.png"]
    picture(tmp_path / "moved.png", "brown")
    assert command.main(line(mine)) == command.FAILED, "the pipe is none still"
    assert any(r["name"] == "gone.png" and "error" not in r for r in rows_of(tmp_path / "out"))


@pytest.mark.parametrize(("error", "tried_again"), [(OSError(116, "Stale file handle"), True), (OSError("image file is truncated"), False)])
def test_what_the_system_did_not_give_is_tried_again(command, line, tmp_path, monkeypatch, error, tried_again):
    picture(tmp_path / "mine" / "a.png", "pink")
    pictures = importlib.import_module("unmemorize_pack.host.copies.pictures")
    real = pictures._upright

    def upright(image):
        if "mine" in str(image.filename):
            raise error
        return real(image)

    monkeypatch.setattr(pictures, "_upright", upright)
    assert command.main(line(tmp_path / "mine")) == command.FAILED
    (row,) = rows_of(tmp_path / "out")
    assert row.get("again", False) is tried_again and "cannot be read as a picture" in row["error"]


def test_links_to_folders_are_said(command, jobs, tmp_path, capfd):
    """Collections are often spread over several disks; what is looked at anyway is not missing."""
    command._speak()
    mine, elsewhere = tmp_path / "mine", tmp_path / "other disk"
    picture(elsewhere / "b.png", "pink")
    mine.mkdir()
    (mine / "more").symlink_to(elsewhere)
    with pytest.raises(ValueError, match="Nothing to do"):
        jobs.sources_of("copies", [str(mine)], tmp_path / "out")
    assert "links to folders are not followed" in (said := capfd.readouterr().err) and "more'" in said
    (mine / "again").symlink_to(mine)
    assert jobs.sources_of("copies", [str(mine), str(elsewhere)], tmp_path / "out") == [str(elsewhere / "b.png")]
    assert "not followed" not in capfd.readouterr().err


def test_a_file_is_read_once_for_all_bases(jobs, tmp_path, monkeypatch):
    (tmp_path / "a.safetensors").write_bytes(b"x")
    read, content = [], jobs.content_hash
    monkeypatch.setattr(jobs, "content_hash", lambda path: read.append(path) or content(path))
    monkeypatch.setattr(jobs, "content_of_base", lambda name: name)
    assert len(jobs.units_of("filter", [str(tmp_path / "a.safetensors")], ["one", "two"], {})) == 2 and len(read) == 1


def test_a_second_run_into_a_folder_of_the_sources_finds_nothing_new(command, line, tmp_path):
    picture(tmp_path / "mine" / "a.png", "pink")
    assert command.main(line(tmp_path / "mine", out="mine/out")) == command.GOOD
    picture(tmp_path / "mine" / "out" / "of-another-program.png", "brown")
    assert command.main(line(tmp_path / "mine", out="mine/out")) == command.GOOD
    assert [r["name"] for r in rows_of(tmp_path / "mine" / "out")] == ["a.png"]


def test_files_of_one_name_in_several_folders_can_be_told_apart(command, line, tmp_path):
    mine = tmp_path / "mine"
    for name, colour in (("run1/0.png", "pink"), ("run2/0.png", "brown"), ("run3/deep/0.png", "pink"), ("run3/1.png", "pink")):
        picture(mine / name, colour)
    assert command.main(line(mine)) == command.GOOD
    rows = {r["name"]: r.get("also", []) for r in rows_of(tmp_path / "out")}
    assert rows == {"run1/0.png": ["run3/1.png", "run3/deep/0.png"], "run2/0.png": []}, "every file is a row, or named in one"
    assert command.main(["merge", "--out", str(tmp_path / "out")]) == command.GOOD
    with (tmp_path / "out" / "table.csv").open() as file:
        assert {r["name"]: r["also"] for r in csv.DictReader(file)}["run1/0.png"] == '["run3/1.png", "run3/deep/0.png"]'
    assert command.main(line(mine / "run1", mine / "run2", out="two")) == command.GOOD
    assert {r["name"] for r in rows_of(tmp_path / "two")} == {"run1/0.png", "run2/0.png"}
    assert command.main(line(mine / "run1" / "0.png", out="one")) == command.GOOD
    assert [r["name"] for r in rows_of(tmp_path / "one")] == ["0.png"]


def test_a_twin_that_came_later_is_named_too(command, line, tmp_path, jobs, monkeypatch):
    mine = tmp_path / "mine"
    picture(mine / "a.png", "pink")
    command.main(line(mine))
    (before,) = rows_of(tmp_path / "out")
    shutil.copyfile(mine / "a.png", mine / "b.png")
    monkeypatch.setattr(jobs.Tools, "row", lambda *_: pytest.fail("done again"))
    for _ in range(2):
        assert command.main([*line(mine), "--shard", "1/1"]) == command.GOOD
        assert rows_of(tmp_path / "out") == [before | {"also": ["b.png"]}]
    assert len((tmp_path / "out" / "rows.jsonl").read_text().splitlines()) == 2, "once"


def test_an_answer_wins_over_attempts_whatever_their_files_are_called(tmp_path):
    def written(name, **more):
        (tmp_path / name).write_text(json.dumps({"id": "1", "name": "a"} | more) + "\n")

    written("rows-1-of-2.jsonl", verdict="copy")
    written("rows.jsonl", error="the disk was full", again=True)
    assert rows_of(tmp_path) == [{"id": "1", "name": "a", "verdict": "copy"}]
    written("rows.jsonl", error="the disk was full", again=True, also=["b", "c"])
    assert "error" not in rows_of(tmp_path)[0]
    written("rows-1-of-2.jsonl", error="earlier", again=True)
    written("rows.jsonl", error="later", again=True)
    assert rows_of(tmp_path)[0]["error"] == "later"


def test_links_keep_their_names(command, arguments, line, tmp_path):
    """As Hugging Face's cache has them: what they lead to has no suffix."""
    blob, link = tmp_path / "blobs" / "0a1b2c", tmp_path / "snapshots" / "model.safetensors"
    blob.parent.mkdir()
    blob.write_bytes(b"x")
    link.parent.mkdir()
    link.symlink_to(blob)
    more = ["--out", str(tmp_path / "out"), "--references", str(tmp_path / "known"), "--detector", str(link), "--profile", str(link)]
    o = arguments.parser().parse_args(["audit", str(link), "--base", str(link), "--parent", str(link), *more])
    arguments.whole_paths(o)
    assert [*o.sources, *o.base, o.parent, o.profile, str(o.detector)] == [str(link)] * 5

    picture(tmp_path / "pink.png", "pink")
    (tmp_path / "pink.png").rename(tmp_path / "blobs" / "3d4e5f")
    (tmp_path / "snapshots" / "a.png").symlink_to(tmp_path / "blobs" / "3d4e5f")
    assert command.main(line(tmp_path / "snapshots" / "a.png")) == command.GOOD
    assert [r["name"] for r in rows_of(tmp_path / "out")] == ["a.png"]


def test_paths_of_other_folders_become_whole(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.safetensors").write_bytes(b"x")
    o = arguments.parser().parse_args(["filter", "loras", "--base", "base.safetensors", "--base", "demo", "--out", "out"])
    arguments.whole_paths(o)
    assert o.sources == [str(tmp_path / "loras")] and o.base == [str(tmp_path / "base.safetensors"), "demo"] and o.out == tmp_path / "out"
