"""Pictures beside the references they are nearest to, the copied part outlined."""

from __future__ import annotations

import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from .canvas import INK, PAGE, SOFT, font, shown_text, tensor_of

TILE, GAP, MARGIN = 192, 10, 16
HEAD, LINE_HEIGHT = 52, 24
MOST = 8
BESIDE = 3
"""From so many pictures on there are two columns: a tall sheet would be small in its node."""
LETTERS, TITLE_LETTERS = 62, 48
COPY = "#ff8f85"


def copy_sheet(pictures: Tensor, nearest: Tensor, masks: Tensor, words: list[str], copies: list[bool], title: str) -> Tensor:
    """A picture [1, h, w, 3] in [0, 1]: of every picture [n, h, w, 3] itself, its nearest reference [n, h, w, 3], a line of words; `masks`
    [n, h, w], boolean: the copied part."""
    order = sorted(range(len(words)), key=lambda i: not copies[i])[:MOST]
    columns = 2 if len(order) >= BESIDE else 1
    pair, row = 2 * TILE + GAP, TILE + LINE_HEIGHT + GAP
    width = columns * (pair + 2 * MARGIN)
    height = HEAD + -(-len(order) // columns) * row + MARGIN
    page = Image.new("RGB", (width, height), PAGE)
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, 14), shown_text(title, columns * TITLE_LETTERS), fill=COPY if any(copies) else INK, font=font(18))
    for k, i in enumerate(order):
        x, y = MARGIN + k % columns * (pair + 2 * MARGIN), HEAD + k // columns * row
        draw.text((x, y), shown_text(words[i], LETTERS), fill=COPY if copies[i] else SOFT, font=font(12))
        for column, picture in enumerate((pictures[i], nearest[i])):
            tile, size, corner = _tile(picture)
            at = (x + column * (TILE + GAP), y + LINE_HEIGHT - 4)
            page.paste(tile, at)
            if column == 0 and copies[i]:
                _outline(draw, masks[i], (at[0] + corner[0], at[1] + corner[1]), size)
    return tensor_of(page)


def _tile(picture: Tensor) -> tuple[Image.Image, tuple[int, int], tuple[int, int]]:
    """A picture [h, w, 3] in a square, its size in it (w, h), and its corner."""
    scale = TILE / max(picture.shape[:2])
    size = [max(1, round(side * scale)) for side in picture.shape[:2]]
    small = F.interpolate(picture.movedim(-1, 0)[None].float(), size=size, mode="bilinear", antialias=True)[0].clamp(0, 1)
    corner = ((TILE - size[1]) // 2, (TILE - size[0]) // 2)
    tile = Image.new("RGB", (TILE, TILE), PAGE)
    tile.paste(Image.fromarray((small.movedim(0, -1) * 255).byte().numpy()), corner)
    return tile, (size[1], size[0]), corner


def _outline(draw: ImageDraw.ImageDraw, mask: Tensor, corner: tuple[int, int], size: tuple[int, int]) -> None:
    """The border of a mask [h, w], drawn as short lines between inside and outside."""
    small = F.interpolate(mask[None, None].float(), size=(size[1], size[0]), mode="area")[0, 0] > 0.5
    padded = F.pad(small[None, None].float(), (1, 1, 1, 1))[0, 0] > 0.5
    edge = small & ~(padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:])
    for y, x in edge.nonzero().tolist():
        draw.point((corner[0] + x, corner[1] + y), fill=COPY)
        draw.point((corner[0] + x + 1, corner[1] + y), fill=COPY)
