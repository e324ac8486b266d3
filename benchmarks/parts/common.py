"""What every benchmark shares: statistics over captions, and the result file."""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import platform
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...demo.pictures import file_hash

ROOT = Path(__file__).resolve().parents[2]
RESAMPLES = 2000

log = logging.getLogger("benchmark")


def arguments(description: str | None, seeds: int = 8, roles: tuple[str, ...] = (), **folders: Path) -> argparse.Namespace:
    """--lab DIR, --seeds N, --name NAME: the same for every benchmark; further folders by name; --role, by default the first."""
    parser = argparse.ArgumentParser(description=description)
    for name, folder in {"lab": ROOT / "demo" / "lab", **folders}.items():
        parser.add_argument(f"--{name}", type=Path, default=folder)
    parser.add_argument("--seeds", type=int, default=seeds)
    if roles:
        parser.add_argument("--role", choices=roles, default=roles[0])
    parser.add_argument("--name", help="of the result file; by default the benchmark's")
    return parser.parse_args()


def shared_out(work: Callable[[list[Any]], dict[Any, Any]], items: list[Any], processes: int = 2) -> dict[Any, Any]:
    """`work` on interleaved parts of the items, a process each; returns the merged results in the items' order.

    The caller must have set one thread: a forked process must not inherit a running thread pool.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / str(rank) for rank in range(processes)]

        def part(rank: int) -> None:
            torch.save(work(items[rank::processes]), paths[rank])

        others = [multiprocessing.get_context("fork").Process(target=part, args=(rank,)) for rank in range(1, processes)]
        for process in others:
            process.start()
        part(0)
        for process in others:
            process.join()
        merged: dict[Any, Any] = {}
        for path in paths:
            merged |= torch.load(path, weights_only=False)
    return {item: merged[item] for item in items}


def tuning_and_test(captions: list[str]) -> tuple[list[str], list[str]]:
    """Every third caption is for choosing settings, the others are for evaluating them."""
    return captions[::3], [c for i, c in enumerate(captions) if i % 3]


def rate(per_caption: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Mean of all outcomes and its 95 % interval by bootstrap over captions."""
    means = torch.tensor([sum(hits) / len(hits) for hits in per_caption])
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(len(means), (RESAMPLES, len(means)), generator=generator)
    low, high = means[picks].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    return {"value": float(means.mean()), "interval": [low, high], "captions": len(means)}


def auc(positive: Tensor, negative: Tensor) -> float:
    """Probability that a positive [p] outranks a negative [q], ties half."""
    wins = (positive[:, None] > negative[None]).float() + 0.5 * (positive[:, None] == negative[None]).float()
    return float(wins.mean())


def iou(predicted: Tensor, truth: Tensor) -> float:
    """Intersection over union of boolean tensors."""
    return float((predicted & truth).sum() / (predicted | truth).sum().clamp_min(1))


def write(
    name: str, metrics: dict[str, Any], settings: dict[str, Any], about: dict[str, str], lab: Path | None = None, more: Sequence[Path] = ()
) -> None:
    """benchmarks/out/NAME.json: `metrics` (null: never reached), `intervals`, what they mean under `about`; also printed.

    `files` names the hashes of what was measured: the lab's checkpoint, and further files by their stems.
    """
    plain = {k: v["value"] if isinstance(v, dict) else v for k, v in metrics.items()}
    numbers = {k: None if v is None else round(v, 4) for k, v in plain.items()}
    intervals = {k: [round(x, 4) for x in v["interval"]] for k, v in metrics.items() if isinstance(v, dict)}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
        "processor": platform.machine(),
    }
    read = [*([lab / "checkpoint.safetensors"] if lab else []), *more]
    result = {
        "metrics": numbers, "intervals": intervals, "about": about, "settings": settings, "files": {p.stem: file_hash(p) for p in read},
        "machine": machine, "commit": commit,
    }  # fmt: skip
    out = ROOT / "benchmarks" / "out"
    out.mkdir(exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for key, value in numbers.items():
        span = " .. ".join(f"{x:.3f}" for x in intervals[key]) if key in intervals else ""
        log.info("%-32s %8s   %s", key, "never" if value is None else f"{value:.4f}", span)
