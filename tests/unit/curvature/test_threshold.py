"""Thresholds on maps whose answer is known."""

from __future__ import annotations

import pytest
import torch
from unmemorize_pack.unmemorize.curvature import threshold


def test_clean_threshold_is_the_quantile_of_the_pooled_pixels():
    maps = torch.arange(20 * 100, dtype=torch.float32).reshape(20, 10, 10)
    assert threshold.clean_threshold(maps, torch.ones_like(maps)) == pytest.approx(0.995 * 2000)
    half = torch.ones_like(maps)
    half[10:] = 0
    assert threshold.clean_threshold(maps, half) == pytest.approx(0.995 * 1000)


def test_negative_values_count_as_nothing():
    maps = -torch.rand(20, 8, 8)
    assert threshold.clean_threshold(maps, torch.ones_like(maps)) == 0.0


def test_too_few_clean_pictures_are_refused():
    with pytest.raises(ValueError, match="At least 20 clean pictures"):
        threshold.clean_threshold(torch.rand(19, 4, 4), torch.ones(19, 4, 4))
    with pytest.raises(ValueError, match="no generated pixel"):
        threshold.clean_threshold(torch.rand(20, 4, 4), torch.zeros(20, 4, 4))


@pytest.mark.parametrize(("cold", "hot"), [(0.01, 0.5), (0.0, 0.02), (1.0, 40.0)])
def test_otsu_separates_two_levels(cold, hot):
    g = torch.Generator().manual_seed(0)
    values = torch.cat([cold + 0.1 * (hot - cold) * torch.rand(300, generator=g), hot - 0.1 * (hot - cold) * torch.rand(200, generator=g)])
    found = threshold.otsu(values)
    assert ((values > found) == (torch.arange(500) >= 300)).all()
    assert cold + 0.2 * (hot - cold) < found < hot - 0.2 * (hot - cold)


def test_otsu_of_a_flat_map():
    assert threshold.otsu(torch.full((64,), 0.3)) == 0.0


def test_otsu_of_nothing():
    """An inpainting mask without a white pixel leaves no value."""
    assert threshold.otsu(torch.zeros(0)) == 0.0


def test_a_verdict_is_given_only_where_it_is_plain():
    """Half a percent of a clean picture is hot by construction: up to twice that is clean, from ten times on memorized."""
    said = [threshold.verdict_of(area) for area in (0.0, 0.0099, 0.0101, 0.0499, 0.0501, 1.0)]
    assert said == ["clean", "clean", "unclear", "unclear", "memorized", "memorized"]
    assert threshold.verdict_of(0.06, quantile=0.9) == "clean"


@pytest.mark.parametrize(
    ("pixels", "hot", "verdict"),
    [
        (256, 0, "clean"), (256, 2, "clean"), (256, 3, "unclear"), (256, 12, "unclear"), (256, 13, "memorized"), (256, 256, "memorized"),
        (4096, 40, "clean"), (4096, 205, "memorized"), (16, 0, "unclear"), (16, 1, "unclear"), (16, 2, "unclear"), (16, 3, "memorized"),
        (16, 16, "memorized"), (1, 0, "unclear"), (1, 1, "unclear"),
    ],
)  # fmt: skip
def test_few_pixels_are_hot_or_cold_by_chance(pixels, hot, verdict):
    """Whole pictures, of the demo's size and larger, keep the verdict that their share alone gives."""
    assert threshold.verdict_of(hot / pixels, pixels=pixels) == verdict
    assert pixels < 256 or threshold.verdict_of(hot / pixels) == verdict


def test_clean_pictures_are_seldom_called_memorized_by_a_small_region():
    generator = torch.Generator().manual_seed(0)
    hot = (torch.rand(2000, 16, generator=generator) > threshold.QUANTILE).sum(1).tolist()
    said = [threshold.verdict_of(n / 16, pixels=16) for n in hot]
    assert sum(n > 0 for n in hot) > 100 and said.count("memorized") <= 2000 * threshold.CHANCE
