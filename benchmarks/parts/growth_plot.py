"""How cost grows with what: a panel each, both axes by powers of two, time and memory relative to the smallest size."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw

from ...unmemorize.pictures.canvas import INK, LINE, PAGE, SOFT, font
from .common import ROOT

PANEL_WIDTH, PANEL_HEIGHT, ACROSS = 400, 300, 3
LEFT, RIGHT, TOP, BOTTOM = 52, 24, 58, 48
TIME, MEMORY = "#7fb2dc", "#f2c14e"
DOT = 4

Series = list[tuple[float, float, float]]
"""(size, seconds, bytes), sizes ascending."""


def growth_plot(name: str, panels: dict[str, tuple[Series, float]]) -> Path:
    """benchmarks/out/NAME.jpg: a panel for each title, with the power of the size that is in proportion."""
    rows = -(-len(panels) // ACROSS)
    page = Image.new("RGB", (ACROSS * PANEL_WIDTH, rows * PANEL_HEIGHT), PAGE)
    draw = ImageDraw.Draw(page)
    for k, (title, (series, power)) in enumerate(panels.items()):
        _panel(draw, (k % ACROSS * PANEL_WIDTH, k // ACROSS * PANEL_HEIGHT), title, series, power)
    path = ROOT / "benchmarks" / "out" / f"{name}.jpg"
    path.parent.mkdir(exist_ok=True)
    page.save(path, quality=92)
    return path


def _panel(draw: ImageDraw.ImageDraw, corner: tuple[int, int], title: str, series: Series, power: float) -> None:
    x0, y0 = corner[0] + LEFT, corner[1] + TOP
    wide, high = PANEL_WIDTH - LEFT - RIGHT, PANEL_HEIGHT - TOP - BOTTOM
    sizes = [size for size, *_ in series]
    lines = {TIME: [s / series[0][1] for _, s, _ in series], MEMORY: [b / max(series[0][2], 1) for *_, b in series]}
    linear = [(size / sizes[0]) ** power for size in sizes]
    top = max(1.0, *(math.log2(max(v, 1.0)) for line in (*lines.values(), linear) for v in line))
    across = math.log2(sizes[-1] / sizes[0]) or 1.0

    def at(size: float, factor: float) -> tuple[float, float]:
        return x0 + wide * math.log2(size / sizes[0]) / across, y0 + high * (1 - max(math.log2(max(factor, 1e-9)), 0.0) / top)

    for doubled in range(math.floor(top) + 1):
        y = at(sizes[0], 2.0**doubled)[1]
        draw.line((x0, y, x0 + wide, y), fill=LINE)
        draw.text((x0 - 8, y), f"{2**doubled}x", fill=SOFT, font=font(12), anchor="rm")
    ends = [at(size, factor) for size, factor in zip(sizes, linear, strict=True)]
    for (xa, ya), (xb, yb) in zip(ends, ends[1:], strict=False):
        for part in range(0, 10, 2):
            draw.line(
                (
                    xa + (xb - xa) * part / 10,
                    ya + (yb - ya) * part / 10,
                    xa + (xb - xa) * (part + 1) / 10,
                    ya + (yb - ya) * (part + 1) / 10,
                ),
                fill=SOFT,
            )
    for colour, line in lines.items():
        spots = [at(size, factor) for size, factor in zip(sizes, line, strict=True)]
        draw.line(spots, fill=colour, width=3)
        for x, y in spots:
            draw.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), fill=colour)
    for size in sizes:
        draw.text((at(size, 1.0)[0], y0 + high + 10), f"{size:g}", fill=INK, font=font(12), anchor="ma")
    draw.text((x0, corner[1] + 12), title, fill=INK, font=font(15))
    draw.text((x0, corner[1] + 34), "time", fill=TIME, font=font(13))
    draw.text((x0 + 42, corner[1] + 34), "memory", fill=MEMORY, font=font(13))
    draw.text((x0 + 108, corner[1] + 34), "- - in proportion", fill=SOFT, font=font(13))
