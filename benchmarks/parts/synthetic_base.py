"""A base model of SDXL's shapes on the disk, and LoRAs of it half of whose channels are aligned, half random: for speed only.

One transformer block of width 640 and six of width 1280: a tenth of SDXL's 70, in its proportion.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ...unmemorize.lora.subspace import kept_rank

WIDTHS = (640, *[1280] * 6)
CONTEXT = 2048
DECAY = 0.35
"""Singular values i^-DECAY."""
RANK = 32


def shapes(width: int) -> dict[str, tuple[int, int]]:
    """Linear layers of one of SDXL's transformer blocks, [out, in]."""
    square = {f"attn{i}.{p}": (width, width) for i in (1, 2) for p in ("to_q", "to_out.0")}
    square |= {f"attn1.{p}": (width, width) for p in ("to_k", "to_v")}
    cross = {f"attn2.{p}": (width, CONTEXT) for p in ("to_k", "to_v")}
    return square | cross | {"ff.net.0.proj": (8 * width, width), "ff.net.2": (width, 4 * width)}


@dataclass
class Base:
    """A MODEL as far as the filter asks: key names, and weights that lie on the disk until they are read."""

    weights: dict[str, Tensor]
    """Memory-mapped, float16."""
    left: dict[str, Tensor]
    """Principal directions of each layer, as made, [out, k]."""
    right: dict[str, Tensor]

    @property
    def model(self) -> Any:
        """What key maps are read from, and what a model is named by."""
        config = SimpleNamespace(unet_config={})
        named = {k: torch.empty(w.shape, device="meta") for k, w in self.weights.items()}
        return SimpleNamespace(state_dict=lambda: named, model_config=config, model_type=SimpleNamespace(name="EPS"))

    @property
    def patches(self) -> dict[str, Any]:
        return {}

    def get_key_patches(self, _prefix: str | None = None) -> dict[str, list[Any]]:
        """As ModelPatcher's."""
        return {k: [(w, _unchanged)] for k, w in self.weights.items()}


def _unchanged(weight: Tensor, inplace: bool = False) -> Tensor:
    return weight


def make_base(folder: Path) -> Base:
    """Write the weights, a file each, and map them."""
    generator = torch.Generator().manual_seed(0)
    pool: dict[tuple[int, int], Tensor] = {}
    base = Base({}, {}, {})
    for number, width in enumerate(WIDTHS):
        for layer, (m, n) in shapes(width).items():
            key = f"diffusion_model.blocks.{number}.{layer}.weight"
            side = min(m, n)
            u, v = (_orthonormal(pool, size, side, generator) for size in (m, n))
            s = torch.arange(1, side + 1) ** -DECAY
            path = folder / f"{number}.{layer}"
            ((u * s) @ v.T).half().numpy().tofile(path)
            base.weights[key] = torch.from_numpy(np.memmap(path, np.float16, "c", shape=(m, n)))
            k = kept_rank(s.square(), float(s.square().sum()), side, 0.5)
            base.left[key], base.right[key] = u[:, :k].clone(), v[:, :k].clone()
    return base


def _orthonormal(pool: dict[tuple[int, int], Tensor], m: int, k: int, generator: torch.Generator) -> Tensor:
    """Random orthonormal columns [m, k]: one decomposition a size, its rows and signs shuffled each time."""
    if (m, k) not in pool:
        pool[m, k] = torch.linalg.qr(torch.randn(m, k, generator=generator)).Q
    signs = 2.0 * torch.randint(2, (k,), generator=generator) - 1
    return pool[m, k][torch.randperm(m, generator=generator)] * signs


def write_lora(base: Base, path: Path, seed: int) -> None:
    """A LoRA of all layers, kohya's keys, float16: of 32 mutually orthogonal channels 16 lie in the base's subspaces, 16 anywhere."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key in base.weights:
        u, v = (_half_aligned(basis, generator) for basis in (base.left[key], base.right[key]))
        sigma = (1.2 ** -torch.arange(RANK))[torch.randperm(RANK, generator=generator)].sqrt()
        turn = torch.linalg.qr(torch.randn(RANK, RANK, generator=generator)).Q
        name = "lora_unet_" + key.removeprefix("diffusion_model.").removesuffix(".weight").replace(".", "_")
        tensors[f"{name}.lora_up.weight"] = (u * sigma @ turn).half()
        tensors[f"{name}.lora_down.weight"] = (turn.T @ (v * sigma).T).half()
        tensors[f"{name}.alpha"] = torch.tensor(float(RANK)).half()
    save_file(tensors, path, metadata={"ss_network_dim": str(RANK), "ss_network_alpha": str(RANK)})


def _half_aligned(basis: Tensor, generator: torch.Generator) -> Tensor:
    """Orthonormal columns [m, RANK]: the first half within the basis."""
    aligned = torch.linalg.qr(basis @ torch.randn(basis.shape[1], RANK // 2, generator=generator)).Q
    free = torch.randn(len(basis), RANK - RANK // 2, generator=generator)
    return torch.cat([aligned, torch.linalg.qr(free - aligned @ (aligned.T @ free)).Q], 1)
