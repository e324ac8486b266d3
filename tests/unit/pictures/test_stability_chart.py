"""The chart of a guarded run: a picture whatever the record holds."""

from __future__ import annotations

import copy

import pytest
import torch
from unmemorize_pack.unmemorize.pictures import stability_chart

STEPS = 6


@pytest.fixture
def record():
    """As host.stability.guard writes it, of two samples."""
    rows = [[0.5 + 0.1 * t, 1.5 - 0.1 * t] for t in range(STEPS)]
    regions = [[0.6 + 0.05 * t, 0.1] for t in range(STEPS)]
    return {
        "mode": "correct", "method": "paper", "detector": "default", "limit": 3.0, "rule": {}, "memorized": [True, False],
        "not_judged": ["", ""],
        "scores": [7.25, None], "restarted": [], "edited_steps": {"0": [1, 2]}, "angles": [], "sigmas": [], "warnings": [],
        "observed": {name: copy.deepcopy(rows) for name in ("update", "prediction", "revision", "sharpness", "latent")},
        "regions": {name: copy.deepcopy(regions) for name in ("update", "prediction", "revision", "sharpness", "latent")},
    }  # fmt: skip


def height(panels):
    return stability_chart.HEAD + panels * (stability_chart.PANEL + stability_chart.GAP) + stability_chart.FOOT


def coloured(picture, colour):
    """How many pixels are exactly of a colour."""
    want = torch.tensor([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int(((picture[0] * 255).round().long() == want).all(-1).sum())


def test_size_range_and_the_same_every_time(record):
    before = copy.deepcopy(record)
    picture = stability_chart.chart(record, 0)
    assert picture.shape == (1, height(3), stability_chart.WIDTH, 3) and picture.dtype == torch.float32
    assert picture.min() >= 0 and picture.max() <= 1
    assert torch.equal(picture, stability_chart.chart(record, 0)) and record == before
    assert not torch.equal(picture, stability_chart.chart(record, 1))


def test_what_is_drawn(record):
    """The region, its mean, the run; edited steps only where there are any."""
    edited, plain = stability_chart.chart(record, 0), stability_chart.chart(record, 1)
    for colour in (stability_chart.BAND, stability_chart.MEAN, stability_chart.RUN):
        assert coloured(edited, colour) > 200 and coloured(plain, colour) > 200
    assert coloured(edited, stability_chart.EDIT) > 200 and coloured(plain, stability_chart.EDIT) == 0


def test_a_run_far_outside_is_still_within_the_picture(record):
    record["observed"]["update"][3][0] = 1e6
    assert coloured(stability_chart.chart(record, 0), stability_chart.RUN) > 200


@pytest.mark.parametrize("missing", [[0], [0, 3], list(range(STEPS))])
def test_values_that_are_missing_are_left_out(record, missing):
    whole = coloured(stability_chart.chart(record, 0), stability_chart.RUN)
    for name in record["observed"]:
        for t in missing:
            record["observed"][name][t][0] = None
    picture = stability_chart.chart(record, 0)
    assert picture.shape == (1, height(3), stability_chart.WIDTH, 3) and coloured(picture, stability_chart.RUN) < whole


def test_signals_without_a_region_have_no_panel(record):
    del record["regions"]["revision"], record["observed"]["sharpness"]
    assert stability_chart.chart(record, 0).shape[1] == height(2)
    record["regions"] = {}
    assert stability_chart.chart(record, 0).shape[1] == height(0)


def test_a_run_of_one_step(record):
    for part in ("observed", "regions"):
        record[part] = {name: values[:1] for name, values in record[part].items()}
    record["edited_steps"] = {"0": [0]}
    assert coloured(stability_chart.chart(record, 0), stability_chart.RUN) > 0


@pytest.mark.parametrize("words", ["", "x" * 5000, "two\nlines", "\u6f22\u5b57 \U0001f600", "\x00\x1b[31m", "%s %d {0}", "<b>&amp;"])
def test_hostile_words_are_only_drawn(record, words):
    record["detector"] = words
    record["method"] = record["mode"] = words
    assert stability_chart.chart(record, 0).shape == (1, height(3), stability_chart.WIDTH, 3)


def test_the_verdict_in_words(record):
    assert stability_chart.verdict(record, 0) == "memorized, 2 steps edited"
    assert stability_chart.verdict(record, 1) == "nothing found"
    record["restarted"] = [0]
    record["edited_steps"] = {}
    assert stability_chart.verdict(record, 0) == "memorized, sampled again"
