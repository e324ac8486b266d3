"""What work costs on a device: time, peak of memory, kernels launched, waits of the processor for the device."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::equal", "aten::is_nonzero")
"""Operations whose answer the processor has to wait for; choosing by a mask is one, too."""
SEVERAL_VIEWS = ("aten::unbind", "aten::split", "aten::split_with_sizes", "aten::chunk")
"""Give views, though their schema does not say so."""


@dataclass(frozen=True)
class Counts:
    """Of some work."""

    launches: int
    """Operations that compute or copy; views cost nothing on a device."""
    waits: int


class Meter:
    """Measures on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_gpu = device.type == "cuda"

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any]) -> float:
        """By the clock, the device's work included."""
        self.wait()
        begun = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - begun

    def fastest(self, work: Callable[[], Any], rounds: int) -> float:
        """Of some rounds."""
        return min(self.seconds(work) for _ in range(rounds))

    def peak(self, work: Callable[[], Any]) -> int:
        """Largest sum of bytes that it held at once, above what was there."""
        if not self.is_gpu:
            return peak_bytes(work)
        self.wait()
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        self.wait()
        return torch.cuda.max_memory_allocated(self.device) - before

    def counts(self, work: Callable[[], Any]) -> Counts:
        """Operations by PyTorch's own dispatcher; waits as CUDA reports them, on a CPU those that would wait for a device."""
        counter = Counter()
        with self._reported_waits() as reported, counter:
            work()
        return Counts(counter.launches, len(reported) if self.is_gpu else counter.waits)

    @contextlib.contextmanager
    def _reported_waits(self) -> Iterator[list[Any]]:
        """CUDA's warnings of every operation that waits."""
        if not self.is_gpu:
            yield []
            return
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                found: list[Any] = []
                yield found
                found += [w for w in caught if "synchronizing" in str(w.message)]
        finally:
            torch.cuda.set_sync_debug_mode("default")


class Counter(TorchDispatchMode):
    """Inside, what goes through PyTorch's dispatcher is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.waits = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found, schema = func(*args, **(kwargs or {})), func._schema
        by_mask = schema.name == "aten::index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        self.waits += schema.name in WAITING or by_mask
        aliases = [r.alias_info for r in schema.returns if r.alias_info is not None]
        is_view = schema.name in SEVERAL_VIEWS or any(not alias.is_write for alias in aliases)
        if isinstance(found, torch.Tensor | tuple | list) and not is_view:
            self.launches += 1
            if isinstance(found, torch.Tensor) and not aliases:
                self.largest = max(self.largest, found.numel())
        return found


def peak_bytes(work: Callable[[], Any]) -> int:
    """Largest sum of bytes that work held at once, as the CPU's allocator counted it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    kineto: Any = profile.profiler
    changes = [e for e in kineto.kineto_results.events() if e.name() == "[memory]"]
    live = highest = 0
    for event in sorted(changes, key=lambda e: e.start_ns()):
        live += event.nbytes()
        highest = max(highest, live)
    return highest
