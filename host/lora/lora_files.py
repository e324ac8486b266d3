"""LoRA files: found, read and described, and written with their metadata, provenance and hashes."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from torch import Tensor

from ..core import facts, files, store

PROVENANCE = "unmemorize_baf"
CHUNK = 1 << 20
KEY_STYLES = (
    ("LoHa (LyCORIS)", r"\.hada_w1_a$"),
    ("LoKr (LyCORIS)", r"\.lokr_w[12]"),
    ("OFT or BOFT", r"\.oft_"),
    ("kohya", r"^(lora_unet|lora_te|lora_prior)\w*\.lora_(up|down)\."),
    ("OneTrainer or kohya", r"^lora_\w+\.lora_(up|down)\."),
    ("LyCORIS", r"^lycoris_"),
    ("PEFT", r"\.lora_[AB](\.default)?(\.weight)?$"),
    ("diffusers", r"(_lora|\.lora|\.lora_linear_layer)\.(up|down)\.weight$"),
    ("ComfyUI", r"\.lora_(up|down)\.weight$"),
    ("full difference", r"\.diff$"),
)
"""What the keys of a file look like, most particular first; for information only."""


DOWN = re.compile(r"(?:lora_down|lora_A(?:\.default)?)\.weight$")
"""The end of the key whose tensor has the rank in front."""


@dataclass(frozen=True)
class LoRAFile:
    """A LoRA as it lies on the disk."""

    tensors: dict[str, Tensor]
    info: dict[str, Any]
    """name, sha256, metadata, dtype, keys, key_style, and `filter` if it was filtered before; LORA_INFO of the nodes."""


def cancelled() -> None:
    """Raises ComfyUI's interrupt when the user pressed Cancel; for loops that have no progress of their own."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def _own() -> list[str]:
    """ComfyUI's own list."""
    return [n for n in store.of_comfyui("loras") if n.endswith(files.SUFFIX)]


def _path_of(name: str) -> Path:
    found = folder_paths.get_full_path("loras", name)
    return folder() / name if found is None else Path(found)  # a link to nothing is listed too: reading it says so


def folder() -> Path:
    """Where filtered LoRAs are written: the first of ComfyUI's loras folders."""
    return Path(folder_paths.get_folder_paths("loras")[0])


LORAS = store.Store("LoRA", files.HERE / "demo" / "lab" / "loras", folder, _own, _path_of, files.SUFFIX)


def stamp(name: str) -> str:
    """Changes when the file of that name does; "missing" if there is none."""
    return store.stamp(LORAS, name)


def read(name: str, tick: Callable[[], None] | None = None) -> LoRAFile:
    """A LoRA of the list with its metadata; `tick` is called often, to cancel. ValueError if it is damaged or holds no tensors."""
    path = store.find(LORAS, name)
    tensors, metadata = files.read(path, LORAS.noun)
    if not tensors:
        raise ValueError(f"The LoRA {name!r} holds no tensors. Choose another file.")
    return LoRAFile(tensors, info_of(name, sha256(path, tick), metadata) | describe(tensors))


def info_of(name: str, digest: str, metadata: dict[str, str]) -> dict[str, Any]:
    """name, sha256, metadata and, of a file that was filtered before, `filter`: what that filter said of itself."""
    note = noted(metadata, name)
    return {"name": name, "sha256": digest, "metadata": metadata} | ({} if note is None else {"filter": note})


