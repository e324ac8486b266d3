"""Files of ours: read whole, written atomically, never over another one."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).resolve().parents[2]
"""The pack's own folder."""
SUFFIX = ".safetensors"
PASSING = (".writing-", ".tmp")
"""What the names of files that are not complete yet begin and end with."""
LEFT_BEHIND = 24 * 3600.0
"""Seconds after which such a file belongs to nobody."""


class Unwritten(ValueError):
    """Nothing was written, for want of room or of rights: the fault of what was to be written it is not."""


def replace(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a file to a given path in the place of what is there: the pack's own files, made anew with their lab; caches."""
    with written(path.parent, tensors, metadata) as temporary:
        os.replace(temporary, path)


def replace_text(path: Path, text: str) -> None:
    """The same of a text file: a run that is killed meanwhile leaves the old one."""
    with _complete(path.parent, lambda place: place.write_text(text, encoding="utf-8", errors="backslashreplace")) as temporary:
        os.replace(temporary, path)


def replace_bytes(path: Path, content: bytes) -> None:
    """The same of any file."""
    with _complete(path.parent, lambda place: place.write_bytes(content)) as temporary:
        os.replace(temporary, path)


def written(folder: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> contextlib.AbstractContextManager[Path]:
    """A complete safetensors file (see `_complete`)."""
    return _complete(folder, lambda place: save_file({k: v.contiguous() for k, v in tensors.items()}, place, metadata=metadata))


@contextlib.contextmanager
def _complete(folder: Path, write: Callable[[Path], Any]) -> Iterator[Path]:
    """A complete file on the disk under a passing name, in its folder; gone afterwards unless it was given a name.

    It may be read by whom the user's umask lets read. Unwritten, in plain words, if the disk is full, or nothing may be written there.
    """
    temporary = folder / f"{PASSING[0]}{uuid.uuid4().hex}{PASSING[1]}"
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _clear(folder)
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            allowed = temporary.stat().st_mode  # the library may write under a name of its own, for the user alone
            write(temporary)
            os.chmod(temporary, allowed)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        except (OSError, SafetensorError, UnicodeEncodeError) as error:
            raise Unwritten(
                f"Nothing was saved: the file could not be written ({reason(error)}). Check the disk's free space and the folder's rights, "
                "or choose another name."
            ) from error
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    """Remove what runs that were killed left behind a day ago or earlier."""
    for path in folder.glob(f"{PASSING[0]}*{PASSING[1]}"):
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > LEFT_BEHIND:
                path.unlink()


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
        except OSError as error:  # a file system without hard links, or one that takes no such name
            if os.path.lexists(path):
                number += 1
                continue
            try:
                os.replace(temporary, path)
            except OSError:
                raise ValueError(f"Nothing was saved: {path.name!r} cannot be a file's name here ({reason(error)}).") from error
            return path


def beneath(folder: Path) -> tuple[list[Path], list[Path]]:
    """Everything in a folder and in those inside it, in order, and which of these folders cannot be opened: what lies there is nobody's to
    see, and is to be said. Links to folders are not followed."""
    found: list[Path] = []
    closed: list[Path] = []
    for at, folders, names in os.walk(folder, onerror=lambda error: closed.append(Path(error.filename))):
        found += [Path(at, name) for name in (*folders, *names)]
    return sorted(found), sorted(closed)


def is_closed(path: Path) -> bool:
    """May nobody here look at it? A link into a folder of somebody else's; a file of a folder whose names alone may be read."""
    try:
        path.stat()
    except OSError as error:  # a link to nothing or in a circle is none of these
        return isinstance(error, PermissionError)
    return False


def read(path: Path, noun: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file; ValueError, in which `noun` says what was expected, if it is damaged."""
    with _opened(path, noun) as file:
        return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118 (safe_open is no dict)


def metadata(path: Path, noun: str) -> dict[str, str]:
    """The metadata alone."""
    with _opened(path, noun) as file:
        return file.metadata() or {}


def mapped(path: Path, noun: str) -> Any:
    """A file whose tensors are read one by one, mapped into memory while somebody holds it (`keys`, `get_tensor`, `metadata`)."""
    with _readable(path, noun):
        return safe_open(path, framework="pt")


@contextlib.contextmanager
def _opened(path: Path, noun: str) -> Iterator[Any]:
    with _readable(path, noun), safe_open(path, framework="pt") as file:
        yield file


@contextlib.contextmanager
def _readable(path: Path, noun: str) -> Iterator[None]:
    """ValueError in plain words for whatever goes wrong inside."""
    try:
        if not path.is_file():
            raise OSError(0, "it is no file, or a link to nothing")  # a pipe would be waited for without end
        yield
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        said = reason(error).replace(f"{path.parent}/", "")
        raise ValueError(f"{path.name!r} cannot be read as a {noun}: {said}. Get it anew, or choose another file.") from error


def reason(error: Exception) -> str:
    """Why, as a message may say it: no folder of the user's, nothing that cannot be printed, not too long."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return ascii(said)[1:-1][:200] if not said.isprintable() else said[:200]
