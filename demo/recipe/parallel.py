"""Data-parallel training on a few CPU cores: one process a core, resumable.

For networks this small two processes of one thread train almost twice as fast as one process of two.
The learning rate follows the clock, not the step count: a run ends when its minutes are over. A stage with `steps` counts those instead,
and gives the same weights on a busy machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
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

from .optimizer import FlatParameters

SAVE_EVERY_SECONDS = 120.0

log = logging.getLogger("demo.training")


class AnotherRun(Exception):
    """The folder holds the state of a run with other settings."""


class Interrupted(Exception):
    """Ctrl-C or a stop request: the state is on disk, the same command carries on."""


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
    steps: int | None = None
    """Instead of minutes."""

    def progress(self, step: int, elapsed: float) -> float:
        """From 0 to 1, after so many steps and seconds."""
        return elapsed / (60 * self.minutes) if self.steps is None else step / self.steps


def launch(worker: Callable[[int, argparse.Namespace], None], options: argparse.Namespace) -> None:
    """Run `worker(rank, options)` in options.processes processes of one thread; the state goes to options.out/work.

    A worker that is stopped ends quietly: the state is on disk. One that finds another run's state ends with that message.
    """
    (options.out / "work").mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meet")
        others = [context.Process(target=_process, args=(worker, rank, meeting, options)) for rank in range(1, options.processes)]
        for process in others:
            process.start()
        _process(worker, 0, meeting, options)
        for process in others:
            process.join()


def _process(worker: Callable[[int, argparse.Namespace], None], rank: int, meeting: str, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=options.processes)
    try:
        worker(rank, options)
    except Interrupted:
        if rank == 0:
            log.info("stopped; the same command carries on from here")
    except AnotherRun as error:
        raise SystemExit(str(error) if rank == 0 else 1) from None


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
        progress = stage.progress(step, elapsed)
        due = time.monotonic() - saved > SAVE_EVERY_SECONDS
        if rank == 0 and (asked or due or progress >= 1):
            _save(flat, _state_file(folder, stage.name), stage.identity, step, elapsed)
            saved = time.monotonic()
        if asked:
            raise Interrupted
        if progress >= 1:
            break
        generator = step_generator(stage.seed, step, rank, world)
        loss = stage.loss(progress, generator)
        loss.backward()
        flat.collect_gradient()
        flat.step(step, progress)
        mean_loss += 0.02 * (float(loss.detach()) - mean_loss) if step else float(loss.detach())
        step += 1
        if rank == 0 and step % 100 == 0:
            left = elapsed / 60 * (1 / max(progress, 1e-6) - 1)
            log.info("%s: step %d, loss %.4f, %.1f min left", stage.name, step, mean_loss, left)
    if rank == 0:
        log.info("%s: done, %d steps", stage.name, step)


def step_generator(seed: int, step: int, rank: int, world: int) -> torch.Generator:
    """Random numbers of one process and step of a stage."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step * world + rank)


def steps_done(folder: Path, stage: str) -> int:
    """Steps a stage has made so far."""
    path = _state_file(folder, stage)
    return _read_progress(path)[0] if path.exists() else 0


def seconds_spent(folder: Path, stage: str) -> float:
    """Seconds a stage has taken so far."""
    path = _state_file(folder, stage)
    return _read_progress(path)[1] if path.exists() else 0.0


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
        if dist.get_world_size() > 1:
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
