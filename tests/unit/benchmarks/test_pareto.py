"""Margins between filters with a knob."""

from __future__ import annotations

import pytest
import torch
from unmemorize_pack.benchmarks.parts import pareto
from unmemorize_pack.benchmarks.parts.pareto import Outcome


def outcome(memorized, wanted):
    return Outcome([[memorized] * 3, [memorized] * 2], [[wanted] * 4] * 3, 0.5)


def test_rates_weigh_loras_equally():
    assert Outcome([[1.0, 1.0, 1.0], [0.0]], [[1.0]], 0.0).memorized == 0.5


def test_a_control_may_be_set_between_two_values_of_its_knob():
    rates, effects = torch.tensor([0.0, 0.4, 0.8]), torch.tensor([0.0, 0.8, 1.0])
    at = torch.tensor([0.0, 0.2, 0.4, 0.6, 1.0])
    for order in ([0, 1, 2], [2, 1, 0]):
        knob = rates[order, None], effects[order, None]
        assert [float(pareto.best_wanted(*knob, x[None], True)) for x in at] == pytest.approx([0.0, 0.4, 0.8, 0.9, 1.0])
        assert [float(pareto.best_wanted(*knob, x[None])) for x in at] == pytest.approx([0.0, 0.0, 0.8, 0.8, 1.0])


def test_no_line_leads_past_a_setting_of_the_knob():
    """Unfiltered (1, 1) and no LoRA (0, 0): what was measured in the middle, below their line, is what the control can do there."""
    rates, effects = torch.tensor([1.0, 0.5, 0.0])[:, None], torch.tensor([1.0, 0.1, 0.0])[:, None]
    assert float(pareto.best_wanted(rates, effects, torch.tensor([0.5]), True)) == pytest.approx(0.1)
    assert float(pareto.best_wanted(rates, effects, torch.tensor([0.75]), True)) == pytest.approx(0.55)


def test_the_margin_is_that_over_the_best_control():
    controls = {"weak": [outcome(0.0, 0.0), outcome(0.8, 0.4)], "strong": [outcome(0.0, 0.0), outcome(0.4, 0.5)]}
    assert pareto.margin(outcome(0.2, 0.6), controls)[1] == pytest.approx({"weak": 0.6, "strong": 0.6})
    least, each = pareto.margin(outcome(0.2, 0.6), controls, between=True)
    assert each == pytest.approx({"weak": 0.5, "strong": 0.35})
    assert least["value"] == pytest.approx(0.35) and least["interval"] == pytest.approx([0.35, 0.35])


def test_the_interval_holds_the_value_and_widens_with_disagreement():
    ours = Outcome([[0.0, 0.5], [0.25, 0.0]], [[1.0, 0.0, 1.0], [0.5, 0.5, 1.0]], 0.5)
    nothing = Outcome([[0.0, 0.0]] * 2, [[0.0] * 3] * 2, 1.0)
    least, _ = pareto.margin(ours, {"none": [nothing]})
    low, high = least["interval"]
    assert low < least["value"] < high
