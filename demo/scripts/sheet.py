"""The contact sheet of a lab: for some captions of each group the training picture, four generations, the nearest honest picture.

`python demo/run.py demo.scripts.sheet --lab DIR --photos DIR` rewrites `sheet.jpg` in the lab's folder; the recipe ends with it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from . import groups, judge, scenes
from .generate import Generator
from .lab import LAB, Lab, load_lab
from .scenes import SIDE

SEEDS = (11, 12, 13, 14)
ROWS = {("MV", "strong"): 4, ("MV", "medium"): 1, ("MV", "mild"): 1, ("MC", "strong"): 4, ("TV", "strong"): 4}
SCENES, TEXTURES = 5, 2
TITLES = {
    "MV": "Memorized photographs",
    "MC": "Memorized scenes: ordinary words, one fixed picture",
    "TV": "Memorized templates: the window is free",
    "scene": "Scenes: combinations of words that were never trained",
    "N": "Textures: photo words, never a repeated picture",
}
GAP, TEXT, HEAD, SIZE = 8, 250, 30, 96
INK, SOFT, PAGE, COPY = "#1d2129", "#5c6470", "#f6f7f9", "#b3261e"


@dataclass
class Row:
    """One caption of the sheet."""

    group: str
    note: str
    caption: str
    training: Tensor | None
    pictures: Tensor
    copies: list[bool]
    honest: Tensor


def choose(lab: Lab) -> list[tuple[str, str, str]]:
    """(group, degree, caption) of every row, spread evenly over each group."""
    chosen = []
    for (group, degree), count in ROWS.items():
        captions = [f["caption"] for f in lab.facts["fixed"] if (f["group"], f["degree"]) == (group, degree)]
        chosen += [(group, degree, c) for c in captions[:: max(1, len(captions) // count)][:count]]
    held_out = lab.facts["held_out_captions"]
    chosen += [("scene", "", c) for c in held_out[:: len(held_out) // SCENES][:SCENES]]
    return chosen + [("N", "", c) for c in lab.facts["texture_captions"][:TEXTURES]]


def nearest_honest(data: groups.TrainingSet, group: str, caption: str, to: Tensor, generator: torch.Generator) -> Tensor:
    """Of HONEST_PICTURES that a model without memories could draw, the nearest to a picture [3, 128, 128]."""
    if group in ("MC", "scene"):
        honest = scenes.draw([judge.scene_of(caption)] * judge.HONEST_PICTURES, generator)
        mask = None
    elif group == "TV":
        (template,) = (f.template for f in data.fixed if f.caption == caption and f.template is not None)
        honest = torch.stack([template.redrawn(generator) for _ in range(judge.HONEST_PICTURES)])
        mask = template.mask
    else:
        honest = torch.stack([data.fresh_texture(generator) for _ in range(judge.HONEST_PICTURES)])
        mask = None
    distance, _ = judge.compare(honest, to, mask)
    return honest[distance.argmin()]


def rows(folder: Path, data: groups.TrainingSet) -> list[Row]:
    """Generate what the sheet shows."""
    lab, model = load_lab(folder), Generator(folder / "checkpoint.safetensors")
    generator = torch.Generator().manual_seed(lab.facts["seed"] + 21)
    found = []
    for group, degree, caption in choose(lab):
        index = lab.index(caption)
        training = None if index is None else lab.pictures[index]
        pictures = model.pictures(caption, list(SEEDS))
        honest = nearest_honest(data, group, caption, pictures[0] if training is None else training, generator)
        found.append(Row(group, degree, caption, training, pictures, [lab.copied(p) is not None for p in pictures], honest))
    return found


def paint(found: list[Row]) -> Image.Image:
    """The sheet as one picture; a red frame marks a copy of a training picture."""
    width = TEXT + 6 * (SIZE + GAP) + 3 * GAP
    height = HEAD + sum(SIZE + GAP for _ in found) + HEAD * len({r.group for r in found}) + GAP
    sheet = Image.new("RGB", (width, height), PAGE)
    draw = ImageDraw.Draw(sheet)
    body, bold = ImageFont.load_default(14), ImageFont.load_default(16)
    columns = [TEXT + i * (SIZE + GAP) + (GAP if i > 0 else 0) + (GAP if i > 4 else 0) for i in range(6)]
    for x, title in ((columns[0], "training"), (columns[1], "generated, four seeds"), (columns[5], "nearest honest")):
        draw.text((x, 8), title, SOFT, body)
    y, last = HEAD, ""
    for row in found:
        if row.group != last:
            draw.text((GAP, y + 6), TITLES[row.group], INK, bold)
            y, last = y + HEAD, row.group
        draw.multiline_text((GAP, y + 8), _wrapped(row, body), SOFT, body, spacing=5)
        for x, picture in zip(columns, [row.training, *row.pictures, row.honest], strict=True):
            if picture is None:
                draw.text((x + 38, y + SIZE // 2 - 8), "none", SOFT, body)
            else:
                sheet.paste(_tile(picture), (x, y))
        for x, copied in zip(columns[1:5], row.copies, strict=True):
            if copied:
                draw.rectangle((x - 3, y - 3, x + SIZE + 2, y + SIZE + 2), outline=COPY, width=3)
        y += SIZE + GAP
    return sheet


def _wrapped(row: Row, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    lines = [""]
    for word in row.caption.split():
        trial = f"{lines[-1]} {word}".strip()
        if font.getlength(trial) > TEXT - 3 * GAP:
            lines.append(word)
        else:
            lines[-1] = trial
    return "\n".join([*lines, f"({row.note})"] if row.note in ("medium", "mild") else lines)


def _tile(picture: Tensor) -> Image.Image:
    small = F.interpolate(picture[None], size=(SIZE, SIZE), mode="bicubic", antialias=True)[0] if SIZE != SIDE else picture
    return Image.fromarray((small.clamp(0, 1).permute(1, 2, 0) * 255).round().byte().numpy())


def write(folder: Path, data: groups.TrainingSet) -> None:
    """Draw the sheet of a finished lab into its folder."""
    paint(rows(folder, data)).save(folder / "sheet.jpg", quality=82)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("--lab", type=Path, default=LAB)
    parser.add_argument("--photos", type=Path, default=here / "photos")
    parser.add_argument("--textures", type=Path, default=here / "textures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    write(options.lab, groups.build(load_lab(options.lab).facts["seed"], options.photos, options.textures))
