"""Is a block Lanczos of our own worth its lines? Against what PyTorch has for leading singular vectors, at the same exactness."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ..unmemorize.lora.gates import Settings
from ..unmemorize.lora.subspace import EDGE, EXACT, principal_subspace
from .parts.common import log, write
from .parts.filter_speed import seconds
from .parts.synthetic_base import Base, make_base

LAYERS = ("attn1.to_q", "attn2.to_k", "ff.net.2")
"""Square, wide, and wider; of the first block of the larger width."""
POWERS = (1, 2, 4, 8, 16, 32)
"""Iterations that are tried in turn; the fewest that are exact enough count alone, as if they had been known beforehand."""


ABOUT = {
    "svd_lowrank_over_krylov": "CPU time of torch.svd_lowrank over that of our block Lanczos, equally exact, one thread",
    "svd_lowrank_exact": "share of the layers on which it gets there with at most 32 iterations",
    "lobpcg_over_krylov": "the same for torch.lobpcg",
    "lobpcg_exact": "the same for torch.lobpcg",
}


def main() -> None:
    """`nox -s benchmark -- eigensolvers`: on layers of SDXL's shapes with a slowly falling spectrum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="eigensolvers", help="of the result file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    energy = Settings().energy
    with tempfile.TemporaryDirectory() as folder:
        metrics = against_pytorch(make_base(Path(folder)), energy)
    write(options.name, metrics, {"energy": energy, "layers": ", ".join(LAYERS), "exact": EXACT}, ABOUT)


def against_pytorch(base: Base, energy: float) -> dict[str, float]:
    """Time of each of PyTorch's solvers over ours, summed over layers; one that never gets there counts its longest."""
    solvers: dict[str, Callable[[Tensor, int, int], Tensor]] = {"svd_lowrank": _svd_lowrank, "lobpcg": _lobpcg}
    ours, spent, reached = 0.0, dict.fromkeys(solvers, 0.0), dict.fromkeys(solvers, 0)
    for layer in LAYERS:
        w = base.weights[f"diffusion_model.blocks.1.{layer}.weight"].float()
        w = w if w.shape[0] <= w.shape[1] else w.T
        found = principal_subspace(w, energy)
        assert found is not None
        ours += seconds(partial(principal_subspace, w, energy))
        for name, solve in solvers.items():
            for power in POWERS:
                took = seconds(partial(solve, w, found.k, power))
                if residual(w, solve(w, found.k, power)) < EXACT:
                    reached[name] += 1
                    break
            spent[name] += took
    log.info("leading vectors: ours %.2f s, PyTorch's %s s", ours, {k: round(v, 2) for k, v in spent.items()})
    ratios = {f"{name}_over_krylov": spent[name] / ours for name in solvers}
    return ratios | {f"{name}_exact": reached[name] / len(LAYERS) for name in solvers}


def _svd_lowrank(w: Tensor, k: int, power: int) -> Tensor:
    return torch.svd_lowrank(w, q=min(len(w), int(1.2 * k)), niter=power)[0][:, :k]


def _lobpcg(w: Tensor, k: int, power: int) -> Tensor:
    gram = w @ w.T
    start = torch.randn(len(w), k, generator=torch.Generator().manual_seed(0))
    return torch.lobpcg(gram, k=k, X=start, niter=power, largest=True)[1]


def residual(w: Tensor, u: Tensor) -> float:
    """Largest ||W W^T u - s^2 u|| / s^2 of the EDGE last vectors, as our own are certified."""
    u = u[:, -EDGE:]
    image = w @ (w.T @ u)
    squares = (w.T @ u).square().sum(0)
    return float(((image - u * squares).norm(dim=0) / squares).max())
