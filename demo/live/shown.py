"""What a workflow showed: its pictures one by one, as files, and on one sheet."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from torch import Tensor

from ...unmemorize.pictures.canvas import INK, PAGE, font
from ..pictures import as_tensor
from .server import Server

PAIR = "UnmemorizeComparePictures"
"""Shows two pictures, one over the other."""
SIDE = 128
"""Of the demo model's pictures, in pixels."""
TILE, GAP, MANY, HEADING = 256, 8, 8, 44
TILES = (("PreviewImage", PAIR), ("UnmemorizeHeatmapOverlay",))
"""Nodes whose pictures are tiles of a thumbnail: what was drawn, and its heat."""
CHARTS = (
    "UnmemorizeStabilityChart", "UnmemorizeLoRALeakProbe", "UnmemorizeBestEpoch", "UnmemorizeCopyCheck", "UnmemorizeLoRASpectrumPlot",
    "UnmemorizeCompareNeuronMasks",
)  # fmt: skip


def read_png(data: bytes) -> Tensor:
    """[3, SIDE, SIDE] in [0, 1]: templates show pictures enlarged, each pixel doubled."""
    return as_tensor(Image.open(io.BytesIO(data)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))


def write_png(picture: Tensor) -> bytes:
    """PNG of [3, h, w] in [0, 1]."""
    buffer = io.BytesIO()
    Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def source(prompt: dict[str, Any], node_id: str, name: str) -> str:
    """Id of the node linked to an input."""
    return prompt[node_id]["inputs"][name][0]


def previews_of(prompt: dict[str, Any], image: str) -> list[str]:
    """Nodes that show a node's picture, as it is or enlarged."""
    large = [i for i, n in prompt.items() if n["class_type"] == "ImageScaleBy" and source(prompt, i, "image") == image]
    return [i for i, n in prompt.items() if n["class_type"] == "PreviewImage" and source(prompt, i, "images") in (image, *large)]


def pictures_of(server: Server, prompt: dict[str, Any], outputs: dict[str, Any], node_id: str) -> list[bytes]:
    """The first picture a node showed; of two that it compares, both."""
    shown = outputs[node_id].get("images", [])
    return [server.picture(i) for i in (shown if prompt[node_id]["class_type"] == PAIR else shown[:1])]


def in_order(server: Server, prompt: dict[str, Any], outputs: dict[str, Any], *kinds: str) -> list[bytes]:
    """The pictures of every node of these kinds that showed any, as the workflow's author placed them."""
    found = (i for i in sorted(outputs, key=int) if prompt[i]["class_type"] in kinds)
    return [picture for i in found for picture in pictures_of(server, prompt, outputs, i)]


def save_pictures(folder: Path, workflow: str, prompt: dict[str, Any], outputs: dict[str, Any], server: Server) -> None:
    """Every picture a workflow showed, as files."""
    for node_id, shown in outputs.items():
        for n, image in enumerate(shown.get("images", [])):
            name = f"{workflow}-{prompt[node_id]['class_type']}-{node_id}-{n}.png"
            (folder / name).write_bytes(server.picture(image))


def thumbnail(server: Server, prompt: dict[str, Any], outputs: dict[str, Any], path: Path) -> None:
    """A .jpg of what the workflow showed: its pictures in rows of at most four, then their heat; rows end at the right. Then charts.

    Of a workflow with many pictures: all of them in one block, without charts. ValueError if it showed none.
    """
    repeated = {n["inputs"]["image"][0] for n in prompt.values() if n["class_type"] == "ImageScaleBy"}

    def shown(*kinds: str) -> list[Image.Image]:
        of_kind = [i for i in sorted(outputs, key=int) if prompt[i]["class_type"] in kinds and i not in repeated]
        found = [picture for i in of_kind for picture in pictures_of(server, prompt, outputs, i)]
        return [Image.open(io.BytesIO(p)).convert("RGB") for p in found]

    drawn, heat = ([t.resize((TILE, TILE), Image.Resampling.LANCZOS) for t in shown(*k)] for k in TILES)
    many = len(drawn) > MANY
    rows: list[list[Image.Image]] = []
    for tiles in [drawn + heat] if many else [drawn, heat]:
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
    titled(_stacked(rows), path.stem).save(path, quality=90)


def _stacked(rows: list[list[Image.Image]]) -> Image.Image:
    """Rows of tiles of one height, each ending at the right edge."""
    width = max(sum(t.width + GAP for t in row) for row in rows) + GAP
    sheet = Image.new("RGB", (width, sum(row[0].height + GAP for row in rows) + GAP), PAGE)
    y = GAP
    for row in rows:
        x = width - sum(t.width + GAP for t in row)
        for tile in row:
            sheet.paste(tile, (x, y))
            x += tile.width + GAP
        y += row[0].height + GAP
    return sheet


def in_words(name: str) -> str:
    """What a template is called: 08-filter-a-lora is "Filter a LoRA"."""
    return name.split("-", 1)[1].replace("-", " ").capitalize().replace(" lora", " LoRA")


def titled(sheet: Image.Image, name: str) -> Image.Image:
    """With the template's name in words below, as large as fits: among twenty cards a picture alone does not say what it is of."""
    words = in_words(name)
    size = HEADING
    while size > 12 and font(size).getlength(words) > sheet.width - 2 * GAP:
        size -= 1
    whole = Image.new("RGB", (sheet.width, sheet.height + 2 * HEADING), PAGE)
    whole.paste(sheet)
    ImageDraw.Draw(whole).text((sheet.width / 2, sheet.height + HEADING), words, fill=INK, font=font(size), anchor="mm")
    return whole
