"""What units are done with: base models, references, detectors, profiles; and their names by content, wherever they lie."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import folder_paths
import torch

from ..host import demo
from ..host.combined.audit import check
from ..host.combined.audit_row import Audit, RowMaker
from ..host.copies import checking, references, sscd
from ..host.copies.detectors import BuiltIn, Detector
from ..host.copies.pictures import listed_at
from ..host.core import store
from ..host.core.files import HERE, reason
from ..host.core.progress import Progress
from ..host.core.prompts import encoded
from ..host.lora import lora_files
from ..host.stability.profiles import PROFILES, StoredProfile, read_profile

DEMO = "demo"
BLOCK, BLOCKS = 2**16, 64
"""Of a checkpoint: what tells it from others."""


@dataclass(frozen=True)
class Options:
    """What all units of a run are done with."""

    output: str
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the kind of work; part of a unit's name."""
    paths: dict[str, str] = field(default_factory=dict)
    """Where references, detector, profile and parent lie; their contents are among the settings."""
    comfyui: list[str] = field(default_factory=list)
    """ComfyUI's own options, for workers that start it anew."""


class Base:
    """A base model, loaded once a worker: "demo", the name of a checkpoint in ComfyUI's list, or a path."""

    def __init__(self, name: str) -> None:
        path = checkpoint(name)
        if name == DEMO:
            self.model, self.clip, self.vae = demo.load_demo(path)
            return
        embeddings = folder_paths.get_folder_paths("embeddings")
        try:
            found = comfy.sd.load_checkpoint_guess_config(str(path), output_vae=True, output_clip=True, embedding_directory=embeddings)
        except Exception as error:  # whatever a file that is no checkpoint ends in
            raise ValueError(f"{name!r} cannot be loaded as a checkpoint ({kind_and_reason(error)}).") from error
        self.model, self.clip, self.vae = found[:3]

    def check_whole(self) -> None:
        """ValueError if something that drawing needs is not in the file, as in diffusion models that come in several."""
        parts = {"diffusion model": self.model, "text encoder": self.clip, "VAE": getattr(self.vae, "first_stage_model", None)}
        missing = [name for name, part in parts.items() if part is None]
        if missing:
            raise ValueError(f"This file holds no {' and no '.join(missing)}: give a checkpoint that has all of them in it.")

    def latent(self, settings: dict[str, Any]) -> dict[str, torch.Tensor]:
        """An empty one of the settings' size; ValueError if the model draws none of that size."""
        channels, block = self.model.get_model_object("latent_format").latent_channels, self.vae.spacial_compression_encode()
        sides = [settings[name] for name in ("height", "width")]
        if any(side % block for side in sides):
            raise ValueError(f"This model draws in steps of {block} pixels: choose a --width and a --height that are multiples of it.")
        return {"samples": torch.zeros(1, channels, *(side // block for side in sides))}


def checkpoint(name: str) -> Path:
    """Where a base model lies; ValueError if there is none of that name."""
    if name == DEMO:
        return HERE / "demo" / "lab" / "checkpoint.safetensors"
    path = name if os.path.isfile(name) else folder_paths.get_full_path("checkpoints", name)
    if path is None:
        raise ValueError(f"There is no checkpoint {name!r}: give a path, a name of ComfyUI's checkpoints, or demo.")
    return Path(path)


def kind_and_reason(error: Exception) -> str:
    """What went wrong, where the kind alone may be all that an error tells."""
    kind, said = type(error).__name__, reason(error)
    return kind if said == kind else f"{kind}: {said}"


def content_hash(path: Path) -> str:
    """Of a file; of what is none, or cannot be read, its place."""
    try:
        return content_of_file(path) if os.path.isfile(path) else f"unreadable: {path}"
    except ValueError:
        return f"unreadable: {path}"


def content_of_file(path: Path) -> str:
    """Of a file that all units need; ValueError if it cannot be read."""
    try:
        return lora_files.sha256(path)
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read ({reason(error)}).") from error


def content_of_base(name: str) -> str:
    """Of a checkpoint, by its size and some of its blocks: a whole one may have many gigabytes."""
    path = checkpoint(name)
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for k in range(BLOCKS):
            file.seek(k * max(0, size - BLOCK) // (BLOCKS - 1))
            digest.update(file.read(BLOCK))
    return digest.hexdigest()[:16]


def references_of(folder: str) -> references.References:
    """Pictures of a folder; ValueError if there are none."""
    if not os.path.isdir(folder):
        raise ValueError(f"There is no folder {folder!r} with references.")
    return references.of_listed(listed_at(Path(folder)), folder, lambda: None)


def detector_of(paths: dict[str, str]) -> Detector:
    """The built-in one, or that of a file of SSCD weights; ValueError if it is none."""
    return sscd.of_weights(sscd.read(Path(paths["detector"]))) if paths.get("detector") else BuiltIn()


def profile_path(name: str) -> Path:
    """Of a file, or of a profile that Save Stability Profile kept; ValueError if there is none."""
    return Path(name) if os.path.isfile(name) else store.find(PROFILES, name)


def known_references(_base: str, options: Options) -> checking.Known:
    """References of `copies`, calibrated among themselves."""
    found, rate = references_of(options.paths["references"]), options.settings["false_alarms"]
    return checking.known(found, detector_of(options.paths), None, True, rate, Progress(1))


def row_maker(base: str, options: Options) -> RowMaker:
    """For the prompts of an audit; ValueError if the profile is another model's."""
    model, s, paths = Base(base), options.settings, options.paths
    model.check_whole()
    (negative,) = encoded(model.clip, [""])
    profile: StoredProfile | None = read_profile(profile_path(paths["profile"])) if paths.get("profile") else None
    known = references_of(paths["references"]) if paths.get("references") else None
    parent = Base(paths["parent"]) if paths.get("parent") else None
    audit = Audit(
        model.model, model.clip, model.vae, negative, model.latent(s), ["any"], s["seeds"], s["use"], "batch", s["neighbours"],
        None if parent is None else parent.model, profile, known, None if known is None else detector_of(paths), s["copy_limit"],
        None if parent is None else parent.clip,
    )  # fmt: skip
    check(audit)
    return RowMaker(audit, Progress(1))
