"""The kinds of work: which units there are, and what is done for one. A unit is named by its content, never by where it lies."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import folder_paths
import torch
from PIL import Image

from ..host import demo
from ..host.combined.audit_row import Audit, RowMaker
from ..host.copies import checking, references
from ..host.copies.detectors import BuiltIn
from ..host.copies.pictures import KINDS as PICTURES
from ..host.copies.pictures import listed_at
from ..host.copies.pictures import read as read_picture
from ..host.copies.probing import Probe, probe, report, shown
from ..host.core import files
from ..host.core.files import HERE, reason
from ..host.core.progress import Progress
from ..host.core.prompts import encoded
from ..host.lora import lora_files
from ..host.lora.filter_file import Job, filter_lora
from ..host.lora.report import provenance, report_of
from ..unmemorize.lora.gates import Settings

DEMO = "demo"
FAILURES = (ValueError, RuntimeError, OSError, ArithmeticError, LookupError, TypeError, AttributeError, MemoryError, struct.error)
"""What a bad file may end in: it is a row, never the end of the run."""
PASSING = (RuntimeError, OSError, MemoryError)
"""Those that a full disk or a full device ends in."""
BLOCK, BLOCKS = 2**16, 64
"""Of a checkpoint: what tells it from others."""


@dataclass(frozen=True)
class Unit:
    """A piece of work: a file or a prompt, and the base model it is done with."""

    id: str
    kind: str
    name: str
    path: str
    base: str


@dataclass(frozen=True)
class Options:
    """What all units of a run are done with."""

    output: str
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the kind of work; part of a unit's name."""


class Base:
    """A base model, loaded once a worker: "demo", the name of a checkpoint in ComfyUI's list, or a path."""

    def __init__(self, name: str) -> None:
        path = checkpoint(name)
        if name == DEMO:
            self.model, self.clip, self.vae = demo.load_demo(path)
            return
        embeddings = folder_paths.get_folder_paths("embeddings")
        found = comfy.sd.load_checkpoint_guess_config(str(path), output_vae=True, output_clip=True, embedding_directory=embeddings)
        self.model, self.clip, self.vae = found[:3]


def checkpoint(name: str) -> Path:
    """Where a base model lies; ValueError if there is none of that name."""
    if name == DEMO:
        return HERE / "demo" / "lab" / "checkpoint.safetensors"
    path = name if Path(name).is_file() else folder_paths.get_full_path("checkpoints", name)
    if path is None:
        raise ValueError(f"There is no checkpoint {name!r}: give a path, a name of ComfyUI's checkpoints, or demo.")
    return Path(path)


def known_references(s: dict[str, Any]) -> checking.Known:
    """References of `copies`, calibrated among themselves."""
    found, rate = references_of(s["references"]), s["false_alarms"]
    return checking.known(found, BuiltIn(), None, True, rate, Progress(1))


def references_of(folder: str) -> references.References:
    """Pictures of a folder; ValueError if there are none."""
    if not Path(folder).is_dir():
        raise ValueError(f"There is no folder {folder!r} with references.")
    return references.of_listed(listed_at(Path(folder)), folder, lambda: None)


class Tools:
    """What units are done with, kept from one unit to the next: a base model, or calibrated references."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._held: tuple[str, Any] | None = None

    def row(self, unit: Unit) -> dict[str, Any]:
        """Of a unit; one that fails is a row with its error. `again`: the fault may lie outside of the file, so it is tried again."""
        row: dict[str, Any] = {"id": unit.id, "kind": unit.kind, "name": unit.name, "base": unit.base}
        try:
            with torch.inference_mode():
                return row | WORK[unit.kind](unit, self._tool(unit), self._options)
        except FAILURES as error:
            said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {reason(error)}"
            return row | {"error": said[:500]} | ({"again": True} if isinstance(error, PASSING) else {})

    def _tool(self, unit: Unit) -> Any:
        if self._held is None or self._held[0] != unit.base:
            self._held = None  # the old one goes before the new one comes
            self._held = unit.base, known_references(self._options.settings) if unit.kind in NEEDS_NO_BASE else Base(unit.base)
        return self._held[1]


def content_hash(path: Path) -> str:
    """Of a file; of one that cannot be read, its place."""
    try:
        return lora_files.sha256(path)
    except OSError:
        return f"unreadable: {path}"


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


def name_of(kind: str, content: str, base: str, settings: dict[str, Any]) -> str:
    """Of a unit."""
    return hashlib.sha256(json.dumps([kind, content, base, settings], sort_keys=True).encode()).hexdigest()[:32]


def units_of(kind: str, sources: list[str], bases: list[str], settings: dict[str, Any]) -> list[Unit]:
    """Every unit of the sources, each once; ordered by base, so that a shard loads few of them."""
    found: dict[str, Unit] = {}
    for base in bases:
        of_base = content_of_base(base) if kind not in NEEDS_NO_BASE else ""
        for source in sources:
            content = content_hash(Path(source)) if kind in ("filter", "probe", "copies") else source
            name = Path(source).name if kind in ("filter", "probe", "copies") else source
            unit = Unit(name_of(kind, content, of_base, settings), kind, name, source, base)
            found.setdefault(unit.id, unit)
    return sorted(found.values(), key=lambda unit: (unit.base, unit.id))


def shard_of(units: list[Unit], shard: tuple[int, int]) -> list[Unit]:
    """The i-th of n parts of about one size, each of as few bases as possible."""
    i, n = shard
    return units[len(units) * (i - 1) // n : len(units) * i // n]


def _filtered(unit: Unit, base: Base, options: Options) -> dict[str, Any]:
    """A LoRA through the filter, into the output folder under its content's name."""
    tensors, metadata = files.read(Path(unit.path), "LoRA")
    job = Job(base.model, base.clip, Settings(**options.settings))
    result = filter_lora(tensors, job, both=False)
    info = {"name": unit.name, "sha256": content_hash(Path(unit.path)), "metadata": metadata, "filter": {}}
    info["filter"] = provenance(info, job)
    target = Path(options.output) / "filtered"
    stem = f"{Path(unit.name).stem[:80]}-{unit.id[:8]}"
    written = lora_files.new_metadata(result.kept, info, target)
    with files.written(target, result.kept, written) as temporary:
        path = files.link(temporary, target, stem)
    facts = report_of(result, job)
    kept = ("method", "layers", "layers_changed", "rank_before", "rank_after", "energy_removed")
    passed = sum(len(keys) for keys in facts["passed_through"].values())
    return {k: facts[k] for k in kept} | {"passed_through": passed, "written": path.name}


