"""Safetensors files: read whole, written atomically, never over another one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).resolve().parents[2]
"""The pack's own folder."""
SUFFIX = ".safetensors"


def replace(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a file to a given path in the place of what is there: the pack's own files, made anew with their lab; caches."""
    with written(path.parent, tensors, metadata) as temporary:
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


def read(path: Path, noun: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file; ValueError, in which `noun` says what was expected, if it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118 (safe_open is no dict)
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{path.name!r} cannot be read as a {noun}: {reason(error)}. Get it anew, or choose another file.") from error


def reason(error: Exception) -> str:
    """Why, as a message may say it: no folder of the user's, nothing that cannot be printed, not too long."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return ascii(said)[1:-1][:200] if not said.isprintable() else said[:200]
