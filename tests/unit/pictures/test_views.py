"""What the nodes send to the browser: right numbers, small, and JSON."""

from __future__ import annotations

import json

import torch
from unmemorize_pack.unmemorize.neurons.masks import Mask, pack
from unmemorize_pack.unmemorize.pictures import views


def record(steps: int = 4, samples: int = 2) -> dict:
    return {
        "mode": "correct", "method": "recommended", "detector": "default", "limit": 3.0, "not_judged": [""] * samples,
        "memorized": [False, True][:samples],
        "scores": [0.5, None][:samples], "restarted": [1], "edited_steps": {"1": [2]}, "sigmas": [1.0] * (steps + 1),
        "observed": {"update": [[1.0 + i, None] for i in range(steps)], "sharpness": [[0.0, 0.0]] * steps},
        "regions": {"update": [[1.0, 0.5]] * steps}, "warnings": ["<img src=x onerror=alert(1)>"],
    }  # fmt: skip


def test_guard_view_holds_deviations_of_what_the_chart_shows():
    view = views.guard_view(record())
    assert view["signals"]["update"]["z"] == [[0.0, None], [2.0, None], [4.0, None], [6.0, None]]
    assert list(view["signals"]) == ["update"] and view["steps"] == 4 and view["scores"] == [0.5, None]
    assert view["verdicts"][1].startswith("memorized, sampled again") and view["edited_steps"] == {"1": [2]}
    assert view["final"] == ["", "unknown"] and view["unwatched"] is False
    again = {"restarted": [1], "redrawn": {"1": {"tries": 1, "memorized": False, "score": None}}}
    assert views.guard_view(record() | again)["final"][1] == "another"
    assert views.guard_view(record() | again | {"redrawn": {"1": {"memorized": True}}})["final"][1] == "memorized"
    acquitted = views.guard_view(record() | {"acquitted": {"1": 0.94}, "memorized": [False, False], "restarted": []})
    assert acquitted["final"][1] == "acquitted" and "hardly changed" in acquitted["verdicts"][1]
    assert "memorized" not in acquitted["verdicts"][1] and acquitted["outcomes"]["clean"] == 2
    assert view["warnings"] == ["<img src=x onerror=alert(1)>"]  # data stays data; the browser shows it as text
    json.dumps(view, allow_nan=False)


def large(samples: int, **more) -> dict:
    facts = record(samples=2) | {"memorized": [False] * samples, "not_judged": [""] * samples, "scores": [0.5] * samples}
    facts |= {"restarted": [], "edited_steps": {}, "observed": {"update": [[1.0 + k for k in range(samples)]] * 4}}
    return facts | more


def test_of_a_large_batch_the_worst_picture_and_the_one_that_is_looked_at_are_sent():
    hit = large(20, memorized=[k == 18 for k in range(20)])
    view = views.guard_view(hit)
    assert len(view["numbers"]) == views.MOST_SAMPLES and view["numbers"][view["worst"]] == 18 and view["sample"] is None
    assert view["memorized"][view["worst"]] and view["outcomes"] == {"clean": 19, "redrawn": 0, "not judged": 0, "memorized": 1}
    assert view["signals"]["update"]["z"][0][view["worst"]] == (19.0 - 1.0) / 0.5, "its own curve"
    asked = views.guard_view(hit, 17)
    assert asked["numbers"][asked["sample"]] == 17 and asked["numbers"][asked["worst"]] == 18


def test_the_worst_of_a_batch():
    """Still a memory is worse than not judged, that worse than redrawn, that than clean."""
    facts = large(4, memorized=[False, True, True, False], not_judged=["", "", "", "its sampler"], restarted=[1, 2])
    facts["redrawn"] = {"1": {"memorized": False}, "2": {"memorized": True}}
    assert views.outcomes_of(facts) == ["clean", "redrawn", "memorized", "not judged"] and views.worst_of(views.outcomes_of(facts)) == 2
    facts["redrawn"]["2"]["memorized"] = False
    assert views.worst_of(views.outcomes_of(facts)) == 3
    assert views.worst_of(views.outcomes_of(facts | {"not_judged": [""] * 4})) == 1


def test_guard_view_of_nothing_and_of_much():
    assert views.guard_view({}) == {"kind": "off"}
    long = views.guard_view(record(steps=1000))
    assert len(long["signals"]["update"]["z"]) == 250 and long["every"] == 4


