"""Counts what would wait for a device, on a CPU that has none: answers that the processor asks for, and copies to it."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ASKS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero")
COPIES = ("cpu", "tolist", "numpy")


class Waits(TorchDispatchMode):
    """Inside, every question whose answer lies on the device counts, and so do operations and their largest result."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = self.operations = self.largest = 0
        self._kept: dict[str, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.waits += func._schema.name in ASKS
        found = func(*args, **(kwargs or {}))
        if not any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns):
            self.operations += 1
            if isinstance(found, torch.Tensor) and func._schema.name[-1] != "_":
                self.largest = max(self.largest, found.numel())
        return found

    def __enter__(self) -> Waits:
        for name in COPIES:
            self._kept[name] = getattr(torch.Tensor, name)
            setattr(torch.Tensor, name, self._counting(self._kept[name]))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        for name, method in self._kept.items():
            setattr(torch.Tensor, name, method)
        super().__exit__(*error)

    def _counting(self, method: Any) -> Any:
        def call(tensor: torch.Tensor, *arguments: Any, **more: Any) -> Any:
            self.waits += 1
            return method(tensor, *arguments, **more)

        return call
