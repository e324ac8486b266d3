"""The channels of a LoRA as a picture: alignment against singular value, kept and removed, and the energy of every block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from .canvas import INK, LINE, PAGE, SOFT, font, shown_text, tensor_of

WIDTH, HEAD, SIDE, MARGIN, FOOT = 1000, 84, 400, 70, 60
BAR, MOST_BLOCKS = 18, 40
KEPT, REMOVED, WEAKENED = "#7fb2dc", "#ff8f85", "#f2c14e"
LARGE = 4
"""Radius of a dot that stands for a layer."""
MOST_POINTS = 20_000
"""More points say no more; they are thinned out evenly."""


@dataclass(frozen=True)
class Points:
    """All channels of a file; its layers, where they were judged as one."""

    scores: Tensor
    """[c]"""
    sigma: Tensor
    share: Tensor
    """sigma' / sigma: 1 kept, 0 removed."""


def spectrum_picture(spectrum: dict[str, Any]) -> Tensor:
    """The plot [1, h, w, 3] in [0, 1]; `spectrum` as host.lora.report writes it."""
    layers = spectrum["layers"]
    points = gathered(layers)
    blocks = energies(layers)[:MOST_BLOCKS]
    height = HEAD + SIDE + FOOT + BAR * len(blocks) + FOOT
    picture = Image.new("RGB", (WIDTH, height), PAGE)
    draw = ImageDraw.Draw(picture)
    _headline(draw, spectrum, points)
    if len(points.sigma):
        by_layer = spectrum["by_layer"]
        words = "a row for each layer, the file's first at the bottom" if by_layer else f"score ({spectrum['score']})"
        whole = spectrum["unit"] == "layer"
        against = "the size of its change" if whole else "the singular value"
        _cloud(draw, points, by_row(layers) if by_layer else points.scores, f"{words}, against {against}", whole)
        _bars(draw, blocks, len(energies(layers)))
    return tensor_of(picture)


def gathered(layers: list[dict[str, Any]]) -> Points:
    """The channels of all layers together."""
    parts = [[layer[k].float() for layer in layers] for k in ("scores", "sigma", "new_sigma")]
    scores, sigma, new = (torch.cat(several) if several else torch.zeros(0) for several in parts)
    return Points(scores, sigma, new / sigma)


def counted(layers: list[dict[str, Any]]) -> tuple[int, int]:
    """How many channels there are, and how many of them were removed."""
    total = sum(layer["stands_for"] * len(layer["sigma"]) for layer in layers)
    return total, sum(layer["stands_for"] * int((layer["new_sigma"] == 0).sum()) for layer in layers)


def by_row(layers: list[dict[str, Any]]) -> Tensor:
    """A height for every channel where its layer alone decides: the layer's number, [c]."""
    return torch.cat([torch.full_like(layer["sigma"].float(), float(row)) for row, layer in enumerate(layers, 1)])


def energies(layers: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """(Block, energy before, energy kept), in the order of the file."""
    found: dict[str, tuple[float, float]] = {}
    for layer in layers:
        before, kept = found.get(layer["block"], (0.0, 0.0))
        found[layer["block"]] = (before + float(layer["sigma"].square().sum()), kept + float(layer["new_sigma"].square().sum()))
    return [(name, *values) for name, values in found.items()]


def _headline(draw: ImageDraw.ImageDraw, spectrum: dict[str, Any], points: Points) -> None:
    energy = float(points.sigma.square().sum())
    kept = float((points.sigma * points.share).square().sum()) / energy if energy else 1.0
    draw.text((MARGIN, 12), shown_text(spectrum["name"], 70), fill=INK, font=font(20))
    total, removed = counted(spectrum["layers"])
    text = f"{total} channels in {len(spectrum['layers'])} layers, {removed} removed; "
    draw.text((MARGIN, 42), text + f"{100 * (1 - kept):.1f} % of the energy removed", fill=SOFT, font=font(14))


def _cloud(draw: ImageDraw.ImageDraw, points: Points, heights: Tensor, words: str, whole: bool) -> None:
    x_low, x_high = (float(v) for v in points.sigma.log10().aminmax())
    y_low, y_high = (float(v) for v in heights.aminmax())
    x_span, y_span = max(x_high - x_low, 1e-6), max(y_high - y_low, 1e-6)
    left, right, top, bottom = MARGIN, WIDTH - MARGIN, HEAD, HEAD + SIDE

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * (x - x_low) / x_span, bottom - (bottom - top) * (y - y_low) / y_span

    draw.rectangle((left, top, right, bottom), outline=LINE)
    if y_low < 0 < y_high:
        draw.line([at(x_low, 0), at(x_high, 0)], fill=LINE)
        draw.text((8, at(0, 0)[1] - 8), "0", fill=SOFT, font=font(13))
    for value in (y_low, y_high):
        draw.text((8, at(0, value)[1] - 8), f"{value:.2g}", fill=SOFT, font=font(13))
    for power in range(math.ceil(x_low), math.floor(x_high) + 1):
        draw.text((at(power, y_low)[0] - 12, bottom + 6), f"1e{power}", fill=SOFT, font=font(13))
    every = max(1, len(points.sigma) // MOST_POINTS)
    radius = LARGE if whole else 2
    for x, y, share in zip(*(v[::every].tolist() for v in (points.sigma.log10(), heights, points.share)), strict=True):
        cx, cy = at(x, y)
        colour = KEPT if share == 1 else REMOVED if share == 0 else WEAKENED
        draw.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=colour)
    draw.text((MARGIN, HEAD - 20), words, fill=SOFT, font=font(13))
    x = WIDTH - MARGIN - 250
    for colour, word in ((KEPT, "kept"), (WEAKENED, "weakened"), (REMOVED, "removed")):
        draw.rectangle((x, HEAD - 16, x + 12, HEAD - 6), fill=colour)
        draw.text((x + 18, HEAD - 20), word, fill=SOFT, font=font(13))
        x += 90


def _bars(draw: ImageDraw.ImageDraw, blocks: list[tuple[str, float, float]], count: int) -> None:
    top, left, most = HEAD + SIDE + FOOT, 330, max(before for _, before, _ in blocks)
    more = f" (the first {len(blocks)} of {count} blocks)" if count > len(blocks) else ""
    draw.text((MARGIN, top - 22), f"energy by block: kept, removed{more}", fill=SOFT, font=font(13))
    for row, (name, before, kept) in enumerate(blocks):
        y = top + BAR * row
        scale = (WIDTH - MARGIN - left) / most if most else 0.0
        draw.text((MARGIN, y), shown_text(name, 36), fill=SOFT, font=font(13))
        draw.rectangle((left, y + 3, left + scale * before, y + BAR - 3), fill=REMOVED)
        if kept > 0:
            draw.rectangle((left, y + 3, left + scale * min(kept, before), y + BAR - 3), fill=KEPT)