def test_map_view_returns_the_map_within_a_thousandth():
    values = torch.randn(2, 6, 9)
    region = torch.ones(2, 6, 9)
    region[0, 0, 0] = 0
    one, two = views.map_view(values, region, [1.0, 2.0])
    cells = torch.tensor(one["cells"]).reshape(6, 9)
    assert cells[0, 0] == views.OUTSIDE and one["top"] == 1.0 and two["top"] == 2.0
    back = one["low"] + cells / one["levels"] * (one["high"] - one["low"])
    inside = region[0] > 0
    assert torch.allclose(back[inside], values[0][inside], atol=(one["high"] - one["low"]) / 900)


def test_map_view_is_small():
    (view,) = views.map_view(torch.rand(1, 300, 200), torch.ones(1, 300, 200), [1.0])
    assert max(view["width"], view["height"]) <= views.MOST_CELLS and len(json.dumps(view)) < 25_000
    assert len(views.map_view(torch.rand(20, 4, 4), torch.ones(20, 4, 4), [1.0] * 20)) == views.MOST_PICTURES


def spectrum(channels: int) -> dict:
    generator = torch.Generator().manual_seed(0)
    sigma = torch.rand(channels, generator=generator).sort(descending=True).values + 0.1
    scores = torch.rand(channels, generator=generator) * 2 - 1
    layer = {"block": "a", "scores": scores, "sigma": sigma, "new_sigma": sigma * (scores > 0.25), "deviation": 0.1, "stands_for": 1}
    settings = {"gate": "hard", "threshold": 0.25, "deviations": 0.0}
    return {"name": "x", "score": "mean", "unit": "channel", "settings": settings, "layers": [layer]}


def test_spectrum_bins_count_what_any_threshold_keeps():
    whole = spectrum(5000)
    view = views.spectrum_view(whole)
    scores, sigma = whole["layers"][0]["scores"], whole["layers"][0]["sigma"]
    assert len(view["points"]["sigma"]) <= views.MOST_POINTS and view["channels"] == 5000
    for step in (-50, 0, 25, 80):
        first = views.BINS // 2 + step
        assert abs(sum(view["bins"]["count"][first:]) - int((scores > step / 100).sum())) <= 1  # a score on the edge of a bin
        energy = float(sigma[scores > step / 100].square().sum())
        assert abs(sum(view["bins"]["energy"][first:]) - energy) < 1.1**2 + 0.05  # that one channel, and rounding
    assert view["removed"] == int((scores <= 0.25).sum())
    assert len(json.dumps(view)) < 120_000
    assert views.spectrum_view({**whole, "layers": []})["channels"] == 0


def test_layers_that_were_judged_as_one_are_points_that_count_their_channels():
    one = {"block": "a", "scores": torch.tensor([-1.0]), "sigma": torch.tensor([2.0]), "new_sigma": torch.tensor([0.0]), "deviation": 0.0}
    other = one | {"block": "b", "scores": torch.tensor([1.0]), "new_sigma": torch.tensor([2.0]), "stands_for": 12}
    whole = spectrum(1) | {"unit": "layer", "layers": [one | {"stands_for": 4}, other]}
    view = views.spectrum_view(whole)
    assert (view["channels"], view["removed"], view["layers"], view["unit"]) == (16, 4, 2, "layer")
    assert view["points"]["sigma"] == [2.0, 2.0] and sum(view["bins"]["count"]) == 16 and view["energy_kept"] == 0.5


def test_density_view_by_layer_and_level():
    dense = torch.zeros(4, 16, dtype=torch.bool)
    dense[0, :8] = True
    mask = Mask({"l": pack(dense)}, {"l": (4, 16)}, {"l": torch.stack([pack(dense), pack(~dense)])})
    view = views.density_view(mask.density_by_layer(), mask.density_by_level(), [3.0, 1.5])
    assert view["columns"] == ["mask", "3", "1.5"] and view["cells"] == [[0.125, 0.125, 0.875]]
    told = Mask(mask.bits, mask.shapes, {}, {"l": [0.1]})
    assert views.density_view(told.density_by_layer(), told.density_by_level(), [3.0])["cells"] == [[0.125, 0.1]]
    assert views.density_view(mask.density_by_layer(), {}, [])["columns"] == ["mask"]
