"""Photographs that a lab or a LoRA is trained on, read; training pictures of a LoRA, written."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..pictures import COLUMNS, SIDE, as_tensor


def load_picture(path: Path) -> Tensor:
    """Centre square of a picture at 128 x 128, [3, 128, 128] in [0, 1]."""
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    square = rgb.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return as_tensor(square)


def load_photographs(folder: Path, prefix: str = "") -> list[Tensor]:
    """Every .png of a folder, by name; only of names that begin with `prefix`."""
    found = [load_picture(path) for path in sorted(folder.glob("*.png")) if path.name.startswith(prefix)]
    if not found:
        raise ValueError(f"No {prefix}*.png in {folder}.")
    return found


def save_sheet(pictures: list[Tensor], path: Path) -> None:
    """Pictures [3, 128, 128] in rows, losslessly, as one WebP (read by `pictures.lora_pictures`)."""
    rows = -(-len(pictures) // COLUMNS)
    sheet = torch.zeros(3, SIDE * rows, SIDE * COLUMNS)
    for i, picture in enumerate(pictures):
        y, x = SIDE * (i // COLUMNS), SIDE * (i % COLUMNS)
        sheet[:, y : y + SIDE, x : x + SIDE] = picture
    Image.fromarray((sheet * 255).round().byte().permute(1, 2, 0).numpy()).save(path, "WEBP", lossless=True, quality=100, method=6)
