"""A LoRA's epochs as rows of pictures, those that leak marked, the suggested one framed."""

from __future__ import annotations

import textwrap
from typing import Any

import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from .canvas import INK, PAGE, SOFT, font, shown_text, tensor_of
from .epoch_plot import HEIGHT, Point, Telling, epoch_plot

TILE, GAP, MARGIN, LABEL = 112, 6, 16, 230
HEAD = 72
MOST_COLUMNS = 6
LEAK, CHOSEN = "#ff8f85", "#76d3a6"


def epoch_grid(pictures: Tensor, rows: list[dict[str, Any]], title: str, points: list[Point], telling: Telling) -> Tensor:
    """A picture [1, h, w, 3] in [0, 1]: a plot of `points`, and `pictures` [epochs, captions, h, w, 3]; a row has `title`, `words`,
    `leaks`, `chosen`."""
    columns = min(pictures.shape[1], MOST_COLUMNS)
    width = max(520, 2 * MARGIN + LABEL + columns * (TILE + GAP))
    head = HEAD + HEIGHT + GAP
    page = Image.new("RGB", (width, head + len(rows) * (TILE + GAP) + MARGIN), PAGE)
    page.paste(epoch_plot(points, telling, width), (0, HEAD))
    draw = ImageDraw.Draw(page)
    for k, line in enumerate(textwrap.wrap(shown_text(title, 240), 64)[:3]):
        draw.text((MARGIN, 10 + 19 * k), line, fill=INK, font=font(15))
    for k, row in enumerate(rows):
        y = head + k * (TILE + GAP)
        colour = LEAK if row["leaks"] else CHOSEN if row["chosen"] else SOFT
        draw.text((MARGIN, y + 4), shown_text(row["title"], 28), fill=INK, font=font(14))
        for n, line in enumerate(textwrap.wrap(shown_text(row["words"], 90), 32)[:3]):
            draw.text((MARGIN, y + 26 + 17 * n), line, fill=colour, font=font(13))
        for j in range(columns):
            small = F.interpolate(pictures[k, j].movedim(-1, 0)[None].float(), size=(TILE, TILE), mode="bilinear", antialias=True)[0]
            tile = Image.fromarray((small.clamp(0, 1).movedim(0, -1) * 255).byte().numpy())
            page.paste(tile, (MARGIN + LABEL + j * (TILE + GAP), y))
        if row["chosen"]:
            right = MARGIN + LABEL + columns * (TILE + GAP) - GAP
            draw.rectangle((MARGIN - 6, y - 3, right + 3, y + TILE + 2), outline=CHOSEN, width=2)
    return tensor_of(page)
