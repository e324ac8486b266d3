"""Honest scores to an answer: conformal thresholds, percentiles, leave-one-out."""

from __future__ import annotations

import math

import pytest
import torch
from unmemorize_pack.unmemorize.copies.calibration import best_of_others, calibration, least


def test_at_most_the_rate_of_honest_pictures_is_called_a_copy():
    """Split conformal: over many draws of k honest scores and one more, the one more exceeds the threshold at most at the rate."""
    generator = torch.Generator().manual_seed(0)
    for k, rate in ((99, 0.01), (49, 0.02), (30, 0.1)):
        alarms = 0
        for _ in range(2000):
            scores = torch.rand(k + 1, generator=generator)
            alarms += float(scores[-1]) > calibration(scores[:-1]).threshold(rate)
        assert alarms / 2000 <= rate + 3 * math.sqrt(rate / 2000)


@pytest.mark.parametrize(("rate", "needed"), [(0.5, 1), (0.1, 9), (0.05, 19), (0.02, 49), (0.01, 99), (0.001, 999)])
def test_a_rate_needs_so_many_honest_pictures(rate, needed):
    assert least(rate) == needed
    assert math.isfinite(calibration(torch.rand(needed)).threshold(rate))
    if needed > 1:
        with pytest.raises(ValueError, match=f"at least {needed}"):
            calibration(torch.rand(needed - 1)).threshold(rate)


def test_percentiles_count_honest_scores_below():
    known = calibration(torch.tensor([0.3, 0.1, 0.2, float("nan")]))
    assert [known.percentile(s) for s in (0.0, 0.2, 0.25, 1.0)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    with pytest.raises(ValueError, match="no honest picture"):
        calibration(torch.tensor([float("nan")]))


def test_a_reference_is_not_its_own_match_and_copies_among_them_do_not_count():
    similarity = torch.tensor([[1.0, 0.9, 0.2], [0.9, 1.0, 0.3], [0.2, 0.3, 1.0]])
    assert best_of_others(similarity, same=0.8).tolist() == pytest.approx([0.2, 0.3, 0.3])
    assert best_of_others(similarity, same=2.0).tolist() == pytest.approx([0.9, 0.9, 0.3])
    assert math.isnan(best_of_others(torch.tensor([[1.0, 0.9]]), same=0.8)[0])


def test_what_was_not_looked_at_is_no_honest_match():
    """A detector marks it -inf: a reference of which all others are copies has no honest match, not one of 0."""
    similarity = torch.tensor([[1.0, 0.9, -torch.inf], [0.9, 1.0, -torch.inf], [0.2, -torch.inf, 1.0]])
    found = best_of_others(similarity, same=0.8)
    assert math.isnan(found[0]) and math.isnan(found[1]) and float(found[2]) == pytest.approx(0.2)
