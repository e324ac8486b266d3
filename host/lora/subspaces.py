"""Principal subspaces of base layers, kept in ComfyUI's user folder: the next LoRA of the same base is filtered in seconds.

What a job computes goes into one file, mapped into memory by later jobs; a base model is one file, or a few, not one a layer. Within it a
subspace is named by what it is computed from (slices of the weight's content, spread over all of it), and two writers write the same
bytes. A weight whose subspace is known is not read as a whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...unmemorize.lora.subspace import Subspace, principal_subspace
from ..core import files, store
from .linalg import fast_dtype, linalg_device

FOLDER, KIND = "subspaces", "base subspaces"
VERSION = 4
"""Of the rule that chooses a subspace, and of the files."""
WORTH_KEEPING = 256
"""Layers with a smaller side are decomposed faster than they are read."""
CAP = 4 * 2**30
"""Bytes kept; the longest unused files go first."""
MOST_WAITING = 256 * 2**20
"""Bytes of new subspaces that are held before they are written."""


@dataclass(frozen=True)
class Kept:
    """A subspace as it is kept."""

    values: Tensor
    """U^T [k, m], then V^T [k, n], one behind the other, bfloat16 on the CPU: as they are multiplied fastest."""
    flat: bool

    @classmethod
    def of(cls, found: Subspace) -> Kept:
        """Rounded."""
        return cls(torch.cat([side.T.bfloat16().flatten().cpu() for side in (found.u, found.v)]), found.flat)

    def subspace(self, size: tuple[int, int], device: torch.device, dtype: torch.dtype) -> Subspace:
        """Of a weight [m, n]."""
        k = self.values.shape[0] // sum(size)
        u, v = self.values.to(device, dtype).split([k * side for side in size])
        return Subspace(u.view(k, -1).T, v.view(k, -1).T, self.flat)


class Subspaces:
    """Base subspaces of one job; `cached` counts those that were read instead of computed. Closed at its end."""

    def __init__(self, energy: float) -> None:
        self.energy = energy
        self.cached = 0
        self._folder = store.user_folder(FOLDER)
        self._ending = f"-{VERSION}-{energy:g}{files.SUFFIX}"
        self._known: dict[str, _File] | None = None
        self._new: dict[str, Kept] = {}
        self._last: tuple[str, Subspace | None] = ("", None)
        self._device = linalg_device()
        self._fast = fast_dtype(self._device)

    def of(self, size: tuple[int, int], name: str, read: Callable[[], Tensor]) -> Subspace | None:
        """The subspace of a weight that should be [m, n] of this size, under whose name it is kept; None where it is undefined.

        What is kept is in bfloat16, read or just computed: both ways give the same bytes, and a share q is right to 1e-4 (a random
        direction's varies by 1e-2). Where bfloat16 is slow the same values come as float32. A layer that is named twice in a row is
        looked up once.
        """
        if self._last[0] != name:
            self._last = (name, self._of(size, name, read))
        return self._last[1]

    def _of(self, size: tuple[int, int], name: str, read: Callable[[], Tensor]) -> Subspace | None:
        if min(size) < WORTH_KEEPING:
            return principal_subspace(read(), self.energy, self._fast)
        name = f"{name}-{size[0]}x{size[1]}"
        found = self._new.get(name) or self._read(name, size)
        if found is None:
            computed = principal_subspace(read(), self.energy, self._fast)
            if computed is None or (computed.u.shape[0], computed.v.shape[0]) != size:
                return computed
            found = self._new[name] = Kept.of(computed)
            if sum(kept.values.nbytes for kept in self._new.values()) > MOST_WAITING:
                self._write()
        return found.subspace(size, self._device, self._fast)

    def _read(self, name: str, size: tuple[int, int]) -> Kept | None:
        if self._known is None:
            self._known = {}
            for path in sorted(self._folder.glob(f"*{self._ending}")):
                self._look_into(path)
        file = self._known.get(name)
        found = None if file is None else file.read(name, size)
        self.cached += found is not None
        return found

    def _look_into(self, path: Path) -> None:
        """Note what a file holds; one that is damaged goes, its subspaces are computed and written anew."""
        try:
            file = _File(path)
        except (ValueError, KeyError, TypeError):
            with contextlib.suppress(OSError):
                path.unlink()
            return
        if self._known is not None:
            self._known |= dict.fromkeys(file.names, file)

    def _write(self) -> None:
        """What is new becomes a file; a full or read-only disk costs time, not the result."""
        names = sorted(self._new)
        if not names:
            return
        path = self._folder / (hashlib.blake2b("\n".join(names).encode(), digest_size=16).hexdigest() + self._ending)
        tensors = {name: self._new[name].values for name in names}
        facts = {"kind": KIND, "flat": [name for name in names if self._new[name].flat]}
        with contextlib.suppress(OSError, ValueError):
            files.replace(path, tensors, store.facts_as_metadata(facts))
            _evict(self._folder, CAP)
        self._new.clear()
        self._look_into(path)

    def close(self) -> None:
        """Keep what is new, and the folder below its cap."""
        self._write()
        self._known, self._last = None, ("", None)


class _File:
    """A file of subspaces, mapped into memory."""

    def __init__(self, path: Path) -> None:
        """ValueError, KeyError or TypeError if it is none, or damaged."""
        self._path = path
        self._file: Any = files.mapped(path, KIND)
        self._flat = set(store.facts_of(path, self._file.metadata() or {}, KIND)["flat"])
        self.names: list[str] = list(self._file.keys())
        self._used = False

    def read(self, name: str, size: tuple[int, int]) -> Kept | None:
        """None if it cannot be the subspace of a weight [m, n]."""
        values = self._file.get_tensor(name)
        if not self._used:
            self._used = True
            with contextlib.suppress(OSError):
                os.utime(self._path)
        numbers = values.numel() if values.ndim == 1 and values.dtype == torch.bfloat16 else 0
        return Kept(values, name in self._flat) if numbers and numbers % sum(size) == 0 else None


def _evict(folder: Path, cap: int) -> None:
    """Remove the longest unused files until the folder holds at most `cap` bytes; another process may do the same."""
    aged = []
    for path in folder.glob(f"*{files.SUFFIX}"):
        with contextlib.suppress(OSError):
            facts = path.stat()
            aged.append((facts.st_mtime, facts.st_size, path))
    total = sum(size for _, size, _ in aged)
    for _, size, path in sorted(aged):
        if total <= cap:
            break
        with contextlib.suppress(OSError):
            path.unlink()
        total -= size
