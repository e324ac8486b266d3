"""What the browser draws, as small lists of numbers: every function cuts to a size that a websocket message can carry.

The front end (js/) only scales and colours these; nothing it shows is measured there. None stands where there is no number, since JSON
has no NaN.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .lora_spectrum import counted
from .stability_chart import GAMMA, PANELS, final, verdict

MOST_SAMPLES = 16
MOST_STEPS = 256
MOST_PICTURES = 8
MOST_CELLS = 64
"""Longer side of a map."""
LEVELS = 999
"""Map values are sent as whole numbers from 0 to this, between the map's lowest and highest value."""
MOST_POINTS = 2000
BINS = 200
"""Of the scores from -1 to 1: a bin is as wide as a step of the threshold widget."""
MOST_ROWS = 200
OUTSIDE = -1

Rows = list[list[float | None]]
"""By step, then by sample."""


def rounded(value: float | None, digits: int = 4) -> float | None:
    """A number with so many significant digits; None if it is none."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def curves(observed: dict[str, Rows], regions: dict[str, list[list[float]]]) -> dict[str, Any]:
    """Signal -> z [steps][n], in standard deviations of clean runs, with their mean and sd by step; only what the chart shows."""
    found: dict[str, Any] = {}
    for name in PANELS:
        if name not in observed or name not in regions:
            continue
        z = [
            [None if v is None else rounded((v - mean) / sd if sd else 0.0) for v in row[:MOST_SAMPLES]]
            for row, (mean, sd) in zip(observed[name], regions[name], strict=True)
        ]
        found[name] = {"z": z, "mean": [rounded(m) for m, _ in regions[name]], "sd": [rounded(sd) for _, sd in regions[name]]}
    return found


GRAVITY = ("clean", "redrawn", "not judged", "memorized")
"""What is said of a picture that came out, the worst last: that of a batch is its worst one's."""


def came_out(record: dict[str, Any], sample: int) -> str:
    """What a picture that came out is, of GRAVITY."""
    now = final(record, sample)
    if now and now != "acquitted":
        return {"another": "redrawn", "unknown": "not judged", "memorized": "memorized"}[now]
    if record["not_judged"][sample]:
        return "not judged"
    return "memorized" if record["memorized"][sample] else "clean"


def outcomes_of(record: dict[str, Any]) -> list[str]:
    """What came out of every picture of a batch."""
    return [came_out(record, i) for i in range(len(record["scores"]))]


def worst_of(outcomes: list[str]) -> int:
    """The picture of a batch that is told of: the first of the worst."""
    return outcomes.index(max(outcomes, key=GRAVITY.index))


def guard_view(record: dict[str, Any], sample: int | None = None) -> dict[str, Any]:
    """A guarded run, as host.stability records it, for the chart in the node. An empty record is a guard that was off, or saw nothing.

    Of a large batch so many pictures as a message carries, `numbers` of the batch: the first ones, with the worst one and with `sample`,
    the one that is looked at (None: the batch). `worst`, `sample` count among these; `outcomes` count the whole batch.
    """
    if not record:
        return {"kind": "off"}
    outcomes = outcomes_of(record)
    worst = worst_of(outcomes)
    needed = {worst, *([] if sample is None else [min(sample, len(outcomes) - 1)])}
    others = [i for i in range(len(outcomes)) if i not in needed]
    numbers = sorted([*needed, *others[: MOST_SAMPLES - len(needed)]])
    place, steps = {i: k for k, i in enumerate(numbers)}, len(record["sigmas"]) - 1
    every = max(1, math.ceil(steps / MOST_STEPS))
    observed = {name: [[row[i] for i in numbers] for row in rows] for name, rows in record["observed"].items()}
    signals = curves(observed, record["regions"])
    for curve in signals.values():
        curve.update({k: v[::every] for k, v in curve.items()})
    return {
        "kind": "done", "unwatched": bool(record.get("unwatched")),
        "mode": record["mode"], "method": record["method"], "detector": record["detector"], "limit": record["limit"],
        "gamma": GAMMA, "steps": steps, "every": every, "signals": signals,
        "numbers": numbers, "worst": place[worst], "sample": None if sample is None else place[min(sample, len(outcomes) - 1)],
        "outcomes": {name: outcomes.count(name) for name in GRAVITY},
        "memorized": [record["memorized"][i] for i in numbers], "judged": [not record["not_judged"][i] for i in numbers],
        "scores": [rounded(record["scores"][i]) for i in numbers],
        "restarted": [place[i] for i in record["restarted"] if i in place],
        "edited_steps": {str(place[int(k)]): v for k, v in record["edited_steps"].items() if int(k) in place},
        "verdicts": [verdict(record, i) for i in numbers], "final": [final(record, i) for i in numbers],
        "warnings": record["warnings"],
    }  # fmt: skip


