"""The plot of Best Epoch: where its points lie, what is marked, and many epochs."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageColor
from unmemorize_pack.unmemorize.pictures import epoch_plot as plot
from unmemorize_pack.unmemorize.pictures.epoch_plot import Point, Telling

WIDTH = 600
AGREEMENT = Telling("least agreement", 1.0, 0.5)


def points(learnt, told, chosen=0):
    return [Point(str(k), a, b, b is not None and b < 0.5, k == chosen) for k, (a, b) in enumerate(zip(learnt, told, strict=True))]


def rows_of(picture, colour, x):
    """Rows in which a colour stands near a column."""
    pixels = np.asarray(picture)[:, int(x) - 1 : int(x) + 2]
    return np.nonzero((pixels == ImageColor.getrgb(colour)).all(-1).any(1))[0]


def columns(count):
    wide = WIDTH - plot.LEFT - plot.RIGHT
    return [plot.LEFT + wide * (k + 0.5) / count for k in range(count)]


def height_of(share):
    return plot.TOP + (plot.HEIGHT - plot.TOP - plot.BOTTOM) * (1 - share)


def test_both_lines_lie_where_their_values_are():
    learnt, told = [0.1, 0.6, 1.0], [0.95, 0.7, 0.2]
    picture = plot.epoch_plot(points(learnt, told), AGREEMENT, WIDTH)
    for x, a, b in zip(columns(3), learnt, told, strict=True):
        for colour, value in ((plot.LEARNT, a), (plot.TOLD, b)):
            found = rows_of(picture, colour, x)
            found = found[found >= plot.TOP - plot.DOT]  # not the legend
            assert found.mean() == pytest.approx(height_of(value), abs=4)


def test_copies_are_drawn_as_a_share_of_their_pictures_and_without_a_limit():
    told = [0, 1, 4]
    picture = plot.epoch_plot([Point(str(k), 0.5, c, c > 0, k == 0) for k, c in enumerate(told)], Telling("copies", 4, None), WIDTH)
    found = rows_of(picture, plot.TOLD, columns(3)[2])
    assert found[found > 20].mean() == pytest.approx(height_of(1.0), abs=4)
    inside = np.asarray(picture)[plot.TOP : plot.HEIGHT - plot.BOTTOM]
    assert not (inside == ImageColor.getrgb(plot.LEAK)).all(-1).any(), "no limit is drawn where there is none"


def test_the_limit_is_a_share_of_the_largest_value():
    picture = plot.epoch_plot([Point(str(k), 0.5, c, False, False) for k, c in enumerate((1, 4))], Telling("copies", 4, 1), WIDTH)
    inside = np.asarray(picture)[plot.TOP : plot.HEIGHT - plot.BOTTOM]
    rows = np.nonzero((inside == ImageColor.getrgb(plot.LEAK)).all(-1).any(1))[0]
    assert rows.mean() + plot.TOP == pytest.approx(height_of(0.25), abs=1)


def test_what_could_not_be_told_is_not_drawn():
    picture = plot.epoch_plot(points([0.2, 0.4], [None, None]), AGREEMENT, WIDTH)
    below = np.asarray(picture)[plot.TOP :]
    assert not (below == ImageColor.getrgb(plot.TOLD)).all(-1).any()


@pytest.mark.parametrize("count", [1, 2, 64])
def test_one_and_many_epochs_have_room(count):
    picture = plot.epoch_plot(points([k / count for k in range(count)], [0.9] * count, chosen=count - 1), AGREEMENT, WIDTH)
    assert picture.size == (WIDTH, plot.HEIGHT)
    far = np.abs(np.asarray(picture)[plot.HEIGHT - plot.BOTTOM :].astype(int) - ImageColor.getrgb(plot.CHOSEN)).sum(-1)
    assert far.min() < 80, "the suggested one is always named"