def describe(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Number type, number of keys and key style of a LoRA's tensors."""
    dtypes = Counter(str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.ndim > 1)
    style = next((name for name, pattern in KEY_STYLES if any(re.search(pattern, k) for k in tensors)), "unknown")
    return {"dtype": dtypes.most_common(1)[0][0] if dtypes else "unknown", "keys": len(tensors), "key_style": style}


def sha256(path: Path, tick: Callable[[], None] | None = None, skip: int = 0) -> str:
    """Of a file from byte `skip` on."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(skip)
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            if tick is not None:
                tick()
    return digest.hexdigest()


def save(name: str, tensors: dict[str, Tensor], info: dict[str, Any] | None) -> str:
    """Write a LoRA into the loras folder and return its name there; a name that is taken gets a number.

    Metadata are kept, the filter's provenance is added, kohya's hashes are computed anew. ValueError before work on a bad name.
    """
    target, _ = store.target_of(LORAS, name)
    check_kept(tensors)
    if not all(isinstance(k, str) and isinstance(t, Tensor) for k, t in tensors.items()):
        raise ValueError("This is not a LoRA. Connect the filtered or removed output of BAF Filter LoRA.")
    tensors = {k: t.detach().clone().contiguous() for k, t in tensors.items()}
    return store.save(LORAS, name, tensors, new_metadata(tensors, info, target))


def _plain(number: str) -> str:
    """8.0 as 8; what is no number as it is."""
    try:
        return f"{float(number):g}"
    except ValueError:
        return number


def check_kept(tensors: dict[str, Tensor]) -> None:
    """ValueError if nothing is left: an empty file would look like a clean LoRA."""
    if not tensors:
        raise ValueError(
            "There is nothing to save: this LoRA is empty. If it is what a filter kept, it removed everything: lower its threshold "
            "or strength. If it is what a filter removed, it removed nothing."
        )


def new_metadata(tensors: dict[str, Tensor], info: dict[str, Any] | None, beside: Path) -> dict[str, str]:
    """The source's metadata with provenance, ranks and hashes brought up to date."""
    info = info or {}
    metadata = {str(k): str(v) for k, v in info.get("metadata", {}).items()}
    if "filter" in info:
        metadata[PROVENANCE] = json.dumps(info["filter"])
    # of matrices: convolutions of 3 x 3 have a rank of their own
    downs = [k for k, t in tensors.items() if t.ndim > 1 and math.prod(t.shape[2:]) == 1 and DOWN.search(k)]
    ranks = {float(len(tensors[k])) for k in downs}
    alphas = {float(tensors[key]) for key in (DOWN.sub("alpha", k) for k in downs) if key in tensors and tensors[key].numel() == 1}
    for key, values in (("ss_network_dim", ranks), ("ss_network_alpha", alphas)):
        if key in metadata and values and {f"{v:g}" for v in values} != {_plain(metadata[key])}:
            metadata[key] = "Dynamic" if len(values) > 1 else f"{min(values):g}"  # as kohya's own tools write where layers differ
    metadata.pop("modelspec.hash_sha256", None)  # of the old tensors; optional
    if any(key in metadata for key in ("sshs_model_hash", "sshs_legacy_hash")):
        metadata |= kohya_hashes(tensors, metadata, beside)
    return metadata


def kohya_hashes(tensors: dict[str, Tensor], metadata: dict[str, str], beside: Path) -> dict[str, str]:
    """sshs_model_hash: SHA-256 of all bytes behind the header; sshs_legacy_hash: eight digits of that of 64 KB from the first megabyte on.

    Both of a file that holds only the ss_ metadata, as kohya's scripts define them.
    """
    training = {k: v for k, v in metadata.items() if k.startswith("ss_")}
    with files.written(beside, tensors, training) as temporary:
        with temporary.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
            file.seek(0x100000)
            legacy = hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
        return {"sshs_model_hash": sha256(temporary, skip=8 + header), "sshs_legacy_hash": legacy}


def provenance_of(path: Path) -> dict[str, Any] | None:
    """What a filtered LoRA says about its making; None if it is none of ours."""
    try:
        return noted(files.metadata(path, LORAS.noun), path.name)
    except ValueError:
        return None


def noted(metadata: dict[str, str], name: str) -> dict[str, Any] | None:
    """The same of a file's metadata; what cannot be read is none."""
    try:
        found = facts.parsed(name, metadata.get(PROVENANCE, "null"))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def check_model(value: Any) -> dict[str, Tensor]:
    """A LORA_MODEL as a dict of tensors; ValueError if it is none."""
    if not isinstance(value, dict) or not value or not all(isinstance(t, torch.Tensor) for t in value.values()):
        raise ValueError("This LORA_MODEL holds no tensors. Connect Open LoRA, or a trained LoRA.")
    return value
