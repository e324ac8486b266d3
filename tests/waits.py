"""Counts what would wait for a device, on a CPU that has none: answers that the processor asks for, and copies to it."""

from __future__ import annotations

from typing import Any

import torch
from unmemorize_pack.benchmarks.parts.meter import Counter

COPIES = ("cpu", "tolist", "numpy")


class Waits(Counter):
    """Inside, every question whose answer would lie on the device counts, and so do operations and their largest result."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[str, Any] = {}

    def __enter__(self) -> Waits:
        for name in COPIES:
            self._kept[name] = getattr(torch.Tensor, name)
            setattr(torch.Tensor, name, self._counting(self._kept[name]))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for name, method in self._kept.items():
            setattr(torch.Tensor, name, method)
        super().__exit__(*error)

    def _counting(self, method: Any) -> Any:
        def call(tensor: torch.Tensor, *arguments: Any, **more: Any) -> Any:
            self.waits += 1
            return method(tensor, *arguments, **more)

        return call
