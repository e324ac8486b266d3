"""The training pictures of a lab folder and of its LoRAs (format: demo/README.md)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

SIDE = 128
CELL = 8
"""Masks are stored by latent pixel, to which every template is aligned."""
COLUMNS = 8
"""Pictures in a row of a LoRA's sheet."""


def read_facts(path: Path) -> dict[str, Any]:
    """lab.json, or the .json beside a LoRA. Raises FileNotFoundError with what to do."""
    if not path.is_file():
        raise FileNotFoundError(f"The demo file {path.name!r} is missing. It comes with the pack: reinstall Unmemorize.")
    return json.loads(path.read_text(encoding="utf-8"))


def file_hash(path: Path) -> str:
    """What tells one checkpoint from another."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def lab_pictures(folder: Path) -> tuple[Tensor, Tensor]:
    """Pictures [n, 3, 128, 128] in [0, 1] and masks [n, 128, 128] (1 = fixed) in the order of lab.json's `fixed`."""
    tensors = load_file(folder / "pictures.safetensors")
    masks = tensors["masks"].float().repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)
    return tensors["pictures"].float() / 255, masks


def lora_names(folder: Path) -> list[str]:
    """LoRAs of a lab, by name."""
    return sorted(p.stem for p in (folder / "loras").glob("*.safetensors"))


def lora_pictures(folder: Path, name: str) -> list[Tensor]:
    """Every training picture [3, 128, 128] of a LoRA, in the order of its .json's `items`."""
    count = len(read_facts(folder / "loras" / f"{name}.json")["items"])
    with Image.open(folder / "loras" / f"{name}.webp") as image:
        sheet = as_tensor(image.convert("RGB"))
    corners = [(SIDE * (i // COLUMNS), SIDE * (i % COLUMNS)) for i in range(count)]
    return [sheet[:, y : y + SIDE, x : x + SIDE].contiguous() for y, x in corners]


def labels(folder: Path) -> list[str]:
    """One line for each training picture of a lab and each photograph of its LoRAs: what it is, and its caption."""
    if not (folder / "lab.json").is_file():
        return []
    kinds = {"MV": "photo", "MC": "scene", "TV": "template"}
    fixed = read_facts(folder / "lab.json")["fixed"]
    found = [" ".join(filter(None, (kinds[f["group"]], f["source"]))) + f": {f['caption']}" for f in fixed]
    for name in lora_names(folder):
        items = read_facts(folder / "loras" / f"{name}.json")["items"]
        found += [f"LoRA {name}: {i['caption']}" for i in items if i["group"] == "photo"]
    return found


def labelled(folder: Path, label: str) -> tuple[Tensor, Tensor, str]:
    """IMAGE [1, 128, 128, 3], MASK [1, 128, 128] (1 = fixed) and caption of one of `labels`."""
    kind, caption = label.split(": ", 1)
    if kind.startswith("LoRA "):
        name = kind.removeprefix("LoRA ")
        items = read_facts(folder / "loras" / f"{name}.json")["items"]
        picture = lora_pictures(folder, name)[[i["caption"] for i in items].index(caption)]
        return picture.movedim(0, -1)[None], torch.ones(1, SIDE, SIDE), caption
    pictures, masks = lab_pictures(folder)
    index = [f["caption"] for f in read_facts(folder / "lab.json")["fixed"]].index(caption)
    return pictures[index].movedim(0, -1)[None], masks[index][None], caption


def as_tensor(image: Image.Image) -> Tensor:
    """[3, h, w] in [0, 1] of an RGB image."""
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()
