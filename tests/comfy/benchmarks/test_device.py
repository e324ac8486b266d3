"""The device benchmark on tiny networks: every row comes, has a meaning, and says what is known beforehand."""

from __future__ import annotations

import dataclasses
import importlib
import math
import time
from functools import partial

import pytest
import torch

NARROW = {
    "sdxl": {
        "model_channels": 32, "num_head_channels": 32, "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [0, 1],
        "transformer_depth_middle": 1, "transformer_depth_output": [0, 0, 1, 1],
    },
    "flux": {"hidden_size": 128, "num_heads": 1, "depth": 1, "depth_single_blocks": 1},
}  # fmt: skip


@pytest.fixture
def device(comfy, monkeypatch):
    models = importlib.import_module("unmemorize_pack.benchmarks.parts.big_models")
    monkeypatch.setattr(models, "SMALL", (8, 4))
    monkeypatch.setattr(models, "KINDS", {k: dataclasses.replace(kind, narrow=NARROW[k]) for k, kind in models.KINDS.items()})
    return importlib.import_module("unmemorize_pack.benchmarks.device")


@pytest.mark.parametrize("name", list(NARROW))
def test_every_row_is_measured_and_means_something(device, tmp_path, name):
    speed = importlib.import_module("unmemorize_pack.benchmarks.parts.filter_speed")
    meter = importlib.import_module("unmemorize_pack.benchmarks.parts.meter").Meter(torch.device("cpu"))
    with speed.own_folders(tmp_path):
        rows = device.rows_of(name, False, meter, tmp_path, time.monotonic() + 600)
    assert set(rows) == {f"{name}_{k}" for k in device.ABOUT if k != "filter_waits_a_layer"}
    assert all(math.isfinite(v) for v in rows.values())
    assert rows[f"{name}_guard_same_bits"] == 1 and rows[f"{name}_guard_waits_a_step"] == 0
    assert rows[f"{name}_map_together_correlation"] > 0.999 and 0 < rows[f"{name}_filter_decisions_equal"] <= 1


def test_what_there_is_no_time_for_is_left_out(device, tmp_path):
    meter = importlib.import_module("unmemorize_pack.benchmarks.parts.meter").Meter(torch.device("cpu"))
    assert device.rows_of("sdxl", False, meter, tmp_path, 0.0) == {}


def test_waits_and_launches_are_counted():
    meter = importlib.import_module("unmemorize_pack.benchmarks.parts.meter").Meter(torch.device("cpu"))
    x = torch.arange(6.0)
    assert meter.counts(lambda: x.view(2, 3).T).launches == 0 and meter.counts(lambda: (x + 1).sum()).launches == 2
    asked = (partial(float, x[0]), lambda: bool(x[0] > 0), lambda: x[x > 1], lambda: x.nonzero(), lambda: torch.equal(x, x))
    for inference in (False, True):
        with torch.inference_mode(inference):
            assert [meter.counts(work).waits for work in asked] == [1] * len(asked)


def test_exponents_are_those_of_powers():
    growth = importlib.import_module("unmemorize_pack.benchmarks.growth")
    assert growth.exponent([1.0, 2.0, 8.0], [3.0, 6.0, 24.0]) == pytest.approx(1)
    assert growth.exponent([1.0, 2.0, 4.0], [5.0, 20.0, 80.0]) == pytest.approx(2)
