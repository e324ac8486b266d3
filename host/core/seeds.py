"""Seeds, and the noise that is drawn from them."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


def derived_seed(purpose: str, seed: int, index: int) -> int:
    """A seed of its own for each use, so that measuring never meets the noise the picture was made from."""
    digest = hashlib.sha256(f"unmemorize/{purpose}/{seed}/{index}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def later_seed(seed: int, i: int) -> int:
    """The i-th seed after a seed, within ComfyUI's range."""
    return (seed + i) % 2**64


@contextlib.contextmanager
def kept_generators(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Inside, the global generators (torch's of the CPU and of a device, Python's, NumPy's) are nobody else's: afterwards they go on where
    they were. With a seed they start from it."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [] if device.type == "cpu" else [device.index or 0]
    kind = "cuda" if device.type == "cpu" else device.type
    try:
        with torch.random.fork_rng(devices=devices, device_type=kind):
            if seed is not None:
                torch.manual_seed(seed)
                random.seed(seed)
                np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def unit_noise(samples: Tensor, seed: int) -> Tensor:
    """Gaussian noise [1, c, ...] of a seed; every sample of a batch gets the same, so a batch equals its parts."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples[:1].shape, generator=generator)
