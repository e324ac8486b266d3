"""Pictures of users' folders: any kind that Pillow reads, upright, in RGB, and small; what cannot be read is said."""

from __future__ import annotations

import hashlib
import os
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import folder_paths
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..core.files import beneath, is_closed, reason

KINDS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".jxl", ".heic"}
MOST_PIXELS = 178_000_000
"""Pillow itself refuses 179 million and more."""
LARGE = 2048
"""Longest side of a picture that is kept as it is; larger ones are made smaller while they are read."""
CHUNK = 1 << 20
WHITES, NEAR = (2**8 - 1, 2**10 - 1, 2**12 - 1, 2**14 - 1, 2**16 - 1), 4
"""Of whole numbers as cameras and scanners write them; a picture whose highest is not even a quarter of one was written otherwise."""


@dataclass(frozen=True)
class Listed:
    """A folder's pictures by their names in it, and why files were left out."""

    paths: dict[str, Path]
    left_out: dict[str, str]


def folders() -> list[str]:
    """Folders inside ComfyUI's input folder, by their names there."""
    home = Path(folder_paths.get_input_directory())
    found = [Path(at) for at, _, _ in os.walk(home)]
    return sorted(p.relative_to(home).as_posix() for p in found if p != home)


def folder(name: str) -> Path:
    """A folder inside the input folder; ValueError if there is none of that name, or it leads outside."""
    home = Path(folder_paths.get_input_directory()).resolve()
    try:
        path = Path(os.path.realpath(home / name))
        found = bool(name) and path.is_relative_to(home) and path != home and path.is_dir()
    except (OSError, ValueError):  # no name of a file at all: too long, a character that names do not have
        found = False
    if not found:
        raise ValueError(f"There is no folder {name[:80]!r} in ComfyUI's input folder. Put your pictures into one, and press R.")
    return path


def listed(name: str) -> Listed:
    """The pictures of a folder of the input folder, and of those inside it, by name."""
    return listed_at(folder(name))


def listed_at(home: Path) -> Listed:
    """The same of any folder."""
    home = home.resolve()
    found, closed = beneath(home)
    paths, left_out = {}, {path.relative_to(home).as_posix(): "a folder that cannot be opened" for path in closed}
    for path in found:
        shown = path.relative_to(home).as_posix()
        # os.path says no where Path raises: in a folder without rights, at links in a circle
        if os.path.islink(path) and not Path(os.path.realpath(path)).is_relative_to(home):
            left_out[shown] = "a link that leads out of the folder"
        elif path.suffix.lower() in KINDS and not os.path.isdir(path):
            if os.path.isfile(path):
                paths[shown] = path
            elif shown not in left_out:
                left_out[shown] = "a file that cannot be opened" if is_closed(path) else "a link to nothing, or no file"
    return Listed(paths, left_out)


def stamp(name: str) -> str:
    """Changes when a file of the folder does; "missing" if there is no such folder."""
    try:
        found = listed(name)
    except ValueError:
        return "missing"
    facts = [f"{shown}/{path.stat().st_mtime_ns}/{path.stat().st_size}" for shown, path in found.paths.items() if os.path.exists(path)]
    return hashlib.sha256(os.fsencode("".join(facts))).hexdigest()


def content_hash(path: Path) -> str:
    """SHA-256 of a file, 32 digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()[:32]


def hash_of(picture: Tensor) -> str:
    """The same of a picture that is no file, [3, h, w]."""
    values = (picture.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()
    return hashlib.sha256(str(tuple(values.shape)).encode() + values.cpu().numpy().tobytes()).hexdigest()[:32]


UNREADABLE = (
    OSError, ValueError, SyntaxError, Image.DecompressionBombError, MemoryError, EOFError, LookupError, TypeError, ArithmeticError,
    AttributeError, RuntimeError, struct.error,
)  # fmt: skip
"""What Pillow raises on damaged files."""


def read(path: Path) -> Tensor:
    """A picture [3, h, w] in [0, 1], at most LARGE wide and high; ValueError in plain words if it cannot be read.

    Upright as its EXIF says, transparent parts on white, of an animation the first picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise ValueError(f"it has {image.width} x {image.height} pixels")
                image.draft("RGB", (LARGE, LARGE))
                return _tensor(_upright(image))
    except UnidentifiedImageError as error:
        raise ValueError(f"{path.name!r} cannot be read as a picture: it is none, or of a kind that is not known.") from error
    except UNREADABLE as error:
        raise ValueError(f"{path.name!r} cannot be read as a picture: {reason(error).rstrip('.')}.") from error


def _upright(image: Image.Image) -> Image.Image:
    image.seek(0)
    turned = ImageOps.exif_transpose(image) or image
    if turned.mode in ("F", "I") or turned.mode.startswith("I;16"):
        turned = _grey(np.asarray(turned).astype(np.float64))
    if turned.mode in ("RGBA", "LA", "PA") or "transparency" in turned.info:
        over = turned.convert("RGBA")
        turned = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    turned = turned.convert("RGB")
    turned.thumbnail((LARGE, LARGE), Image.Resampling.BOX)
    return turned


def _grey(values: np.ndarray) -> Image.Image:
    """Of real or large whole numbers, which say nowhere what is white: what is so for numbers of a usual size, if the highest is near it;
    else the highest itself. A picture never becomes black, which nothing is a copy of."""
    finite = values[np.isfinite(values)]
    lowest, highest = finite.min(initial=0), finite.max(initial=0)
    white = 1.0 if highest <= 1 else next((w for w in WHITES if highest <= w < NEAR * highest), highest)
    kept = np.nan_to_num(values, posinf=white, neginf=lowest).clip(lowest, white)
    return Image.fromarray(((kept - lowest) / (white - lowest) * 255).round().astype(np.uint8))


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
