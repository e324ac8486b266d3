"""How alike are masks? As numbers, as a picture, and for the view in the node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...unmemorize.neurons.masks import iou_by_layer, iou_by_layer_and_level, mean_of_pairs
from ...unmemorize.pictures.neuron_chart import iou_chart
from ...unmemorize.pictures.views import overlap_view
from .masks import StoredMask


@dataclass(frozen=True)
class Comparison:
    """Intersection over union of masks."""

    mean: float
    """Over layers and pairs of different masks."""
    picture: Tensor
    """[1, h, w, 3] in [0, 1]."""
    report: dict[str, Any]
    view: dict[str, Any]


def compared(given: list[Any], names: str) -> Comparison:
    """Two masks or more, with their names separated by commas (the rest is numbered). ValueError if one is no mask, or has other layers."""
    if not all(isinstance(m, StoredMask) for m in given):
        raise ValueError("One of the inputs is not a neuron mask. Connect Find Memorized Neurons or Load Neuron Mask.")
    masks = [m.mask for m in given]
    by_layer, levels = iou_by_layer(masks), [m.facts["levels"] for m in given]
    by_level = iou_by_layer_and_level(masks) if all(several == levels[0] for several in levels) else {}
    matrix = torch.stack(list(by_layer.values())).mean(0)
    rows, columns = torch.tensor([[mean_of_pairs(m)] for m in by_layer.values()]), ["all"]
    of_layers = dict(zip(by_layer, rows[:, 0].tolist(), strict=True))
    if by_level:
        rows = torch.cat([rows, torch.stack(list(by_level.values()))], 1)
        columns += [f"{sigma:.3g}" for sigma in levels[0][: rows.shape[1] - 1]]
    labels = [n.strip() for n in names.split(",") if n.strip()][: len(masks)]
    labels += [str(i + 1) for i in range(len(labels), len(masks))]
    mean = mean_of_pairs(matrix)
    report = {
        "names": labels, "mean_iou": round(mean, 4), "iou": [[round(float(v), 4) for v in row] for row in matrix],
        "iou_by_layer": {k: round(v, 4) for k, v in of_layers.items()}, "density": [round(m.density(), 6) for m in masks],
    }  # fmt: skip
    picture = iou_chart(labels, matrix, list(by_layer), rows, columns)
    return Comparison(mean, picture, report, overlap_view(list(by_layer), columns, rows))
