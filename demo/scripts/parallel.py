"""Data-parallel training on a few CPU cores: one process a core, one flat parameter vector, resumable.

For networks this small two processes of one thread train almost twice as fast as one process of two.
The learning rate follows the clock, not the step count: a run ends when its minutes are over.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import signal
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

log = logging.getLogger("demo.training")


class AnotherRun(Exception):
    """The folder holds the state of a run with other settings."""


class Interrupted(Exception):
    """Ctrl-C or a stop request: the state is on disk, the same command carries on."""


class FlatParameters:
    """All trainable parameters of some modules as views into one vector, with gradient, EMA and optimizers.

    Matrices and convolutions learn by Muon where `muon_rate` is given (after four minutes of each: loss .278 in 357
    steps, AdamW alone .303 in 439), everything else by AdamW.
    """

    def __init__(self, modules: list[nn.Module], adam_rate: float, muon_rate: float = 0.0) -> None:
        tables = {id(m.weight) for root in modules for m in root.modules() if isinstance(m, nn.Embedding)}
        parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
        self.values = torch.cat([p.detach().flatten() for p in parameters])
        self.gradient = torch.zeros_like(self.values)
        matrices: list[Tensor] = []
        others: list[Tensor] = []
        start = 0
        for p in parameters:
            stop = start + p.numel()
            p.data = self.values[start:stop].view_as(p)
            p.grad = self.gradient[start:stop].view_as(p)
            is_matrix = muon_rate > 0 and p.ndim >= 2 and id(p) not in tables
            leaf = nn.Parameter(p.data.flatten(1) if is_matrix else p.data)
            leaf.grad = p.grad.view_as(leaf)
            (matrices if is_matrix else others).append(leaf)
            start = stop
        self.ema = self.values.clone()
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=adam_rate, betas=(0.9, 0.99), weight_decay=0.0)]
        if matrices:
            muon = torch.optim.Muon(matrices, lr=muon_rate, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw")
            self.optimizers.append(muon)
        self._peaks = [o.param_groups[0]["lr"] for o in self.optimizers]

    def step(self, count: int, progress: float) -> None:
        """One step: warm-up, cosine to 2 % of the peak, gradient norm clipped at 1."""
        norm = float(self.gradient.norm())
        if not math.isfinite(norm):
            return
        self.gradient.mul_(min(1.0, 1.0 / (norm + 1e-6)))
        decay = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
        for optimizer, peak in zip(self.optimizers, self._peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * decay * min(1.0, (count + 1) / WARMUP_STEPS)
            optimizer.step()
        self.ema.lerp_(self.values, 1 - min(EMA_DECAY, (1 + count) / (10 + count)))

    def use_ema(self) -> None:
        """Put the averaged weights into the modules (the end of a stage)."""
        self.values.copy_(self.ema)

    def _leaves(self) -> list[tuple[str, torch.optim.Optimizer, Tensor]]:
        return [(f"{k}.{i}.", o, leaf) for k, o in enumerate(self.optimizers) for i, leaf in enumerate(o.param_groups[0]["params"])]

    def tensors(self) -> dict[str, Tensor]:
        """Weights, EMA and optimizer state, for `restore`."""
        state = {name + key: value for name, o, leaf in self._leaves() for key, value in o.state[leaf].items() if isinstance(value, Tensor)}
        return {"values": self.values, "ema": self.ema, **{k: v.contiguous() for k, v in state.items()}}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Continue exactly where `tensors` were taken."""
        self.values.copy_(tensors["values"])
        self.ema.copy_(tensors["ema"])
        for name, optimizer, leaf in self._leaves():
            found = {k[len(name) :]: v.clone() for k, v in tensors.items() if k.startswith(name)}
            if found:
                optimizer.state[leaf] = found


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
    snapshots: tuple[float, ...] = ()


def train(stage: Stage, folder: Path) -> None:
    """Train a stage to its end, or resume it. Needs an initialised process group; the modules end with EMA weights."""
    flat = FlatParameters(stage.modules, stage.adam_rate, stage.muon_rate)
    step, before = _resume(flat, _state_file(folder, stage.name), stage.identity)
    with _interrupt_flag() as stop:
        _loop(stage, folder, flat, step, before, stop)
    flat.use_ema()


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
        flat.gradient.zero_()
        loss = stage.loss(progress, generator)
        loss.backward()
        dist.all_reduce(flat.gradient)
        flat.gradient.div_(world)
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
