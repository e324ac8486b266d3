"""Neuron masks compared, as a picture: how alike each two are, and in which layers and at which noise levels."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .canvas import DARK, INK, PAGE, SOFT, font, tensor_of
from .heatmap import colourise

MARGIN, CELL, ROW, GAP, HEAD, FOOT = 24, 84, 20, 56, 74, 58
LABEL = 200
COLOURS = "viridis"


def iou_chart(names: list[str], matrix: Tensor, layers: list[str], rows: Tensor, columns: list[str]) -> Tensor:
    """The picture [1, h, w, 3] in [0, 1]: IoU of each two masks [n, n], and their mean over pairs by layer and column [layers, c]."""
    wide = max(28, min(72, 640 // len(columns)))
    left = MARGIN + 120
    right = left + CELL * len(names) + GAP
    width = right + LABEL + wide * len(columns) + MARGIN
    height = HEAD + max(CELL * len(names), ROW * len(layers)) + FOOT
    picture = Image.new("RGB", (width, height), PAGE)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, 14), "IoU of each two masks, mean over layers", fill=INK, font=font(16))
    _matrix(draw, left, names, matrix)
    draw.text((right, 14), "IoU by layer, mean over pairs", fill=INK, font=font(16))
    _rows(draw, right, wide, layers, rows, columns)
    _legend(draw, MARGIN, height - 34)
    return tensor_of(picture)


def short_names(layers: list[str]) -> list[str]:
    """Names of layers without what all of them share at both ends."""
    parts = [name.split(".") for name in layers]
    shortest = min(len(p) for p in parts)
    begin = next((i for i in range(shortest) if len({p[i] for p in parts}) > 1), 0)
    end = next((i for i in range(shortest - begin) if len({p[-1 - i] for p in parts}) > 1), 0)
    return [".".join(p[begin : len(p) - end]) for p in parts]


def _matrix(draw: ImageDraw.ImageDraw, left: int, names: list[str], matrix: Tensor) -> None:
    for i, name in enumerate(names):
        draw.text((MARGIN, HEAD + CELL * i + CELL // 2 - 8), _cut(draw, name, 112, 14), fill=SOFT, font=font(14))
        draw.text((left + CELL * i + 4, HEAD - 22), _cut(draw, name, CELL - 8, 14), fill=SOFT, font=font(14))
        for j in range(len(names)):
            value = float(matrix[i, j])
            box = (left + CELL * j, HEAD + CELL * i, left + CELL * (j + 1) - 3, HEAD + CELL * (i + 1) - 3)
            draw.rectangle(box, fill=_colour(value))
            draw.text((box[0] + 24, box[1] + CELL // 2 - 10), f"{value:.2f}", fill=_ink_on(value), font=font(16))


def _rows(draw: ImageDraw.ImageDraw, left: int, wide: int, layers: list[str], rows: Tensor, columns: list[str]) -> None:
    for k, column in enumerate(columns):
        draw.text((left + LABEL + wide * k + 2, HEAD - 22), _cut(draw, column, wide - 2, 12), fill=SOFT, font=font(12))
    for i, name in enumerate(short_names(layers)):
        draw.text((left, HEAD + ROW * i + 2), _cut(draw, name, LABEL - 10, 12), fill=SOFT, font=font(12))
        for k in range(len(columns)):
            value = float(rows[i, k])
            x, y = left + LABEL + wide * k, HEAD + ROW * i
            draw.rectangle((x, y, x + wide - 2, y + ROW - 2), fill=_colour(value))
            draw.text((x + 3, y + 2), f"{value:.2f}", fill=_ink_on(value), font=font(11))


def _legend(draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
    for k in range(64):
        draw.rectangle((x + 3 * k, y, x + 3 * k + 2, y + 12), fill=_colour(k / 63))
    draw.text((x + 200, y - 2), "0 = nothing in common, 1 = the same weights", fill=SOFT, font=font(13))


def _colour(value: float) -> str:
    red, green, blue = (int(round(255 * float(c))) for c in colourise(torch.tensor([[[value]]]), COLOURS)[0, 0, 0])
    return f"#{red:02x}{green:02x}{blue:02x}"


def _ink_on(value: float) -> str:
    return DARK if value > 0.6 else INK


def _cut(draw: ImageDraw.ImageDraw, text: str, width: int, size: int) -> str:
    """As much of a text as fits, its end rather than its beginning."""
    while len(text) > 3 and draw.textlength(text, font=font(size)) > width:
        text = ".." + text[3:]
    return text
