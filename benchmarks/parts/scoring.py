"""Scores of maps against masks, after METHODS 2.8: best global IoU over a shared scale, AUROC a picture; intervals over captions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .common import RESAMPLES, auc, rate

THRESHOLDS = 101


def best_global_iou(maps: list[Tensor], masks: list[Tensor]) -> dict[str, Any]:
    """log1p of all maps, one min-max over all of them, the best of THRESHOLDS: sum of intersections / sum of unions.

    maps[c] [n, h, w] are one caption's pictures, masks[c] [h, w] its truth. The threshold is chosen with the masks in hand (an
    oracle's), for each kind of map its own; the interval resamples captions and chooses anew each time. Maps with NaN are dropped.
    """
    logs = [m[torch.isfinite(m).all(dim=(1, 2))].clamp_min(0).double().log1p() for m in maps]
    low, high = min(m.min() for m in logs), max(m.max() for m in logs)
    thresholds = torch.linspace(-1e-6, 1 + 1e-6, THRESHOLDS, dtype=torch.float64)
    counts = torch.stack([_overlaps((m - low) / (high - low).clamp_min(1e-12), t, thresholds) for m, t in zip(logs, masks, strict=True)])
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(len(counts), (RESAMPLES, len(counts)), generator=generator)
    return {"value": float(_best(counts.sum(0))), "interval": _best(counts[picks].sum(1)).quantile(_ENDS).tolist(), "captions": len(counts)}


_ENDS = torch.tensor([0.025, 0.975], dtype=torch.float64)


def _overlaps(scaled: Tensor, truth: Tensor, thresholds: Tensor) -> Tensor:
    """Intersections and unions of one caption at every threshold, [thresholds, 2]."""
    predicted = scaled[None] > thresholds[:, None, None, None]
    return torch.stack([(predicted & truth).sum((1, 2, 3)), (predicted | truth).sum((1, 2, 3))], 1).double()


def _best(counts: Tensor) -> Tensor:
    """Largest ratio over thresholds of [..., thresholds, 2]."""
    return (counts[..., 0] / counts[..., 1].clamp_min(1)).amax(-1)


def iou_at(maps: list[Tensor], masks: list[Tensor], threshold: float) -> float:
    """IoU of everything above one threshold: what a user gets, without an oracle."""
    both = [((m > threshold) & t, (m > threshold) | t) for m, t in zip(maps, masks, strict=True)]
    return sum(int(i.sum()) for i, _ in both) / max(sum(int(u.sum()) for _, u in both), 1)


def mean_auroc(maps: list[Tensor], masks: list[Tensor]) -> dict[str, Any]:
    """Probability that a fixed pixel outranks a free one, mean over pictures."""
    return rate([[auc(m[t], m[~t]) for m in several] for several, t in zip(maps, masks, strict=True)])


def auc_of_captions(positive: list[Tensor], negative: list[Tensor]) -> dict[str, Any]:
    """Probability that a picture of a positive caption outranks one of a negative; captions are resampled for the interval."""
    wins = torch.tensor([[auc(p, n) for n in negative] for p in positive], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(positive), (RESAMPLES, len(positive)), generator=generator)
    columns = torch.randint(len(negative), (RESAMPLES, len(negative)), generator=generator)
    means = torch.stack([wins[r][:, c].mean() for r, c in zip(rows, columns, strict=True)])
    return {"value": float(wins.mean()), "interval": means.quantile(_ENDS).tolist(), "captions": len(positive) + len(negative)}


def pearson(a: Tensor, b: Tensor) -> float:
    """Correlation of two maps."""
    return float(torch.corrcoef(torch.stack([a.flatten().double(), b.flatten().double()]))[0, 1])
