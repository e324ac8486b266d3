"""Sheets of pictures to look at: numbers do not show what a repair looks like."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...unmemorize.pictures.heatmap import DEFAULT, colourise, heat
from .common import ROOT

CELL, GAP, HEAD, SIDE_TEXT = 128, 6, 26, 190
INK, PAGE, COPY = "#e8eaee", "#1d2026", "#ff8f85"

Cell = tuple[Tensor, bool]
"""A picture [3, h, w] in [0, 1], and whether it is a copy (framed)."""


def write_sheet(name: str, columns: list[str], rows: list[tuple[str, list[list[Cell]]]]) -> Path:
    """benchmarks/out/NAME.jpg: a line for each caption, under each column its cells."""
    widths = [max(len(cells[k]) for _, cells in rows) for k in range(len(columns))]
    starts = [SIDE_TEXT]
    for width in widths:
        starts.append(starts[-1] + width * (CELL + GAP) + 2 * GAP)
    sheet = Image.new("RGB", (starts[-1], HEAD + len(rows) * (CELL + GAP)), PAGE)
    draw = ImageDraw.Draw(sheet)
    for title, x in zip(columns, starts, strict=False):
        draw.text((x, 5), title, fill=INK, font=ImageFont.load_default(14))
    for r, (caption, cells) in enumerate(rows):
        y = HEAD + r * (CELL + GAP)
        draw.multiline_text((GAP, y + 8), wrapped(caption), fill=INK, font=ImageFont.load_default(13))
        for x, several in zip(starts, cells, strict=False):
            for k, (picture, copied) in enumerate(several):
                at = (x + k * (CELL + GAP), y)
                sheet.paste(as_image(picture), at)
                if copied:
                    draw.rectangle((*at, at[0] + CELL - 1, at[1] + CELL - 1), outline=COPY, width=3)
    path = ROOT / "benchmarks" / "out" / f"{name}.jpg"
    path.parent.mkdir(exist_ok=True)
    sheet.save(path, quality=88)
    return path


def heat_cell(values: Tensor, top: float) -> Cell:
    """A map [h, w] as a picture, from 0 to `top`."""
    coloured = colourise(heat(values[None], top), DEFAULT)[0].permute(2, 0, 1)
    return coloured.repeat_interleave(CELL // values.shape[0], 1).repeat_interleave(CELL // values.shape[1], 2), False


def as_image(picture: Tensor) -> Image.Image:
    """[3, h, w] in [0, 1] at the sheet's cell size."""
    values = (picture.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().cpu().numpy()
    return Image.fromarray(values).resize((CELL, CELL), Image.Resampling.LANCZOS)


def wrapped(text: str, width: int = 24) -> str:
    """Lines of at most `width` characters."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
