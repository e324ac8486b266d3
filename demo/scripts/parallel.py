"""Data-parallel training on a few CPU cores: one process a core, one flat parameter vector, resumable.

For networks this small two processes of one thread train almost twice as fast as one process of two.
The learning rate follows the clock, not the step count: a run ends when its minutes are over.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import multiprocessing
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

SAVE_EVERY_SECONDS = 120.0
EMA_DECAY = 0.999
WARMUP_STEPS = 150
MUON_MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)

log = logging.getLogger("demo.training")


class AnotherRun(Exception):
    """The folder holds the state of a run with other settings."""


class Interrupted(Exception):
    """Ctrl-C or a stop request: the state is on disk, the same command carries on."""


class FlatParameters:
    """All trainable parameters of some modules as one vector, with gradient, EMA and optimizer state.

    The modules compute on a copy in `dtype` (bfloat16 is half as fast again on a CPU that has it), the vector stays float32.
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
        dist.all_reduce(self.gradient)
        self.gradient.div_(dist.get_world_size())

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
        dist.all_reduce(update)
        return update

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
            found = {k.removeprefix(f"adam.{i}."): v.clone() for k, v in tensors.items() if k.startswith(f"adam.{i}.")}
            if found:
                self.adam.state[leaf] = found
        self.show(self.values)


def orthogonalised(matrix: Tensor) -> Tensor:
    """U V^T of a matrix [r, c] = U S V^T, roughly: Muon's five quintic Newton-Schulz steps.

    Run on the small Gram matrix, the same polynomial costs half as much for the wide matrices of convolutions.
    """
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / (wide.norm() + 1e-7)
    gram = wide @ wide.T
    factor = torch.eye(len(gram))
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        q = torch.addmm(b * gram, gram, gram, alpha=c)
        q.diagonal().add_(a)
        factor = q @ factor
        gram = q @ gram @ q
    result = factor @ wide
    return result.T if matrix.shape[0] > matrix.shape[1] else result


@dataclass
class Stage:
    """One training run: `loss(progress, generator)` gives the batch loss of this process."""

    name: str
    minutes: float
    adam_rate: float
    modules: list[nn.Module]
    loss: Callable[[float, torch.Generator], Tensor]
    seed: int
    identity: str
    """What the run is made of; a state of another run is refused."""
    muon_rate: float = 0.0
    dtype: torch.dtype = torch.float32
    snapshots: tuple[float, ...] = ()


def launch(worker: Callable[[int, int, str, argparse.Namespace], None], options: argparse.Namespace) -> None:
    """Run `worker(rank, world, meeting, options)` in options.processes processes; the state goes to options.out/work."""
    (options.out / "work").mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meet")
        others = [context.Process(target=worker, args=(r, options.processes, meeting, options)) for r in range(1, options.processes)]
        for process in others:
            process.start()
        worker(0, options.processes, meeting, options)
        for process in others:
            process.join()


def train(stage: Stage, folder: Path) -> None:
    """Train a stage to its end, or resume it. Needs an initialised process group; the modules end with EMA weights."""
    flat = FlatParameters(stage.modules, stage.adam_rate, stage.muon_rate, stage.dtype)
    step, before = _resume(flat, _state_file(folder, stage.name), stage.identity)
    with _interrupt_flag() as stop:
        _loop(stage, folder, flat, step, before, stop)
    for module in stage.modules:
        module.to(torch.float32)
    FlatParameters(stage.modules, 0.0).show(flat.ema)


def _loop(stage: Stage, folder: Path, flat: FlatParameters, step: int, before: float, stop: _Flag) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    started = saved = time.monotonic()
    mean_loss = 0.0
    while True:
        elapsed = before + time.monotonic() - started
        control = torch.tensor([elapsed, float(stop.asked)])
        dist.all_reduce(control)
        elapsed, asked = float(control[0]) / world, bool(control[1] > 0)
        progress = elapsed / (60 * stage.minutes)
        due = time.monotonic() - saved > SAVE_EVERY_SECONDS
        if rank == 0 and (asked or due or progress >= 1):
            _save(flat, _state_file(folder, stage.name), stage.identity, step, elapsed)
            saved = time.monotonic()
        if asked:
            raise Interrupted
        if progress >= 1:
            break
        _snapshot(flat, stage, folder, progress, rank)
        generator = torch.Generator().manual_seed(stage.seed * 1_000_003 + step * world + rank)
        loss = stage.loss(progress, generator)
        loss.backward()
        flat.collect_gradient()
        flat.step(step, progress)
        mean_loss += 0.02 * (float(loss.detach()) - mean_loss) if step else float(loss.detach())
        step += 1
        if rank == 0 and step % 100 == 0:
            left = stage.minutes - elapsed / 60
            log.info("%s: step %d, loss %.4f, %.1f min left", stage.name, step, mean_loss, left)
    if rank == 0:
        log.info("%s: done, %d steps", stage.name, step)


def snapshot_file(folder: Path, stage: str, at: float) -> Path:
    """Where the averaged weights at a fraction of a stage are kept."""
    return folder / f"{stage}-at-{at:.2f}.safetensors"


def steps_done(folder: Path, stage: str) -> int:
    """Steps a stage has made so far."""
    path = _state_file(folder, stage)
    return _read_progress(path)[0] if path.exists() else 0


def _snapshot(flat: FlatParameters, stage: Stage, folder: Path, progress: float, rank: int) -> None:
    for at in stage.snapshots:
        path = snapshot_file(folder, stage.name, at)
        if rank == 0 and progress >= at and not path.exists():
            save_file({"ema": flat.ema}, path)


def _state_file(folder: Path, stage: str) -> Path:
    return folder / f"{stage}.state.safetensors"


def _save(flat: FlatParameters, path: Path, identity: str, step: int, elapsed: float) -> None:
    partial = path.with_suffix(".partial")
    save_file(flat.tensors(), partial, metadata={"progress": json.dumps([step, elapsed]), "identity": identity})
    partial.replace(path)


def _read_progress(path: Path) -> tuple[int, float]:
    with safe_open(path, "pt") as file:
        step, elapsed = json.loads(file.metadata()["progress"])
    return step, elapsed


def _resume(flat: FlatParameters, path: Path, identity: str) -> tuple[int, float]:
    """Both processes read the same state; a new run starts from rank 0's initial weights."""
    if not path.exists():
        dist.broadcast(flat.values, 0)
        flat.ema.copy_(flat.values)
        flat.show(flat.values)
        return 0, 0.0
    with safe_open(path, "pt") as file:
        if file.metadata().get("identity") != identity:
            raise AnotherRun(
                f"{path.parent} holds a run with another seed, other pictures or other settings. Choose another --out, or delete it."
            )
        flat.restore({k: file.get_tensor(k) for k in file.keys()})  # noqa: SIM118
    return _read_progress(path)


class _Flag:
    def __init__(self) -> None:
        self.asked = False

    def set(self, *_: object) -> None:
        self.asked = True


@contextlib.contextmanager
def _interrupt_flag() -> Iterator[_Flag]:
    """While training, Ctrl-C and a stop request only set a flag; afterwards they work as before."""
    flag = _Flag()
    before = {number: signal.signal(number, flag.set) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
