"""Stores: the files of one kind, under the names that a list shows. One mechanism for profiles, masks, map thresholds and LoRAs.

A name is never trusted as a path: only what the list holds is read. Nothing is overwritten: a name that is taken gets a number.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from torch import Tensor

from . import facts, files
from .facts import shortened
from .files import SUFFIX

BUNDLED = "demo/"
"""What the names of the pack's own files begin with."""
METADATA = "unmemorize"
LONGEST_NAME = 200
"""Bytes."""
FORBIDDEN = r"[\\/:*?\"<>|\x00-\x1f]"
FILE_NAME = FORBIDDEN.replace("[", "[^") + "+"

log = logging.getLogger("unmemorize")


@dataclass(frozen=True)
class Store:
    """Where the files of a kind are, and what they are called."""

    noun: str
    """In messages, and in the metadata of our own kinds: "stability profile"."""
    bundled: Path
    """The pack's own files."""
    home: Callable[[], Path]
    """The folder that new files go to."""
    own: Callable[[], list[str]]
    """Names of the user's files."""
    path_of: Callable[[str], Path]
    """The way to one of them."""
    shown_suffix: str = ""
    """What the names of the user's files end with in the list."""


def user_store(noun: str, folder: str) -> Store:
    """Files of ours: in `unmemorize/<folder>` of ComfyUI's user folder, and in the demo's folder of that name."""

    def home() -> Path:
        return user_folder(folder)

    def own() -> list[str]:
        found, _ = files.beneath(home())
        return sorted(p.relative_to(home()).with_suffix("").as_posix() for p in found if p.match(f"*{SUFFIX}"))

    return Store(noun, files.HERE / "demo" / "lab" / folder, home, own, lambda name: home() / f"{name}{SUFFIX}")


def of_comfyui(kind: str) -> list[str]:
    """ComfyUI's own list of a kind of models. It fails over a single folder that may not be looked into, which must not keep our nodes from
    being there: then it is empty, and that is said."""
    try:
        return folder_paths.get_filename_list(kind)
    except OSError as error:
        log.warning("ComfyUI cannot list its %s: %r cannot be opened (%s). Change its rights.", kind, error.filename, error.strerror)
        return []


def user_folder(folder: str) -> Path:
    """`unmemorize/<folder>` in ComfyUI's user folder."""
    return Path(folder_paths.get_user_directory()) / "unmemorize" / folder


def names(store: Store) -> list[str]:
    """Every file of a store, the user's first, then the bundled ones as demo/name."""
    return [*store.own(), *bundled(store)]


def bundled(store: Store) -> dict[str, Path]:
    """What ships with the pack, under its names in the list."""
    return {BUNDLED + p.stem: p for p in sorted(store.bundled.glob(f"*{SUFFIX}"))} if store.bundled.is_dir() else {}


def paths(store: Store) -> dict[str, Path]:
    """All of them, and where they lie; for many at once."""
    return {name: store.path_of(name) for name in store.own()} | bundled(store)


def find(store: Store, name: str) -> Path:
    """The file behind a name of the list; ValueError if it is none of it."""
    if name in store.own():
        return store.path_of(name)
    shipped = bundled(store)
    if name in shipped:
        return shipped[name]
    raise ValueError(f"There is no {store.noun} {name!r} in the list (of {SUFFIX} files). Press R to refresh it, or choose another.")


def stamp(store: Store, name: str) -> str:
    """Changes when the file behind a name of the list does, whatever it says of itself; "missing" if there is none."""
    path = find(store, name) if name in names(store) else None
    return str(path.stat().st_mtime_ns) if path is not None and os.path.isfile(path) else "missing"


def parts_of(name: str) -> list[str]:
    """A name to save under, folder by folder: without spaces around any of them, and without a suffix."""
    return [part.strip() for part in name.strip().removesuffix(SUFFIX).split("/")]


def target_of(store: Store, name: str) -> tuple[Path, str]:
    """Folder and stem for a name to save under; ValueError if it is no file name, or leads outside of the store."""
    *parents, stem = parts = parts_of(name)
    # a list without suffixes shows the pack's own files under names of this beginning
    reserved = not store.shown_suffix and len(parts) > 1 and f"{parts[0]}/" == BUNDLED
    if reserved or not all(re.fullmatch(FILE_NAME, p) and p.strip(". ") and _short(p) for p in parts):
        raise ValueError(
            f"{shortened(name)} cannot be a file name here. Use at most {LONGEST_NAME} letters, digits, - and _; a / makes a folder"
            + (f"; {BUNDLED} is the pack's own." if not store.shown_suffix else ".")
        )
    folder = store.home().joinpath(*parents)
    if not folder.resolve().is_relative_to(store.home().resolve()):
        raise ValueError(f"{name!r} leads outside of the folder of this kind of files.")
    return folder, stem


def possible_name(stem: str) -> str:
    """The nearest stem that a file may be saved under: what no name may hold becomes _, what is too long is cut."""
    name = re.sub(FORBIDDEN, "_", stem.encode(errors="replace").decode()).strip().rstrip(".") or "_"
    while not _short(name):
        name = name[:-1].rstrip(" .")
    return name


def _short(part: str) -> bool:
    """Room is left for a number and the suffix in the 255 bytes that most file systems give a name; no halves of characters."""
    try:
        return len(part.encode()) <= LONGEST_NAME
    except UnicodeEncodeError:
        return False


def save(store: Store, name: str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """Write a file and return the name it got. ValueError on a bad name."""
    folder, stem = target_of(store, name)
    with files.written(folder, tensors, metadata) as temporary:
        path = files.link(temporary, folder, stem)
    found = path.relative_to(store.home()).with_suffix(store.shown_suffix)
    return str(found) if store.shown_suffix else found.as_posix()  # as the store's own list writes it: ComfyUI's by the system's habit


# --- our own kinds, whose metadata are facts in JSON -----------------------------------------------------------


def facts_as_metadata(found: dict[str, Any]) -> dict[str, str]:
    """Facts, JSON-able, with `kind` among them."""
    return {METADATA: json.dumps(found)}


def read(path: Path, noun: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a file of ours; ValueError if it is not what the noun says, or is damaged."""
    tensors, metadata = files.read(path, noun)
    return tensors, facts_of(path, metadata, noun)


def facts_of(path: Path, metadata: dict[str, str], noun: str) -> dict[str, Any]:
    """What a file's metadata say; ValueError if it is not what the noun says."""
    found = facts.parsed(path.name, metadata.get(METADATA, "null"))
    if not isinstance(found, dict) or found.get("kind") != noun:
        raise ValueError(f"{path.name!r} is not a {noun} of Unmemorize. Choose a file that the matching Save node wrote.")
    return found
