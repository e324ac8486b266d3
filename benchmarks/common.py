"""What every benchmark shares: statistics over captions, and the result file."""

from __future__ import annotations

import argparse
import json
import logging
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
RESAMPLES = 2000

log = logging.getLogger("benchmark")


def arguments(description: str | None) -> argparse.Namespace:
    """--lab DIR and --seeds N, the same for every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--lab", type=Path, default=ROOT / "demo" / "lab")
    parser.add_argument("--seeds", type=int, default=8)
    return parser.parse_args()


def rate(per_caption: list[list[bool]]) -> dict[str, Any]:
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


def write(name: str, metrics: dict[str, Any], settings: dict[str, Any]) -> None:
    """benchmarks/out/NAME.json: numbers under `metrics`, intervals under `intervals`; also printed as a table."""
    numbers = {k: round(v["value"] if isinstance(v, dict) else v, 4) for k, v in metrics.items()}
    intervals = {k: [round(x, 4) for x in v["interval"]] for k, v in metrics.items() if isinstance(v, dict)}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    machine = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
        "processor": platform.machine(),
    }
    result = {"metrics": numbers, "intervals": intervals, "settings": settings, "machine": machine, "commit": commit}
    out = ROOT / "benchmarks" / "out"
    out.mkdir(exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for key, value in numbers.items():
        span = " .. ".join(f"{x:.3f}" for x in intervals[key]) if key in intervals else ""
        log.info("%-32s %8.4f   %s", key, value, span)