def map_view(values: Tensor, region: Tensor, tops: list[float]) -> list[dict[str, Any]]:
    """Maps [n, h, w] of which only `region` (0 or 1) counts, and the value each shows as full heat; pooled to MOST_CELLS."""
    shrink = max(1, math.ceil(max(values.shape[1:]) / MOST_CELLS))
    if shrink > 1:
        weight = F.avg_pool2d(region[:, None].float(), shrink, ceil_mode=True)[:, 0]
        values = F.avg_pool2d((values * region)[:, None], shrink, ceil_mode=True)[:, 0] / weight.clamp_min(1e-6)
        region = weight > 0.5
    views = []
    for picture, inside, top in zip(values[:MOST_PICTURES], region[:MOST_PICTURES] > 0, tops, strict=False):
        shown = picture[inside] if bool(inside.any()) else picture.flatten()
        low, high = float(shown.min()), float(shown.max())
        cells = ((picture - low) / max(high - low, 1e-12) * LEVELS).round().clamp(0, LEVELS).int()
        cells = torch.where(inside, cells, torch.full_like(cells, OUTSIDE))
        views.append({
            "width": picture.shape[1], "height": picture.shape[0], "low": rounded(low, 6), "high": rounded(high, 6),
            "levels": LEVELS, "top": rounded(top, 6), "cells": cells.flatten().tolist(),
        })  # fmt: skip
    return views


def spectrum_view(spectrum: dict[str, Any]) -> dict[str, Any]:
    """The channels of a filtered LoRA, as host.lora.report writes them: points thinned out evenly, and counts of all.

    `margin` is the score less what `deviations` adds to a layer's threshold: the hard gate keeps a channel if margin > threshold.
    `bins` count all channels and their energy by margin, bin k from -1 + k / 100 on. A layer that was judged as one is one point.
    """
    layers, settings = spectrum["layers"], spectrum["settings"]
    names = list(dict.fromkeys(layer["block"] for layer in layers))
    number = {name: i for i, name in enumerate(names)}
    columns: dict[str, list[Tensor]] = {k: [] for k in ("sigma", "score", "margin", "kept", "block", "channel", "stands_for")}
    for layer in layers:
        sigma, size = layer["sigma"].double(), len(layer["sigma"])
        columns["sigma"].append(sigma)
        columns["score"].append(layer["scores"].double())
        columns["margin"].append(layer["scores"].double() - settings["deviations"] * layer["deviation"])
        columns["kept"].append(layer["new_sigma"].double() / sigma.clamp_min(1e-30))
        columns["block"].append(torch.full((size,), float(number[layer["block"]]), dtype=torch.float64))
        columns["stands_for"].append(torch.full((size,), float(layer["stands_for"]), dtype=torch.float64))
        columns["channel"].append(torch.arange(size, dtype=torch.float64))
    whole = {k: torch.cat(v) if v else torch.zeros(0, dtype=torch.float64) for k, v in columns.items()}
    total, (channels, removed) = len(whole["sigma"]), counted(layers)
    every = max(1, math.ceil(total / MOST_POINTS))
    energy = whole["sigma"].square()
    place = ((whole["margin"] + 1) * (BINS / 2)).ceil().sub(1).long().clamp(0, BINS - 1)  # score > threshold: the upper edge stays below
    counts = torch.bincount(place, whole["stands_for"], minlength=BINS).long()
    energies = torch.zeros(BINS, dtype=torch.float64).index_add_(0, place, energy)
    points = {k: [rounded(x) for x in whole[k][::every].tolist()] for k in ("sigma", "score", "margin", "kept")}
    whole_numbers = {k: whole[k][::every].long().tolist() for k in ("block", "channel")}
    kept = float((energy * whole["kept"].square()).sum()) / max(float(energy.sum()), 1e-30) if total else 1.0
    return {
        "name": spectrum["name"], "score": spectrum["score"], "unit": spectrum["unit"], "gate": settings["gate"],
        "threshold": settings["threshold"], "deviations": settings["deviations"], "layers": len(layers), "channels": channels,
        "removed": removed,
        "energy_kept": rounded(kept), "blocks": names, "points": points | whole_numbers,
        "bins": {"count": counts.tolist(), "energy": [rounded(e) for e in energies.tolist()]},
    }  # fmt: skip


def density_view(whole: dict[str, float], by_level: dict[str, list[float]], levels: list[float]) -> dict[str, Any]:
    """Share of each layer's weights that a mask silences: of the mask itself, and of what each noise level took where that is known."""
    count = min((len(v) for v in by_level.values()), default=0)
    names = list(whole)[:MOST_ROWS]
    rows = [[rounded(whole[name]), *(rounded(v) for v in by_level.get(name, [])[:count])] for name in names]
    columns = ["mask", *(f"{sigma:.3g}" for sigma in levels[:count])]
    return {"title": "share of the weights silenced", "layers": names, "columns": columns, "cells": rows, "most": None}


def overlap_view(layers: list[str], columns: list[str], rows: Tensor) -> dict[str, Any]:
    """IoU of masks by layer and column [layers, c]; the scale ends at 1."""
    cells = [[rounded(v) for v in row] for row in rows[:MOST_ROWS].tolist()]
    return {"title": "overlap of the masks (IoU)", "layers": layers[:MOST_ROWS], "columns": columns, "cells": cells, "most": 1.0}