def _probed(unit: Unit, base: Base, options: Options) -> dict[str, Any]:
    """What a LoRA remembers; its gallery as a picture beside the rows."""
    s = options.settings
    tensors, _ = files.read(Path(unit.path), "LoRA")
    model, clip = comfy.sd.load_lora_for_models(base.model, base.clip, tensors, 1.0, 1.0)
    captions = s["captions"] or [""]
    (empty,) = encoded(base.clip, [""])
    found = probe(
        Probe(base.model, model, base.vae, encoded(clip, captions), empty, _latent(base, s), s["use"], s["pictures"], s["w"], s["groups"])
    )
    facts = report(found, captions, s["use"])
    _save(shown(found), Path(options.output) / "galleries", f"{Path(unit.name).stem[:80]}-{unit.id[:8]}")
    best = max((group["agreement"] for group in facts["groups"]), default=None)
    return {"leaks": facts["leaks"], "groups": len(facts["groups"]), "agreement": best, "base_agreement": facts["base_agreement"]}


def _audited(unit: Unit, base: Base, options: Options) -> dict[str, Any]:
    """A prompt's row of an audit."""
    s = options.settings
    (negative,) = encoded(base.clip, [""])
    audit = Audit(base.model, base.clip, base.vae, negative, _latent(base, s), [unit.path], s["seeds"], s["use"], "batch", s["neighbours"])
    row = RowMaker(audit, Progress(1)).row(unit.path)
    if "error" in row:
        raise ValueError(row["error"])
    return row


def _compared(unit: Unit, known: checking.Known, options: Options) -> dict[str, Any]:
    """A picture against references."""
    picture = read_picture(Path(unit.path)).movedim(0, -1)[None]
    checked = checking.compared(picture, known, Progress(1))
    (row,) = checking.report(checked, known.references, known.detector, options.settings["false_alarms"])["pictures"]
    return row


WORK: dict[str, Callable[[Unit, Any, Options], dict[str, Any]]] = {
    "filter": _filtered, "probe": _probed, "audit": _audited, "copies": _compared,
}  # fmt: skip
NEEDS_NO_BASE = ("copies",)


def sources_of(kind: str, given: list[str]) -> list[str]:
    """Files behind paths and folders, in order; ValueError if there are none."""
    suffixes = PICTURES if kind == "copies" else {".safetensors"}
    found = []
    for name in given:
        path = Path(name)
        if path.is_dir():
            found += [str(p) for p in sorted(path.rglob("*")) if p.suffix.lower() in suffixes and p.is_file()]
        elif path.is_file():
            found.append(name)
        else:
            raise ValueError(f"There is no file or folder {name!r}.")
    if not found:
        raise ValueError(f"Nothing to do: no {' or '.join(sorted(suffixes))} in {', '.join(map(repr, given))}.")
    return found


def _latent(base: Base, s: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {"samples": torch.zeros(1, base.model.get_model_object("latent_format").latent_channels, s["height"] // 8, s["width"] // 8)}


def _save(picture: torch.Tensor, folder: Path, stem: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray((picture[0].clamp(0, 1) * 255).round().byte().cpu().numpy()).save(folder / f"{stem}.png")


def as_dict(unit: Unit) -> dict[str, str]:
    """For engines in other processes."""
    return asdict(unit)
