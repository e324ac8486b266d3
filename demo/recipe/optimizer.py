"""Muon and AdamW on one flat vector of parameters, its work shared between the processes of a run."""

from __future__ import annotations

import functools
import math
import time

import torch
import torch.distributed as dist
from torch import Tensor, nn

EMA_DECAY = 0.999
WARMUP_STEPS = 150
MUON_MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


@functools.cache
def working_dtype(device: str) -> torch.dtype:
    """bfloat16, unless this is a CPU that has no arithmetic of that kind: there it takes up to fifty times as long as float32."""
    if device != "cpu":
        return torch.bfloat16

    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(256, 256, dtype=dtype)
        tries = []
        for _ in range(4):  # the first one also makes room
            began = time.perf_counter()
            matrix @ matrix
            tries.append(time.perf_counter() - began)
        return min(tries)

    return torch.bfloat16 if seconds(torch.bfloat16) < 2 * seconds(torch.float32) else torch.float32


class FlatParameters:
    """All trainable parameters of some modules as one vector, with gradient, EMA and optimizer state.

    The modules compute on a copy in `dtype` (see `working_dtype`), the vector stays float32.
    Matrices and convolutions learn by Muon where `muon_rate` is given, everything else by AdamW. Making Muon's updates
    orthogonal is a quarter of a step's work, so each process does it for its share of the matrices only.
    """

    def __init__(self, modules: list[nn.Module], adam_rate: float, muon_rate: float = 0.0, dtype: torch.dtype = torch.float32) -> None:
        tables = {id(m.weight) for root in modules for m in root.modules() if isinstance(m, nn.Embedding)}
        parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
        self.values = torch.cat([p.detach().flatten() for p in parameters])
        self.gradient = torch.zeros_like(self.values)
        self._computing = self.values.to(dtype)
        self._computed_gradient = torch.zeros_like(self._computing)
        self.matrices: list[tuple[slice, torch.Size]] = []
        others: list[Tensor] = []
        start = 0
        for p in parameters:
            span = slice(start, start + p.numel())
            p.data = self._computing[span].view_as(p)
            p.grad = self._computed_gradient[span].view_as(p)
            if muon_rate > 0 and p.ndim >= 2 and id(p) not in tables:
                self.matrices.append((span, p.flatten(1).shape))
            else:
                leaf = nn.Parameter(self.values[span].view(p.shape))
                leaf.grad = self.gradient[span].view(p.shape)
                others.append(leaf)
            start = span.stop
        self.ema = self.values.clone()
        self.momentum = torch.zeros_like(self.values if self.matrices else self.values[:0])
        self.muon_rate, self.adam_rate = muon_rate, adam_rate
        self.adam = torch.optim.AdamW(others, lr=adam_rate, betas=(0.9, 0.99), weight_decay=0.0)

    def show(self, values: Tensor) -> None:
        """Put weights into the modules."""
        self._computing.copy_(values)

    def collect_gradient(self) -> None:
        """Mean gradient of all processes' backward passes, into `gradient`; the modules' own is cleared."""
        self.gradient.copy_(self._computed_gradient)
        self._computed_gradient.zero_()
        summed(self.gradient).div_(dist.get_world_size())

    def step(self, count: int, progress: float) -> None:
        """One step: warm-up, cosine to 2 % of the peak, gradient norm clipped at 1."""
        norm = float(self.gradient.norm())
        if not math.isfinite(norm):
            return
        self.gradient.mul_(min(1.0, 1.0 / (norm + 1e-6)))
        decay = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        rate = decay * min(1.0, (count + 1) / WARMUP_STEPS)
        self.adam.param_groups[0]["lr"] = self.adam_rate * rate
        self.adam.step()
        if self.matrices:
            self.values.sub_(self._muon_update(), alpha=self.muon_rate * rate)
        self.ema.lerp_(self.values, 1 - min(EMA_DECAY, (1 + count) / (10 + count)))
        self.show(self.values)

    def _muon_update(self) -> Tensor:
        """Orthogonalised Nesterov momentum of all matrices, scaled to AdamW's usual step (0.2 RMS)."""
        self.momentum.lerp_(self.gradient, 1 - MUON_MOMENTUM)
        look_ahead = self.gradient.lerp(self.momentum, MUON_MOMENTUM)
        update = torch.zeros_like(self.values)
        rank, world = dist.get_rank(), dist.get_world_size()
        by_cost = sorted(self.matrices, key=lambda m: m[1].numel() * min(m[1]))
        for span, shape in by_cost[rank::world]:
            update[span] = orthogonalised(look_ahead[span].view(shape)).flatten().mul_(0.2 * math.sqrt(max(shape)))
        return summed(update)

    def tensors(self) -> dict[str, Tensor]:
        """Weights, EMA and optimizer state, for `restore`."""
        leaves = enumerate(self.adam.param_groups[0]["params"])
        state = {f"adam.{i}.{k}": v.contiguous() for i, leaf in leaves for k, v in self.adam.state[leaf].items()}
        return {"values": self.values, "ema": self.ema, "momentum": self.momentum, **state}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continue exactly where `tensors` were taken."""
        for name in ("values", "ema", "momentum"):
            getattr(self, name).copy_(tensors[name])
        for i, leaf in enumerate(self.adam.param_groups[0]["params"]):
            mine = {k.removeprefix(f"adam.{i}."): v.clone() for k, v in tensors.items() if k.startswith(f"adam.{i}.")}
            found = {k: v if k == "step" else v.to(leaf.device) for k, v in mine.items()}  # the count stays on the CPU
            if found:
                self.adam.state[leaf] = found
        self.show(self.values)


def summed(x: Tensor) -> Tensor:
    """The sum of all processes' tensors, in place; one process, on whatever device, has it already."""
    if dist.get_world_size() > 1:
        dist.all_reduce(x)
    return x


def orthogonalised(matrix: Tensor) -> Tensor:
    """U V^T of a matrix [r, c] = U S V^T, roughly: Muon's five quintic Newton-Schulz steps.

    Run on the small Gram matrix, the same polynomial costs half as much for the wide matrices of convolutions.
    """
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / (wide.norm() + 1e-7)
    gram = wide @ wide.T
    factor = torch.eye(len(gram), device=gram.device)
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        q = torch.addmm(b * gram, gram, gram, alpha=c)
        q.diagonal().add_(a)
        factor = q @ factor
        gram = q @ gram @ q
    result = factor @ wide
    return result.T if matrix.shape[0] > matrix.shape[1] else result
