"""Photographs for the LoRAs of benchmarks, cut from example pictures of scikit-learn and scikit-image: `nox -s second-photos -- FOLDER`.

They are for measuring, not for shipping, so they are made on the spot. None of them is in the bundled lab or LoRAs.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from PIL import Image

SIDE = 128
CHINA, FLOWER = ("sklearn", "datasets/images/china.jpg"), ("sklearn", "datasets/images/flower.jpg")
MOTORCYCLE, COINS, TISSUE = (("skimage", f"data/{name}.png") for name in ("motorcycle_left", "coins", "ihc"))
PAGE, GRAVEL, CLOCK = (("skimage", f"data/{name}.png") for name in ("page", "gravel", "clock_motion"))
CROPS = {
    "china": [(CHINA, 0, 0, 200), (CHINA, 0, 215, 200), (CHINA, 220, 0, 200), (CHINA, 430, 215, 200)],
    "still": [(FLOWER, 130, 10, 400), (PAGE, 0, 0, 190), (GRAVEL, 100, 100, 250), (CLOCK, 50, 0, 300)],
    "motorcycle": [(MOTORCYCLE, 0, 180, 240), (MOTORCYCLE, 250, 180, 240), (MOTORCYCLE, 500, 180, 240), (MOTORCYCLE, 400, 0, 175)],
    "coins": [(COINS, 0, 0, 150), (COINS, 220, 150, 150), (COINS, 0, 150, 150)],
    "tissue": [(TISSUE, 0, 0, 250), (TISSUE, 260, 260, 250), (TISSUE, 260, 0, 250), (TISSUE, 0, 260, 250)],
}
"""Set -> (package and file, left, top, side) of each crop."""


def main() -> None:
    """Write name.png of every crop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, crops in CROPS.items():
        for k, ((package, path), x, y, side) in enumerate(crops):
            spec = importlib.util.find_spec(package)
            if spec is None or spec.origin is None:
                raise SystemExit(f"{package} is not installed; `nox -s second-photos` installs it.")
            picture = Image.open(Path(spec.origin).parent / path).convert("RGB")
            crop = picture.crop((x, y, x + side, y + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            crop.save(folder / f"{name}-{k}.png")
