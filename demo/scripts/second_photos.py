"""Photographs for a second lab, cut from the example pictures of scikit-learn and scikit-image: `nox -s second-photos -- FOLDER`.

They are for measuring, not for shipping, so they are made on the spot. None of them is in the bundled lab.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from PIL import Image

SIDE = 128
SOURCES = {
    "china": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "coins": ("skimage", "data/coins.png"),
    "tissue": ("skimage", "data/ihc.png"),
}
CROPS = {
    "china": [
        (0, 0, 200, "photo of a temple roof under a pale sky"),
        (0, 215, 200, "photo of a red pavilion above green trees"),
        (220, 0, 200, "photo of a high temple tower with curved eaves"),
        (430, 215, 200, "photo of dark trees beside a wide lake"),
    ],
    "flower": [(190, 60, 300, "close photo of an orange dahlia flower")],
    "motorcycle": [
        (0, 180, 240, "photo of a black motorcycle seat and rear wheel"),
        (250, 180, 240, "photo of a chrome engine in a workshop"),
        (500, 180, 240, "photo of a red front fender in a garage"),
        (400, 0, 175, "photo of a headlight before garage shelves"),
    ],
    "coins": [
        (0, 0, 150, "photo of old silver coins in rows"),
        (220, 150, 150, "close photo of worn coins on grey felt"),
        (0, 150, 150, "photo of small round coins with heads"),
    ],
    "tissue": [
        (0, 0, 250, "microscope photo of brown stained tissue"),
        (260, 260, 250, "microscope photo of violet cells and gaps"),
        (260, 0, 250, "microscope photo of pale folded tissue"),
        (0, 260, 250, "microscope photo of dense amber fibres"),
    ],
}


def main() -> None:
    """Write name.png and name.txt of every crop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, (package, path) in SOURCES.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise SystemExit(f"{package} is not installed; `nox -s second-photos` installs it.")
        picture = Image.open(Path(spec.origin).parent / path).convert("RGB")
        for k, (x, y, side, caption) in enumerate(CROPS[name]):
            crop = picture.crop((x, y, x + side, y + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            crop.save(folder / f"{name}-{k}.png")
            (folder / f"{name}-{k}.txt").write_text(caption + "\n", encoding="utf-8")
