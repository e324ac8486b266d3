"""Photographs for measuring, made on the spot: none of them is in the bundled lab or LoRAs, and none ships.

`nox -s second-photos -- FOLDER` cuts those of the benchmarks' LoRAs from example pictures of scikit-learn and scikit-image;
`nox -s second-photos -- FOLDER --wallpapers ROOT` those of a second lab from Debian's mate-backgrounds, lomiri-wallpapers-16.04 and
lomiri-wallpapers-20.04, unpacked under ROOT (`apt-get download`, `dpkg -x`).
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

WALLPAPERS = {
    "dandelion": ("seeding_by_Clements_Engelhardt", 0.2), "fig": ("Picture_0B_by_freespace", 0.6),
    "dogs": ("friends_by_Aitzol_Berasategi", 0.2),
    "clock": ("greentock_by_Peter_Nerlich", 0.9), "stream": ("life_by_Aitzol_Berasategi", 0.5), "drop": ("mate/nature/Aqua", 1.0),
    "bird": ("free_by_Peter_Nerlich", 0.5), "ladybird": ("mate/nature/LadyBird", 0.7), "peaks": ("picosdeeuropa_by_Aitzol_Berasategi", 0.5),
    "drum": ("Wine_by_Jakkub_Mede", 0.5), "storm": ("mate/nature/Storm", 0.6), "brushes": ("Picture_1A_by_freespace", 0.3),
    "galaxy": ("Infinite-Sea_by_Aury88", 0.5), "trunk": ("Kleiber_by_Lukas_Baubkus", 0.4), "sun": ("sunset_by_Aitzol_Berasategi", 0.6),
    "marigold": ("mate/nature/Garden", 0.9), "bridge": ("Bridge_by_Sander_Klootwijk", 0.8), "seeds": ("mate/nature/TwoWings", 0.8),
    "ridge": ("aitzgorri_by_Aitzol_Berasategi", 0.5), "petals": ("mate/nature/FreshFlower", 0.2), "dune": ("mate/nature/Dune", 0.7),
    "raindrops": ("mate/nature/RainDrops", 0.5), "daisy": ("mate/nature/YellowFlower", 0.5), "twig": ("Dragonfly_by_Bolly", 0.5),
}  # fmt: skip
"""Name -> picture below usr/share/backgrounds, and where its square is: 0 left or top, 1 right or bottom. The most views first."""


def main() -> None:
    """Write name.png of every crop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--wallpapers", type=Path, help="where Debian's packages are unpacked: the photographs of a second lab")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.wallpapers:
        of_a_lab(options.wallpapers / "usr/share/backgrounds", options.folder)
    else:
        of_loras(options.folder)


def of_a_lab(backgrounds: Path, folder: Path) -> None:
    """A square of each wallpaper, and order.txt."""
    for name, (path, where) in WALLPAPERS.items():
        picture = Image.open(backgrounds / f"{path}.jpg").convert("RGB")
        side = min(picture.size)
        left, top = (round((length - side) * where) for length in picture.size)
        square = picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        square.save(folder / f"{name}.png")
    (folder / "order.txt").write_text("\n".join(WALLPAPERS) + "\n", encoding="utf-8")


def of_loras(folder: Path) -> None:
    """Every crop of the examples."""
    for name, crops in CROPS.items():
        for k, ((package, path), x, y, side) in enumerate(crops):
            spec = importlib.util.find_spec(package)
            if spec is None or spec.origin is None:
                raise SystemExit(f"{package} is not installed; `nox -s second-photos` installs it.")
            picture = Image.open(Path(spec.origin).parent / path).convert("RGB")
            crop = picture.crop((x, y, x + side, y + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            crop.save(folder / f"{name}-{k}.png")
