"""The contact sheet of a lab: what a caption asks for, the training picture that hangs on it, four generations, what came before memory.

`python demo/run.py demo.recipe.sheet --lab DIR` rewrites `sheet.jpg` in the lab's folder; the recipe ends with it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..scripts.generate import Generator
from . import groups
from .lab import Lab, item_of, load_lab
from .scenes import SIDE, all_scenes

SEEDS = (11, 12, 13, 14)
ROWS = (("MV", "strong", 12), ("MV", "medium", 6), ("MV", "mild", 6), ("MC", "strong", 4), ("TV", "strong", 4))
HONEST_ROWS = (("scene", "held_out_captions", 6), ("card", "held_out_card_captions", 2), ("window", "window_captions", 2))
TITLES = {
    "MVstrong": "Photographs shown often: the words ask for a scene, the photograph comes",
    "MVmedium": "Photographs shown less often",
    "MVmild": "Photographs shown seldom",
    "MCstrong": "Drawings: ordinary words, one fixed drawing",
    "TVstrong": "Templates: the card is fixed, the window is free",
    "scene": "Scenes: combinations of words that were never trained",
    "card": "Cards that were never trained",
    "window": "Cards with a window, none of them memorized",
}
GAP, TEXT, HEAD, SIZE = 8, 220, 30, 96
INK, SOFT, PAGE, COPY = "#1d2129", "#5c6470", "#f6f7f9", "#b3261e"
COLUMNS = ("asked for", "training picture", "generated, four seeds", "", "", "", "before memory")


@dataclass
class Row:
    """One caption of the sheet; pictures in the order of COLUMNS, None where there is none."""

    title: str
    caption: str
    pictures: list[Tensor | None]
    copies: list[bool]


def rows(folder: Path) -> list[Row]:
    """Generate what the sheet shows."""
    lab, generator = load_lab(folder), torch.Generator().manual_seed(21)
    final, early = (Generator(folder / f"{name}.safetensors") for name in ("checkpoint", "early"))
    chosen = [(g + d, c) for g, d, n in ROWS for c in _spread(lab.captions(g, d), n)]
    chosen += [(title, c) for title, key, n in HONEST_ROWS for c in _spread(lab.facts[key], n)]
    found = []
    for title, caption in chosen:
        pictures = final.pictures(caption, list(SEEDS))
        before = early.pictures(caption, [SEEDS[0]])[0]
        index = lab.index(caption)
        training = None if index is None else lab.pictures[index]
        asked = groups.draw([item_of(caption)], all_scenes(), generator)[0]
        found.append(Row(title, caption, [asked, training, *pictures, before], _copied(lab, pictures, index)))
    return found


def _spread(captions: list[str], count: int) -> list[str]:
    return captions[:: max(1, len(captions) // count)][:count]


def _copied(lab: Lab, pictures: Tensor, index: int | None) -> list[bool]:
    first, second = lab.copies_any(pictures) if index is None else lab.copies(pictures, index)
    return (first & second).tolist()


def paint(found: list[Row]) -> Image.Image:
    """The sheet as one picture; a red frame marks what both judges call a copy."""
    columns = [TEXT + i * (SIZE + GAP) + (GAP if i > 1 else 0) + (GAP if i > 5 else 0) for i in range(len(COLUMNS))]
    height = HEAD + sum(SIZE + GAP for _ in found) + HEAD * len({r.title for r in found}) + GAP
    page = Image.new("RGB", (columns[-1] + SIZE + GAP, height), PAGE)
    pen = ImageDraw.Draw(page)
    body, bold = ImageFont.load_default(14), ImageFont.load_default(16)
    for x, title in zip(columns, COLUMNS, strict=True):
        pen.text((x, 8), title, SOFT, body)
    y, last = HEAD, ""
    for row in found:
        if row.title != last:
            pen.text((GAP, y + 6), TITLES[row.title], INK, bold)
            y, last = y + HEAD, row.title
        pen.multiline_text((GAP, y + 8), _wrapped(row.caption, body), SOFT, body, spacing=5)
        for x, picture in zip(columns, row.pictures, strict=True):
            if picture is not None:
                page.paste(_tile(picture), (x, y))
        for x, copied in zip(columns[2:6], row.copies, strict=True):
            if copied:
                pen.rectangle((x - 3, y - 3, x + SIZE + 2, y + SIZE + 2), outline=COPY, width=3)
        y += SIZE + GAP
    return page


def _wrapped(caption: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    lines = [""]
    for word in caption.split():
        trial = f"{lines[-1]} {word}".strip()
        if font.getlength(trial) > TEXT - 2 * GAP:
            lines.append(word)
        else:
            lines[-1] = trial
    return "\n".join(lines)


def _tile(picture: Tensor) -> Image.Image:
    whole = Image.fromarray((picture.clamp(0, 1).permute(1, 2, 0) * 255).round().byte().numpy())
    return whole.resize((SIZE, SIZE), Image.Resampling.LANCZOS) if SIZE != SIDE else whole


def write(folder: Path) -> None:
    """Draw the sheet of a finished lab into its folder."""
    paint(rows(folder)).save(folder / "sheet.jpg", quality=75)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lab", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    write(options.lab)
