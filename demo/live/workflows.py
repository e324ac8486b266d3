"""Writes workflows/*.json (UI format) and subgraphs/*.json against a running ComfyUI: `nox -s workflows` after changing templates/."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from ...unmemorize.pictures.canvas import INK, PAGE, font
from . import blueprints
from .lower import lower
from .report import PAIR, pictures_of
from .server import ROOT, Server, running
from .templates import WORKFLOWS

FOLDER = ROOT / "workflows"


TILE, GAP, MANY, HEADING = 256, 8, 8, 44
CHARTS = (
    "UnmemorizeStabilityChart", "UnmemorizeLoRALeakProbe", "UnmemorizeBestEpoch", "UnmemorizeCopyCheck", "UnmemorizeLoRASpectrumPlot",
    "UnmemorizeCompareNeuronMasks",
)  # fmt: skip


def thumbnail(server: Server, prompt: dict[str, Any], outputs: dict[str, Any], path: Path) -> None:
    """A .jpg of what the workflow showed: its pictures in rows of at most four, then their heat; rows end at the right. Then charts.

    Of a workflow with many pictures: all of them in one block, without charts.
    """

    repeated = {n["inputs"]["image"][0] for n in prompt.values() if n["class_type"] == "ImageScaleBy"}

    def shown(*kinds: str) -> list[Image.Image]:
        of_kind = [i for i in sorted(outputs, key=int) if prompt[i]["class_type"] in kinds and i not in repeated]
        found = [picture for i in of_kind for picture in pictures_of(server, prompt, outputs, i)]
        return [Image.open(io.BytesIO(p)).convert("RGB") for p in found]

    rows: list[list[Image.Image]] = []
    blocks = [
        [t.resize((TILE, TILE), Image.Resampling.LANCZOS) for t in shown(*k)]
        for k in (("PreviewImage", PAIR), ("UnmemorizeHeatmapOverlay",))
    ]
    many = len(blocks[0]) > MANY
    for tiles in [sum(blocks, [])] if many else blocks:
        wide = 3 if len(tiles) in (5, 6) else 4
        rows += [tiles[k : k + wide] for k in range(0, len(tiles), wide)]
    charts = [
        c.resize((2 * TILE + GAP, (2 * TILE + GAP) * c.height // c.width), Image.Resampling.LANCZOS)
        for kind in (() if many else CHARTS)
        for c in shown(kind)
    ]
    rows += [charts[k : k + 2] for k in range(0, len(charts), 2)]
    if not rows:
        raise ValueError(f"{path.stem} showed no picture")
    width = max(sum(t.width + GAP for t in row) for row in rows) + GAP
    sheet = Image.new("RGB", (width, sum(row[0].height + GAP for row in rows) + GAP), PAGE)
    y = GAP
    for row in rows:
        x = width - sum(t.width + GAP for t in row)
        for tile in row:
            sheet.paste(tile, (x, y))
            x += tile.width + GAP
        y += row[0].height + GAP
    sheet = titled(sheet, path.stem)
    sheet.save(path, quality=90)


def titled(sheet: Image.Image, name: str) -> Image.Image:
    """With the template's name in words below, as large as fits: among twenty cards a picture alone does not say what it is of."""
    words = name.split("-", 1)[1].replace("-", " ").capitalize().replace(" lora", " LoRA")
    size = HEADING
    while size > 12 and font(size).getlength(words) > sheet.width - 2 * GAP:
        size -= 1
    whole = Image.new("RGB", (sheet.width, sheet.height + 2 * HEADING), PAGE)
    whole.paste(sheet)
    ImageDraw.Draw(whole).text((sheet.width / 2, sheet.height + HEADING), words, fill=INK, font=font(size), anchor="mm")
    return whole


def main() -> None:
    """Rewrite every blueprint, and every workflow file and its thumbnail; of workflows those whose names begin as given, if any are."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of the workflows' names")
    names = tuple(parser.parse_args().names) or ("",)
    FOLDER.mkdir(exist_ok=True)
    with running() as server:
        info = server.object_info()
        blueprints.write(info)
        for name, build in WORKFLOWS.items():
            if not name.startswith(names):
                continue
            workflow = build(info)
            (FOLDER / f"{name}.json").write_text(json.dumps(workflow, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            prompt = lower(workflow, info)
            thumbnail(server, prompt, server.run(prompt), FOLDER / f"{name}.jpg")
