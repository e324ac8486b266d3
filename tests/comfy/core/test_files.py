"""Writing and reading: rights, what killed runs left, full disks, names, things that are no files."""

from __future__ import annotations

import errno
import importlib
import os
import stat
import time
from pathlib import Path

import pytest
import torch

TENSORS = {"x": torch.arange(3.0)}


@pytest.fixture
def files(comfy):
    return importlib.import_module("unmemorize_pack.host.core.files")


def save(files, folder: Path, name: str = "some") -> Path:
    with files.written(folder, TENSORS, {}) as temporary:
        return files.link(temporary, folder, name)


def test_what_nobody_may_look_at_is_told_apart(files, tmp_path, shut):
    for name in ("closed", "listed", "open"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "a").write_text("x")
    shut(tmp_path / "closed")
    shut(tmp_path / "listed", names=True)
    (tmp_path / "link").symlink_to(tmp_path / "open")
    (tmp_path / "dead").symlink_to(tmp_path / "nothing")
    found, closed = files.beneath(tmp_path)
    names = [p.relative_to(tmp_path).as_posix() for p in found]
    assert names == ["closed", "dead", "link", "listed", "listed/a", "listed/inner", "open", "open/a", "open/inner"]
    assert closed == [tmp_path / "closed", tmp_path / "listed" / "inner"]
    assert [p.name for p in found if files.is_closed(p)] == ["a", "inner"], "those in the folder that is listed"
    assert files.beneath(tmp_path / "nothing") == ([], [tmp_path / "nothing"])


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_file_may_be_read_by_whom_the_umask_lets(files, tmp_path, mask):
    before = os.umask(mask)
    try:
        path = save(files, tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_what_a_killed_run_left_goes_after_a_day_and_not_before(files, tmp_path):
    old, young, other = (tmp_path / n for n in (".writing-a.tmp", ".writing-b.tmp", "writing-c.tmp"))
    for path in (old, young, other):
        path.write_bytes(b"x")
    for path in (old, other):
        os.utime(path, (time.time() - 2 * files.LEFT_BEHIND,) * 2)
    save(files, tmp_path)
    assert not old.exists() and young.exists() and other.exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_disk_that_takes_nothing_is_a_plain_error_without_the_users_folder(files, tmp_path, monkeypatch, code):
    def fails(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(tmp_path))

    monkeypatch.setattr(files, "save_file", fails)
    with pytest.raises(ValueError, match=f"Nothing was saved.*{os.strerror(code)}") as told:
        save(files, tmp_path)
    assert str(tmp_path) not in str(told.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file(files, tmp_path):
    (tmp_path / "taken").write_bytes(b"x")
    with pytest.raises(ValueError, match="Nothing was saved"):
        save(files, tmp_path / "taken" / "inner")


def test_a_name_that_the_file_system_refuses(files, tmp_path):
    with pytest.raises(ValueError, match="Nothing was saved"):
        save(files, tmp_path, "x" * 300)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "link to nothing", "empty", "text"])
def test_what_is_no_file_is_said_at_once(files, tmp_path, kind):
    path = tmp_path / "odd\udce4.safetensors"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to nothing":
        path.symlink_to(tmp_path / "nothing")
    elif kind != "missing":
        path.write_bytes(b"" if kind == "empty" else b"x" * 100)
    with pytest.raises(ValueError, match="cannot be read as a thing") as told:
        files.read(path, "thing")
    str(told.value).encode()
    assert str(tmp_path) not in str(told.value)
    with pytest.raises(ValueError, match="cannot be read as a thing"):
        files.metadata(path, "thing")
