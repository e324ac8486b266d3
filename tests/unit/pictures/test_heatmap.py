"""Rendering of maps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from unmemorize_pack.unmemorize.curvature import maps
from unmemorize_pack.unmemorize.pictures import heatmap


def test_opacity_zero_is_the_same_picture():
    picture = torch.rand(1, 16, 16, 3)
    assert heatmap.overlay(picture, torch.rand(1, 16, 16), "viridis", 0.0) is picture


def test_cold_pixels_stay_and_hot_pixels_take_the_last_colour():
    picture = torch.rand(1, 2, 2, 3)
    hot = torch.zeros(1, 2, 2)
    hot[0, 0, 0] = 1
    shown = heatmap.overlay(picture, hot, "inferno", 1.0)
    assert torch.equal(shown[0, 1], picture[0, 1])
    assert torch.allclose(shown[0, 0, 0], torch.tensor([0xFC, 0xFF, 0xA4]) / 255)


@pytest.mark.parametrize("name", list(heatmap.COLOUR_MAPS))
def test_colour_maps_grow_lighter(name):
    ramp = heatmap.colourise(torch.linspace(0, 1, 64).reshape(1, 1, 64), name)[0, 0]
    lightness = ramp @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert (lightness.diff() > 0).all()


def test_unknown_colour_map_is_named():
    with pytest.raises(ValueError, match="rainbow"):
        heatmap.colourise(torch.zeros(1, 1, 1), "rainbow")


@given(st.integers(0, 10_000), st.floats(0.01, 10))
def test_heat_is_between_zero_and_one_and_ignores_negative_values(seed, top):
    values = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(seed))
    hot = heatmap.heat(values, top)
    assert hot.min() >= 0 and hot.max() <= 1
    assert (hot[values <= 0] == 0).all()


def test_map_without_positive_values_is_cold_not_nan():
    values = -torch.rand(1, 4, 4)
    assert (heatmap.heat(values, heatmap.percentile(values.flatten(), 99)) == 0).all()


@pytest.mark.parametrize("size", [3, 7, 13])
def test_smoothing_keeps_a_constant_at_the_edges_too(size):
    assert torch.allclose(heatmap.smooth(torch.full((1, 16, 16), 0.7), size), torch.full((1, 16, 16), 0.7))


def test_smoothing_is_a_mean_and_zero_changes_nothing():
    spike = torch.zeros(1, 5, 5)
    spike[0, 2, 2] = 9
    assert heatmap.smooth(spike, 3)[0, 1:4, 1:4].allclose(torch.ones(3, 3))
    assert heatmap.smooth(spike, 0) is spike
    with pytest.raises(ValueError, match="odd"):
        heatmap.smooth(spike, 4)


def test_score_is_the_mean_of_the_positive_part_per_channel():
    result = maps.make_map(torch.tensor([[[8.0, -8.0], [0.0, 4.0]]]), 4, {})
    assert maps.scores(result).tolist() == [pytest.approx((2 + 1) / 4)]


@pytest.mark.parametrize(("shape", "words"), [((2, 128, 128, 3), "2 came in"), ((1, 128, 256, 3), "another shape")])
def test_a_map_of_another_picture_is_refused(shape, words):
    result = maps.make_map(torch.zeros(1, 16, 16), 8, {})
    with pytest.raises(ValueError, match=words):
        maps.check_map(result, torch.Size(shape))


def test_something_else_is_not_a_map():
    with pytest.raises(ValueError, match="not a map"):
        maps.check_map({"samples": torch.zeros(1)}, torch.Size((1, 8, 8, 3)))


def test_a_picture_with_an_alpha_channel_is_refused():
    with pytest.raises(ValueError, match="three channels"):
        maps.check_map(maps.make_map(torch.zeros(1, 16, 16), 8, {}), torch.Size((1, 128, 128, 4)))


def test_only_the_generated_region_counts():
    region = torch.zeros(1, 2, 2)
    region[0, 0] = 1
    result = maps.make_map(torch.full((1, 2, 2), 4.0), 4, {}, region)
    assert maps.scores(result).tolist() == [1.0]
    assert result["values"][0, 1].eq(0).all()
    assert maps.scores(maps.make_map(torch.ones(1, 2, 2), 1, {}, torch.zeros(1, 2, 2))).tolist() == [0.0]
