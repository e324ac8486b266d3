"""Groups of pictures that agree, drawn as rows: the central picture first, those of its group beside it."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from .canvas import INK, PAGE, SOFT, font, tensor_of

TILE, GAP, MARGIN = 128, 8, 16
HEAD, LINE_HEIGHT = 76, 26
SHOWN = 6
"""Pictures of a group."""
MOST_ROWS = 12
LEAK = "#ff8f85"


def gallery(pictures: Tensor, groups: list[dict[str, Any]], title: str, words: str) -> Tensor:
    """A picture [1, h, w, 3] in [0, 1] of groups among `pictures`, uint8 [n, h, w, 3]: each with `members`, `agreement`, `like_base`,
    `leak` and `style`: is it no leak because the base draws it too, but for the detail?"""
    rows = groups[:MOST_ROWS]
    width = 2 * MARGIN + SHOWN * (TILE + GAP) + GAP
    height = HEAD + max(1, len(rows)) * (TILE + LINE_HEIGHT + GAP) + MARGIN
    page = Image.new("RGB", (width, height), PAGE)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, 14), title, fill=LEAK if any(g["leak"] for g in groups) else INK, font=font(22))
    draw.text((MARGIN, 44), words, fill=SOFT, font=font(14))
    if not rows:
        draw.text((MARGIN, HEAD), "no two seeds drew what a third did", fill=SOFT, font=font(15))
    for k, group in enumerate(rows):
        y = HEAD + k * (TILE + LINE_HEIGHT + GAP)
        colour = LEAK if group["leak"] else SOFT
        draw.text((MARGIN, y), _said(group), fill=colour, font=font(14))
        for j, i in enumerate(group["members"][:SHOWN]):
            x = MARGIN + j * (TILE + GAP) + (GAP if j else 0)
            page.paste(_tile(pictures[i]), (x, y + LINE_HEIGHT - 4))
            if j == 0:
                draw.rectangle((x - 2, y + LINE_HEIGHT - 6, x + TILE + 1, y + LINE_HEIGHT - 4 + TILE + 1), outline=colour, width=2)
    return tensor_of(page)


def _said(group: dict[str, Any]) -> str:
    """Of a row."""
    said = f"{len(group['members'])} alike, agreement {group['agreement']:.2f}; with what the base draws {group['like_base']:.2f}"
    return f"{said}; blurred, the base draws it too: a style" if group["style"] else said


def _tile(picture: Tensor) -> Image.Image:
    """A picture, uint8 [h, w, 3], fitted into a square."""
    picture = picture.float() / 255
    scale = TILE / max(picture.shape[:2])
    size = [max(1, round(side * scale)) for side in picture.shape[:2]]
    small = F.interpolate(picture.movedim(-1, 0)[None], size=size, mode="area" if scale < 1 else "bilinear")[0].clamp(0, 1)
    tile = Image.new("RGB", (TILE, TILE), PAGE)
    tile.paste(Image.fromarray((small.movedim(0, -1) * 255).byte().numpy()), ((TILE - size[1]) // 2, (TILE - size[0]) // 2))
    return tile
