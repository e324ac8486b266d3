"""Heatmap Overlay: what its mask leaves, and maps that nothing can be read from."""

from __future__ import annotations

import pytest
import torch

LOOK = {"colour_map": "ember", "opacity": 0.85, "full_heat": 0.0, "clip": 99.0, "smooth": "3"}


@pytest.fixture
def overlay(nodes):
    """overlay(map, mask) -> pictures, heat, mean, peak."""
    picture = torch.full((1, 128, 128, 3), 0.5)
    return lambda found, mask=None: nodes["UnmemorizeHeatmapOverlay"].execute(picture, found, **LOOK, mask=mask).args


def map_of(values, region=None):
    region = torch.ones_like(values) if region is None else region
    return {"values": values, "channels": 1, "region": region, "settings": {}}


def test_maps_of_no_numbers_are_refused_by_all_who_read_them(nodes, overlay):
    for value in (float("nan"), float("inf")):
        values = torch.zeros(1, 16, 16)
        values[0, 3, 3] = value
        with pytest.raises(ValueError, match="not numbers.*Measure it again"):
            overlay(map_of(values))
        with pytest.raises(ValueError, match="not numbers.*Measure it again"):
            nodes["UnmemorizeMapThreshold"].execute(map_of(values))


def test_a_mask_smaller_than_a_spot_counts_the_spots_that_it_touches(overlay):
    values, mask = torch.zeros(1, 16, 16), torch.zeros(1, 128, 128)
    values[0, 0, 0], values[0, 8, 8] = 0.6, 1.0
    mask[:, 3:8, 3:8] = 1
    _, heat, mean, peak = overlay(map_of(values), mask)
    assert mean == pytest.approx(0.6) and peak == pytest.approx(0.6)
    assert heat[0, 3:8, 3:8].min() > 0 and heat.sum() == heat[0, 3:8, 3:8].sum()


def test_a_larger_mask_counts_what_it_covers_by_more_than_half(overlay):
    values, mask = torch.zeros(1, 16, 16), torch.zeros(1, 128, 128)
    values[0, 1, 1], values[0, 2, 2] = 0.6, 1.0
    mask[:, 8:18, 8:18] = 1
    assert overlay(map_of(values), mask)[2] == pytest.approx(0.6)


def test_a_mask_of_nothing_that_was_drawn_is_refused(overlay):
    region = torch.zeros(1, 16, 16)
    region[:, :8] = 1
    below = torch.zeros(1, 128, 128)
    below[:, 100:] = 1
    for mask in (torch.zeros(1, 128, 128), below):
        with pytest.raises(ValueError, match="covers no spot of the map.*leave `mask` unconnected"):
            overlay(map_of(torch.ones(1, 16, 16) * region, region), mask)


def test_where_nothing_is_above_zero_there_is_no_heat(overlay):
    """Spots beside the mask are smoothed into it: they must not become full heat of a scale that ends at 0."""
    values, mask = torch.zeros(1, 16, 16), torch.zeros(1, 128, 128)
    values[0, 8, 8] = 1.0
    mask[:, 64:72, 72:80] = 1
    pictures, heat, mean, peak = overlay(map_of(values), mask)
    assert (mean, peak) == (0.0, 0.0) and not heat.any() and torch.equal(pictures, torch.full_like(pictures, 0.5))
