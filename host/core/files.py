"""Files of the pack: safetensors with JSON metadata, written atomically, never over another file, never outside their folder."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folder_paths
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).resolve().parents[1]
BUNDLED = "demo/"
"""What the names of the pack's own files begin with."""
SUFFIX = ".safetensors"
METADATA = "unmemorize"
FILE_NAME = r"[^\\/:*?\"<>|\x00-\x1f]+"


def user_folder(kind: str) -> Path:
    """Where files of a kind ("profiles", "masks") are kept: `unmemorize/<kind>` in ComfyUI's user folder."""
    return Path(folder_paths.get_user_directory()) / "unmemorize" / kind


def bundled_folder(kind: str) -> Path:
    """The pack's own files of a kind."""
    return HERE / "demo" / "lab" / kind


def names(kind: str) -> list[str]:
    """Every file of a kind, the user's first, then the bundled ones as `demo/name`; without suffix."""
    user, bundled = user_folder(kind), bundled_folder(kind)
    mine = sorted(p.relative_to(user).with_suffix("").as_posix() for p in user.rglob(f"*{SUFFIX}")) if user.is_dir() else []
    ours = sorted(BUNDLED + p.stem for p in bundled.glob(f"*{SUFFIX}")) if bundled.is_dir() else []
    return mine + ours


def find(kind: str, name: str) -> Path:
    """The file behind a name; ValueError if there is none, or if the name leads outside the folder."""
    if name.startswith(BUNDLED):
        folder, name = bundled_folder(kind), name.removeprefix(BUNDLED)
    else:
        folder = user_folder(kind)
    path = (folder / f"{name}{SUFFIX}").resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{name!r} leads outside of the folder of {kind}. Choose a name from the list.")
    if not path.is_file():
        raise ValueError(f"There is no file {name!r} among the {kind} in {folder}. Press R to refresh the list, or choose another.")
    return path


def save(kind: str, name: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> str:
    """Write a file and return its name, which gets a number if it is taken. ValueError if the name is no file name."""
    folder = user_folder(kind)
    parts = name.strip().split("/")
    if name.startswith(BUNDLED) or not all(re.fullmatch(FILE_NAME, p) and p.strip(". ") for p in parts):
        raise ValueError(
            f"{name!r} cannot be a file name here. Use letters, digits, - and _; a / makes a folder; {BUNDLED} is the pack's own."
        )
    target = folder.joinpath(*parts[:-1])
    if not target.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name!r} leads outside of the folder of {kind}.")
    with written(target, tensors, {METADATA: json.dumps(facts)}) as temporary:
        return link(temporary, target, parts[-1]).relative_to(folder).with_suffix("").as_posix()


def replace(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write a file to a given path in the place of what is there: the pack's own files, made anew with their lab."""
    with written(path.parent, tensors, {METADATA: json.dumps(facts)}) as temporary:
        os.replace(temporary, path)


@contextlib.contextmanager
def written(folder: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> Iterator[Path]:
    """A complete file on the disk under a passing name, in its folder; gone afterwards unless it was given a name."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".writing-", suffix=".tmp")
    os.close(handle)
    try:
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata=metadata)
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        yield Path(temporary)
    finally:
        Path(temporary).unlink(missing_ok=True)


def link(temporary: Path, folder: Path, stem: str) -> Path:
    """Give a finished file its name; a hard link fails if the name is taken, so two writers never overwrite each other."""
    number = 0
    while True:
        path = folder / (f"{stem}{SUFFIX}" if not number else f"{stem}_{number:03d}{SUFFIX}")
        try:
            os.link(temporary, path)
            return path
        except FileExistsError:
            number += 1
        except OSError:  # a file system without hard links
            if not path.exists():
                os.replace(temporary, path)
                return path
            number += 1


def load(path: Path, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a file of ours; ValueError if it is not `what` (a word for the message) or is damaged."""
    try:
        with safe_open(path, framework="pt") as f:
            facts = json.loads((f.metadata() or {}).get(METADATA, "null"))
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name} cannot be read as a {what}: {error}. Save it anew, or choose another file.") from error
    if not isinstance(facts, dict) or facts.get("kind") != what:
        raise ValueError(f"{path.name} is not a {what} of Unmemorize. Choose a file that the matching Save node wrote.")
    return tensors, facts
