"""Draws docs/icon.png, docs/banner.png and docs/what-it-shows.jpg from the pack's own pictures: `nox -s artwork`."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PHOTO = ROOT / "demo" / "photographs" / "cat-face.png"
MAPS = ROOT / "workflows" / "01-where-is-it-memorized.jpg"
PAGE, INK, SOFT = "#0f1218", "#f4f1e8", "#a3adbe"
HEAT = ("1b0c41", "4a0c6b", "781c6d", "a52c60", "cf4446", "ed6925", "fb9b06")
"""Stops of ember, the overlay's default."""
FINE = 4
"""Shapes are drawn this much larger and shrunk, for smooth edges."""


def heat(value: float) -> tuple[int, int, int]:
    """Colour of a heat in [0, 1]."""
    place = min(max(value, 0.0), 1.0) * (len(HEAT) - 1)
    low = min(int(place), len(HEAT) - 2)
    pair = [[int(stop[i : i + 2], 16) for i in (0, 2, 4)] for stop in HEAT[low : low + 2]]
    r, g, b = (round(x + (y - x) * (place - low)) for x, y in zip(*pair, strict=True))
    return r, g, b


def glow(size: tuple[int, int], centre: tuple[int, int], radius: int) -> Image.Image:
    """The page with a soft warm light behind what matters; a little noise keeps it from showing bands."""
    page, mask = Image.new("RGB", size, PAGE), Image.new("L", size, 0)
    x, y = centre
    ImageDraw.Draw(mask).ellipse((x - radius, y - radius, x + radius, y + radius), fill=64)
    page.paste(Image.new("RGB", size, heat(0.3)), (0, 0), mask.filter(ImageFilter.GaussianBlur(radius // 2)))
    chance = random.Random(5)
    grain = Image.frombytes("L", size, bytes(chance.choices((126, 127, 128, 129), k=size[0] * size[1]))).convert("RGB")
    return ImageChops.add(page, grain, offset=-127)


def dissolving(photo: Image.Image, cells: int, cell: int) -> list[tuple[int, int, float, tuple[int, int, int]]]:
    """(column, row, presence, colour) of the cells into which a photograph falls apart from left to right.

    The photograph's own brightness becomes the heat: the memory is still to be read in it.
    """
    chance = random.Random(7)
    bright = photo.convert("L").resize((cells, cells), Image.Resampling.BOX).tobytes()
    levels = sorted(bright)
    found = []
    for row in range(cells):
        for column in range(cells):
            gone = column / (cells - 1) + chance.uniform(-0.13, 0.13)
            rank = levels.index(bright[row * cells + column]) / (len(levels) - 1)
            found.append((column * cell, row * cell, gone, heat(0.12 + 0.88 * rank)))
    return found


def banner() -> Image.Image:
    """21:9: a photograph that turns into its heat, and the name."""
    size, side, cells = (1344, 576), 448, 28
    left, top, cell = size[0] - side - 118, (size[1] - side) // 2, side // cells
    page = glow(size, (left + side // 2, size[1] // 2), 420)
    photo = Image.open(PHOTO).convert("RGB")
    large = photo.resize((side, side), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(page)
    chance = random.Random(3)
    for x, y, gone, colour in dissolving(photo, cells, cell):
        if gone < 0.44:
            page.paste(large.crop((x, y, x + cell, y + cell)), (left + x, top + y))
        elif gone < 0.86:
            draw.rectangle((left + x, top + y, left + x + cell - 1, top + y + cell - 1), fill=colour)
        else:  # loose cells drift away, smaller the farther
            drift, shrink = int((gone - 0.86) * chance.uniform(250, 900)), chance.randint(3, 6)
            box = (left + x + drift, top + y + shrink, left + x + drift + cell - 2 * shrink, top + y + cell - shrink - 1)
            draw.rectangle(box, fill=colour)
    draw.text((72, 186), "Unmemorize", INK, ImageFont.load_default(108), stroke_width=1)
    draw.text((78, 326), "Find, show and remove memorized", SOFT, ImageFont.load_default(34))
    draw.text((78, 372), "training images in diffusion models", SOFT, ImageFont.load_default(34))
    return page


def icon(side: int = 400) -> Image.Image:
    """A picture in its frame, of which one corner falls apart into heat."""
    s = side * FINE / 400
    sheet = Image.new("RGBA", (side * FINE, side * FINE), (0, 0, 0, 0))
    draw = ImageDraw.Draw(sheet)

    def box(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        return x * s, y * s, (x + w) * s - 1, (y + h) * s - 1

    draw.rounded_rectangle(box(0, 0, 400, 400), 84 * s, fill=PAGE)
    draw.rounded_rectangle(box(46, 46, 308, 308), 34 * s, outline=INK, width=round(30 * s))
    draw.ellipse(box(108, 106, 74, 74), fill=heat(0.95))
    draw.polygon([(x * s, y * s) for x, y in ((76, 324), (176, 198), (302, 324))], fill=INK)
    cell = 44
    for column in range(7):
        for row in range(7):
            far = column + row - 6.5
            if far < 0:
                continue
            x, y = 46 + column * cell, 46 + row * cell
            draw.rectangle(box(x, y, cell, cell), fill=PAGE)
            shrink = 2 + max(0.0, far - 2) * 4
            if (column, row) not in GONE:
                draw.rectangle(box(x + shrink, y + shrink, cell - 2 * shrink, cell - 2 * shrink), fill=heat(0.95 - 0.14 * far))
    return sheet.resize((side, side), Image.Resampling.LANCZOS)


GONE = {(6, 4), (4, 6), (6, 6), (5, 5)}
"""Cells of the icon that have already left."""


SCALE = 146
"""Width of the colour scale under the words on the heatmap."""


def what_it_shows() -> Image.Image:
    """The pictures of the first workflow with words: what the model draws, and where it remembers."""
    found = Image.open(MAPS).convert("RGB")
    tile, gap, head, side = 256, 8, 92, 190
    titles = (
        ("A memorized photo", "hot all over"),
        ("A memorized template", "card hot, free window cold"),
        ("A scene it invents", "nearly cold"),
    )
    page = Image.new("RGB", (side + 3 * (tile + gap) + 3 * gap, head + 2 * (tile + gap) + 2 * gap), PAGE)
    draw = ImageDraw.Draw(page)
    for column, (title, words) in enumerate(titles):
        x = side + gap + column * (tile + gap)
        draw.text((x, 20), title, INK, ImageFont.load_default(20))
        draw.text((x, 52), words, SOFT, ImageFont.load_default(18))
        for row in range(2):
            place = (gap + column * (tile + gap), gap + row * (tile + gap))
            page.paste(found.crop((*place, place[0] + tile, place[1] + tile)), (x, head + row * (tile + gap)))
    for row, (title, words) in enumerate((("The picture", "as the model\ndraws it"), ("Its heatmap", "where the prompt\npins it down"))):
        y = head + row * (tile + gap) + 84
        draw.text((24, y), title, INK, ImageFont.load_default(23))
        draw.multiline_text((24, y + 36), words, SOFT, ImageFont.load_default(18), spacing=6)
    for x in range(SCALE):
        draw.line((24 + x, page.height - 60, 24 + x, page.height - 46), fill=heat(x / (SCALE - 1)))
    draw.text((24, page.height - 40), "cold", SOFT, ImageFont.load_default(15))
    draw.text((24 + SCALE, page.height - 40), "hot", SOFT, ImageFont.load_default(15), anchor="ra")
    return page


def main() -> None:
    """`nox -s artwork`."""
    icon().save(HERE / "icon.png", optimize=True)
    banner().save(HERE / "banner.png", optimize=True)
    what_it_shows().save(HERE / "what-it-shows.jpg", quality=88)


if __name__ == "__main__":
    main()
