"""A LoRA's epochs as two lines: how much each has learnt, and what tells whether it leaks."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw

from .canvas import INK, LINE, PAGE, SOFT, font, shown_text

HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 190, 44, 16, 30, 26
LEARNT, TOLD, LEAK, CHOSEN = "#7fb2dc", "#f2c14e", "#ff8f85", "#76d3a6"
DOT = 4
LABEL = 52
"""Least room of a label under the axis."""


@dataclass(frozen=True)
class Point:
    """An epoch: its label, what it has learnt (1 = as much as the strongest), and what tells whether it leaks (None: nothing could)."""

    label: str
    learnt: float
    told: float | None
    leaks: bool
    chosen: bool


@dataclass(frozen=True)
class Telling:
    """What tells of leaks, in words; its largest value; and the limit between those that leak and others, if there is one."""

    words: str
    top: float
    limit: float | None


def epoch_plot(points: list[Point], telling: Telling, width: int) -> Image.Image:
    """Both lines over the epochs in their order, [HEIGHT, width] pixels. Shares of 1 on the left; where `told` has another top it is
    drawn as a share of that."""
    page = Image.new("RGB", (width, HEIGHT), PAGE)
    draw = ImageDraw.Draw(page)
    wide, high = width - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    across = [LEFT + wide * (k + 0.5) / len(points) for k in range(len(points))]

    def down(share: float) -> float:
        return TOP + high * (1 - min(max(share, 0.0), 1.0))

    for share in (0.0, 0.5, 1.0):
        draw.line((LEFT, down(share), width - RIGHT, down(share)), fill=LINE)
        draw.text((LEFT - 8, down(share)), f"{share:g}", fill=SOFT, font=font(11), anchor="rm")
    if telling.limit is not None:
        limit = down(telling.limit / telling.top)
        for dash in range(LEFT, width - RIGHT, 10):
            draw.line((dash, limit, min(dash + 5, width - RIGHT), limit), fill=LEAK)
    told = [(x, down(p.told / telling.top)) for x, p in zip(across, points, strict=True) if p.told is not None]
    for line, colour in (([(x, down(p.learnt)) for x, p in zip(across, points, strict=True)], LEARNT), (told, TOLD)):
        if len(line) > 1:
            draw.line(line, fill=colour, width=2)
        for x, y in line:
            draw.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), fill=colour)
    _labels(draw, points, across)
    draw.text((LEFT, 8), "learnt", fill=LEARNT, font=font(13))
    draw.text((LEFT + 56, 8), shown_text(telling.words, 60), fill=TOLD, font=font(13))
    return page


def _labels(draw: ImageDraw.ImageDraw, points: list[Point], across: list[float]) -> None:
    """Under the axis, as many as there is room for; those that leak red, the suggested one green."""
    room = across[1] - across[0] if len(across) > 1 else LABEL
    every = max(1, -int(-LABEL // room))
    for k, (x, p) in enumerate(zip(across, points, strict=True)):
        if k % every == 0 or p.chosen:
            colour = LEAK if p.leaks else CHOSEN if p.chosen else INK
            draw.text((x, HEIGHT - BOTTOM + 6), shown_text(p.label, 12), fill=colour, font=font(11), anchor="ma")
