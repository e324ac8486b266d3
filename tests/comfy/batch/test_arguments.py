"""What may be asked for: what is refused before a folder is touched, and what the help says."""

from __future__ import annotations

import importlib
import re

import pytest
from PIL import Image


@pytest.mark.parametrize(
    "line",
    [["audit", "--seeds", "1"], ["audit", "--neighbours", "-1"], ["probe", "--pictures", "4"], ["probe", "--steps", "0"],
     ["audit", "--seed", "-1"], ["probe", "--seed", str(2**64)], ["audit", "--width", "70"], ["probe", "--height", "15"],
     ["audit", "--profile", "BROKEN"], ["audit", "--references", "REFERENCES", "--detector", "BROKEN"],
     ["audit", "--references", "REFERENCES", "--detector", "nothing.pt"]],
)  # fmt: skip
def test_settings_that_no_unit_can_have_are_refused_before_the_folder_is_theirs(command, tmp_path, line):
    (tmp_path / "list.txt").write_text("a red ring")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "picture.png")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    stand_for = {"REFERENCES": str(tmp_path), "BROKEN": str(tmp_path / "broken.safetensors")}
    more = [stand_for.get(part, part) for part in line[1:]]
    source = str(tmp_path / ("list.txt" if line[0] == "audit" else "broken.safetensors"))
    assert command.main([line[0], source, "--base", "demo", "--out", str(tmp_path / "out"), *more]) == command.WRONG
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/0", "\u00b2/3"])
def test_a_shard_that_is_none_is_refused(command, tmp_path, capfd, shard):
    with pytest.raises(SystemExit) as stopped:
        command.main(["filter", "loras", "--base", "demo", "--out", str(tmp_path), "--shard", shard])
    assert stopped.value.code == command.WRONG and "is no part of a whole" in capfd.readouterr().err


@pytest.mark.parametrize("line", [["", "--out", "out"], ["pictures", "--out", ""], ["pictures", "--out", "out", "--references", ""]])
def test_an_unset_variable_of_a_shell_is_no_folder(command, tmp_path, monkeypatch, capfd, line):
    """It would stand for the folder where the command was given."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        command.main(["copies", "--references", "known", *line])
    assert stopped.value.code == command.WRONG and "empty" in capfd.readouterr().err and not list(tmp_path.iterdir())


def test_rows_cannot_lie_in_a_file(command, tmp_path, capfd):
    (tmp_path / "out").write_text("mine")
    assert command.main(["filter", str(tmp_path), "--base", "demo", "--out", str(tmp_path / "out")]) == command.WRONG
    assert "is no folder" in capfd.readouterr().err and (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("kind", ["filter", "probe", "audit", "copies", "merge"])
def test_the_help_says_what_every_option_is(comfy, kind):
    """And what stands where it is left out."""
    parser = importlib.import_module("unmemorize_pack.batch.arguments").parser()
    (kinds,) = [action for action in parser._actions if action.choices]
    options = kinds.choices[kind]._actions
    assert [option.dest for option in options if not option.help] == []
    numbers = [option for option in options if option.default not in (None, [], "==SUPPRESS==", 0)]
    assert [option.dest for option in numbers if "%(default)s" not in option.help] == []
    text = re.sub(r"\s+", " ", kinds.choices[kind].format_help())
    assert all(f"({option.default})" in text for option in numbers)


def test_a_copy_limit_of_0_only_notes_likenesses_as_the_nodes_does(command, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "picture.png")
    line = ["audit", "list.txt", "--base", "demo", "--out", "out", "--references", str(tmp_path)]
    parser = importlib.import_module("unmemorize_pack.batch.arguments").parser()
    limits = [command.settings_of(parser.parse_args([*line, *more]))["copy_limit"] for more in ([], ["--copy-limit", "0"])]
    assert limits == [None, None], "anything is as like as 0"
