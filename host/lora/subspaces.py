"""Principal subspaces of base layers, kept in ComfyUI's user folder: the next LoRA of the same base is filtered in seconds.

A file is named by what it is computed from (slices of the weight's content, spread over all of it, and E), and two writers write the same
bytes. A weight whose subspace is known is not read as a whole.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from ...unmemorize.lora.subspace import Subspace, principal_subspace
from ..core import files, store
from .linalg import fast_dtype, linalg_device

FOLDER, KIND = "subspaces", "base subspace"
VERSION = 3
"""Of the rule that chooses a subspace."""
WORTH_KEEPING = 256
"""Layers with a smaller side are decomposed faster than they are read."""
CAP = 4 * 2**30
"""Bytes kept; the longest unused files go first."""


class Subspaces:
    """Base subspaces of one job; `cached` counts those that were read instead of computed."""

    def __init__(self, energy: float) -> None:
        self.energy = energy
        self.cached = 0
        self.written = 0
        self._folder = store.user_folder(FOLDER)
        self._device = linalg_device()
        self._fast = fast_dtype(self._device)

    def of(self, size: tuple[int, int], name: str, read: Callable[[], Tensor]) -> Subspace | None:
        """The subspace of a weight [m, n] of this size, under whose name it is kept; None where it is undefined.

        What is kept is in bfloat16, read or just computed: both ways give the same bytes, and a share q is right to 1e-4 (a random
        direction's varies by 1e-2). Where bfloat16 is slow the same values come as float32.
        """
        if min(size) < WORTH_KEEPING:
            return self._computed(read())
        path = self._folder / f"{name}-{VERSION}-{self.energy:g}{files.SUFFIX}"
        found = _read(path)
        if found is not None:
            self.cached += 1
            return self._in_fast_type(found)
        found = self._computed(read())
        if found is not None:
            found = Subspace(found.u.bfloat16(), found.v.bfloat16(), found.flat)
            with contextlib.suppress(OSError):  # a full or read-only disk costs time, not the result
                facts = {"kind": KIND, "flat": found.flat}
                files.replace(path, {"u": found.u.cpu(), "v": found.v.cpu()}, store.facts_as_metadata(facts))
                self.written += 1
        return None if found is None else self._in_fast_type(found)

    def _computed(self, weight: Tensor) -> Subspace | None:
        return principal_subspace(weight, self.energy, self._fast)

    def _in_fast_type(self, found: Subspace) -> Subspace:
        return Subspace(found.u.to(self._device, self._fast), found.v.to(self._device, self._fast), found.flat)

    def tidy(self) -> None:
        """Keep the folder below its cap; call once at the end of a job."""
        if self.written:
            _evict(self._folder, CAP)


def _read(path: Path) -> Subspace | None:
    """None if there is no such file, or if it is damaged: it is then computed and written anew."""
    if not path.is_file():
        return None
    try:
        tensors, facts = store.read(path, KIND)
        found = Subspace(tensors["u"], tensors["v"], bool(facts["flat"]))
        os.utime(path)
    except (ValueError, KeyError, OSError):
        return None
    return found


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
