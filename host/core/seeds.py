"""Seeds, and the noise that is drawn from them."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def derived_seed(purpose: str, seed: int, index: int) -> int:
    """A seed of its own for each use, so that measuring never meets the noise the picture was made from."""
    digest = hashlib.sha256(f"unmemorize/{purpose}/{seed}/{index}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def later_seed(seed: int, i: int) -> int:
    """The i-th seed after a seed, within ComfyUI's range."""
    return (seed + i) % 2**64


def unit_noise(samples: Tensor, seed: int) -> Tensor:
    """Gaussian noise [1, c, ...] of a seed; every sample of a batch gets the same, so a batch equals its parts."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples[:1].shape, generator=generator)
