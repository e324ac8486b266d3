"""The picture of compared masks: whatever the masks are called, however many layers and levels there are."""

from __future__ import annotations

import pytest
import torch
from unmemorize_pack.unmemorize.pictures import neuron_chart

LAYERS = [
    f"diffusion_model.{part}.{i}.1.transformer_blocks.0.ff.net.2.weight" for part in ("input_blocks", "output_blocks") for i in (1, 2)
]


@pytest.mark.parametrize(("n", "columns"), [(2, 1), (6, 17)])
def test_size_range_and_the_same_every_time(n, columns):
    matrix, rows = torch.rand(n, n), torch.rand(len(LAYERS), columns)
    given = ([str(i) for i in range(n)], matrix, LAYERS, rows, [f"{c:g}" for c in range(columns)])
    picture = neuron_chart.iou_chart(*given)
    assert picture.shape[0] == 1 and picture.shape[3] == 3 and picture.dtype == torch.float32
    assert picture.min() >= 0 and picture.max() <= 1 and torch.equal(picture, neuron_chart.iou_chart(*given))


def test_equal_masks_are_brighter_than_different_ones():
    alike, unlike = (neuron_chart.iou_chart(["a", "b"], torch.full((2, 2), v), LAYERS, torch.full((4, 1), v), ["all"]) for v in (1.0, 0.0))
    assert alike.mean() > unlike.mean() + 0.05


def test_names_lose_what_they_share():
    assert neuron_chart.short_names(LAYERS) == ["input_blocks.1", "input_blocks.2", "output_blocks.1", "output_blocks.2"]
    assert neuron_chart.short_names(["a.b.c"]) == ["a.b.c"]
    assert neuron_chart.short_names(["a.b", "a.b"]) == ["a.b", "a.b"]


@pytest.mark.parametrize("name", ["", "<b>&amp;\x00</b>", "a" * 400, "\u65e5\u672c\u8a9e"])
def test_hostile_names_are_only_drawn(name):
    assert torch.isfinite(neuron_chart.iou_chart([name, "b"], torch.eye(2), LAYERS, torch.ones(4, 1), [name])).all()
