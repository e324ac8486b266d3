"""The kinds of work: which units there are, and what is done for one. A unit is named by its content, never by where it lies."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import torch
from PIL import Image

from ..host.combined.audit_row import RowMaker
from ..host.copies import checking
from ..host.copies.pictures import KINDS as PICTURES
from ..host.copies.pictures import read as read_picture
from ..host.copies.probing import Probe, probe, report, shown
from ..host.core import files
from ..host.core.files import beneath, is_closed
from ..host.core.progress import Progress
from ..host.core.prompts import encoded
from ..host.core.weights import Weights
from ..host.lora import keys, lora_files
from ..host.lora.filter_file import Job, filter_lora, weights_of
from ..host.lora.report import provenance, report_of
from ..unmemorize.lora.gates import Settings
from ..unmemorize.pictures.pages import counted
from .tools import Base, Options, content_hash, content_of_base, kind_and_reason, known_references, row_maker

FAILURES = (
    ValueError, RuntimeError, OSError, ArithmeticError, LookupError, TypeError, AttributeError, NameError, MemoryError, struct.error,
)  # fmt: skip
"""What a bad file may end in: it is a row, never the end of the run."""
PASSING = (RuntimeError, OSError, MemoryError, files.Unwritten)
"""Those that a full disk or a full device ends in."""
OF_WORDS = ("audit",)
"""Kinds of work whose units are words: what fails there may be mended outside, by ComfyUI's own options for one."""

FEW = 5
"""Links by name, in a line."""

log = logging.getLogger("unmemorize.batch")


@dataclass(frozen=True)
class Unit:
    """A piece of work: a file or a prompt, and the base model it is done with."""

    id: str
    kind: str
    name: str
    """Of a file its path inside the folder that was given."""
    path: str
    base: str
    base_content: str = ""
    """Digest of the base model; "" where there is none."""
    also: tuple[str, ...] = ()
    """Names of other files with the same bytes."""


class Tools:
    """What units are done with, kept from one unit to the next."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._base: str | None = None
        self._held: Any = None
        self._fault = ""

    def row(self, unit: Unit) -> dict[str, Any]:
        """Of a unit; one that fails is a row with its error. `again`: the fault may lie outside of the file, so it is tried again."""
        row = row_of(unit)
        try:
            with torch.inference_mode():
                _check_opened(unit)
                self._take(unit)
                return row | ({"error": self._fault, "again": True} if self._fault else WORK[unit.kind](unit, self._held, self._options))
        except FAILURES as error:
            again = isinstance(error, PASSING) or _is_the_systems(error.__cause__) or unit.kind in OF_WORDS
            return row | {"error": _said(error)} | ({"again": True} if again else {})

    def _take(self, unit: Unit) -> None:
        """What this unit needs. What cannot be loaded is tried once, and is the fault of no unit."""
        if self._base == unit.base:
            return
        self._base, self._held, self._fault = unit.base, None, ""  # the old one goes before the new one comes
        try:
            self._held = TOOLS[unit.kind](unit.base, self._options)
        except Exception as error:  # whatever a file that is no checkpoint ends in
            self._fault = f"nothing could be done with {unit.base or 'these references'}: {_said(error)}"


def _is_the_systems(error: BaseException | None) -> bool:
    """Did the system not give a file that is there: a share that went away, a disk that broke? What a file holds has no such number."""
    return isinstance(error, OSError) and bool(error.errno)


def _check_opened(unit: Unit) -> None:
    """ValueError on what is no file, of which the table has a row all the same: a folder that nobody here may look into, a link to nothing,
    a pipe, which would be waited for without end."""
    if unit.kind in OF_WORDS or os.path.isfile(unit.path) or is_closed(Path(unit.path)):
        return
    name = Path(unit.path).name
    if os.path.isdir(unit.path):
        raise ValueError(f"The folder {name!r} cannot be opened, so that nothing in it was looked at. Change its rights.")
    raise ValueError(f"{name!r} is a link to nothing, or no file.")


def row_of(unit: Unit) -> dict[str, Any]:
    """What a unit's row begins with."""
    row: dict[str, Any] = {"id": unit.id, "kind": unit.kind, "name": unit.name, "base": unit.base}
    return row | ({"base_content": unit.base_content} if unit.base_content else {}) | ({"also": list(unit.also)} if unit.also else {})


def _said(error: Exception) -> str:
    return (str(error) if isinstance(error, ValueError) else kind_and_reason(error))[:500]


def name_of(kind: str, content: str, base: str, settings: dict[str, Any]) -> str:
    """Of a unit."""
    return hashlib.sha256(json.dumps([kind, content, base, settings], sort_keys=True).encode()).hexdigest()[:32]


def units_of(kind: str, sources: list[str], bases: list[str], settings: dict[str, Any], home: Path | None = None) -> list[Unit]:
    """Every unit of the sources, each once; ordered by base, so that a shard loads few of them. Names of files begin in `home`; None: they
    are without folders."""
    found: dict[str, Unit] = {}
    named = [(s, s, s) if kind in OF_WORDS else (s, content_hash(Path(s)), _shown(Path(s), home)) for s in sources]
    for base in bases:
        of_base = content_of_base(base) if kind not in NEEDS_NO_BASE else ""
        for source, content, name in named:
            unit = Unit(name_of(kind, content, of_base, settings), kind, name, source, base, of_base)
            first = found.setdefault(unit.id, unit)
            if name not in (first.name, *first.also):
                found[unit.id] = replace(first, also=(*first.also, name))
    return sorted(found.values(), key=lambda unit: (unit.base, unit.id))


def _shown(path: Path, home: Path | None) -> str:
    if home is None:
        return path.name
    return (path.relative_to(home) if path.is_relative_to(home) else path).as_posix()


def shard_of(units: list[Unit], shard: tuple[int, int]) -> list[Unit]:
    """The i-th of n parts of about one size, each of as few bases as possible."""
    i, n = shard
    return units[len(units) * (i - 1) // n : len(units) * i // n]


def _filtered(unit: Unit, base: Base, options: Options) -> dict[str, Any]:
    """A LoRA through the filter, into the output folder under its content's name."""
    tensors, metadata = files.read(Path(unit.path), "LoRA")
    job = Job(base.model, base.clip, Settings(**options.settings))
    result = filter_lora(tensors, job, both=False)
    lora_files.check_kept(result.kept)
    info = lora_files.info_of(unit.name, content_hash(Path(unit.path)), metadata)
    info["filter"] = provenance(info, job)
    target = Path(options.output) / "filtered"
    # named by its unit: what a kill left here without a row is the same file, and is written over
    path = target / f"{Path(unit.name).stem[:40]}-{unit.id[:8]}{files.SUFFIX}"
    files.replace(path, result.kept, lora_files.new_metadata(result.kept, info, target))
    facts = report_of(result, job)
    kept = ("method", "layers", "layers_changed", "rank_before", "rank_after", "energy_removed")
    passed = sum(len(keys) for keys in facts["passed_through"].values())
    return {k: facts[k] for k in kept} | {"passed_through": passed, "warnings": " ".join(result.warnings), "written": path.name}


def _probed(unit: Unit, base: Base, options: Options) -> dict[str, Any]:
    """What a LoRA remembers; its gallery as a picture beside the rows."""
    s = options.settings
    tensors, _ = files.read(Path(unit.path), "LoRA")
    base.check_whole()
    model, clip = comfy.sd.load_lora_for_models(base.model, base.clip, tensors, 1.0, 1.0)
    _check_placed(tensors, base, model, clip)
    captions = s["captions"] or [""]
    (empty,) = encoded(base.clip, [""])
    found = probe(Probe(
        base.model, model, base.vae, encoded(clip, captions), empty, base.latent(s), s["use"], s["pictures"], s["w"], s["groups"],
        encoded(base.clip, captions),
    ))  # fmt: skip
    facts = report(found, captions, s["use"])
    gallery = f"{Path(unit.name).stem[:40]}-{unit.id[:8]}.png"
    _save(shown(found, any(captions)), Path(options.output) / "galleries" / gallery)
    nothing = {"agreement": None, "like_base": None}
    most = max(facts["groups"], key=lambda group: (group["leak"], group["agreement"] - group["like_base"]), default=nothing)
    kept = {"leaks": facts["leaks"], "groups": len(facts["groups"]), "agreement": most["agreement"], "like_base": most["like_base"]}
    return kept | {"gallery": gallery}


def _check_placed(tensors: dict[str, torch.Tensor], base: Base, model: Any, clip: Any) -> None:
    """ValueError if a LoRA changes no layer of the base, or does not fit most: ComfyUI skips these, and what is another model's would be
    probed as a clean one. Kinds that cannot be filtered (DoRA, OFT, BOFT, GLoRA) are asked by what they change."""
    contents = keys.take_apart(tensors, base.model, base.clip)
    if contents.updates:
        keys.check(contents, weights_of(base.model, base.clip))
    elif not sum(_changes(patcher) for patcher in (model, clip.patcher)):
        raise ValueError(
            f"This LoRA changes no layer of this model: none of its {len(tensors)} keys fits one, or all of its numbers are zero. "
            f"{keys.OTHER_MODEL}"
        )


def _changes(patcher: Any) -> int:
    """Weights that its patches change. ValueError if ComfyUI itself fails over one, as it does over a GLoRA of another shape."""
    weights, device, changed = Weights(patcher), patcher.load_device, 0
    for key in patcher.patches:
        try:
            changed += not torch.equal(weights.effective(key, device), weights.base(key, device))
        except comfy.model_management.OOM_EXCEPTION:
            raise
        except (RuntimeError, LookupError, TypeError, AttributeError, NameError) as error:
            raise ValueError(f"This LoRA does not fit this model: its change of {key!r} cannot be made. {keys.OTHER_MODEL}") from error
    return changed


def _audited(unit: Unit, maker: RowMaker, _options: Options) -> dict[str, Any]:
    """A prompt's row of an audit."""
    row = maker.row(unit.path)
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
TOOLS: dict[str, Callable[[str, Options], Any]] = {
    "filter": lambda base, _: Base(base), "probe": lambda base, _: Base(base), "audit": row_maker, "copies": known_references,
}  # fmt: skip
"""What is kept from one unit to the next."""
NEEDS_NO_BASE = ("copies",)


def sources_of(kind: str, given: list[str], out: Path) -> list[str]:
    """Files behind paths and folders, in order, without those below `out`: results are no sources. What cannot be opened is among them, and
    so becomes a row; links to folders are said. ValueError if there are none."""
    suffixes = PICTURES if kind == "copies" else {".safetensors"}
    found: list[str] = []
    leading: list[str] = []
    for name in given:
        if os.path.isdir(name):
            inside, closed = beneath(Path(name))
            files_of_it = [p for p in inside if p.suffix.lower() in suffixes and not os.path.isdir(p)]
            found += [str(p) for p in sorted({*files_of_it, *closed})]
            leading += [str(p) for p in inside if os.path.islink(p) and os.path.isdir(p) and not _is_given(p, given)]
        elif os.path.isfile(name):
            found.append(name)
        else:
            raise ValueError(f"There is no file or folder {name!r}, or it cannot be opened.")
    if leading:
        more = f" and {len(leading) - FEW} more" if len(leading) > FEW else ""
        log.warning("links to folders are not followed, name them to have them looked at: %s%s", ", ".join(map(repr, leading[:FEW])), more)
    results = os.path.realpath(out)
    kept = [name for name in dict.fromkeys(found) if not Path(os.path.realpath(Path(name).parent)).is_relative_to(results)]
    if found and not kept:
        raise ValueError(f"Nothing to do: all files lie in the folder of the results, {str(out)!r}. Choose an --out outside of them.")
    if not kept:
        raise ValueError(f"Nothing to do: no {' or '.join(sorted(suffixes))} in {', '.join(map(repr, given))}.")
    if left_out := len(set(found)) - len(kept):
        log.info("left out, since they lie in the folder of the results: %s", counted(left_out, "file"))
    return kept


def _is_given(path: Path, given: list[str]) -> bool:
    """Does a link lead into what is looked at anyway?"""
    return any(Path(os.path.realpath(path)).is_relative_to(os.path.realpath(name)) for name in given)


def home_of(given: list[str]) -> Path:
    """The deepest folder that holds all that was given: the folder itself where it is one. Several drives have none: names are whole."""
    try:
        return Path(os.path.commonpath([name if os.path.isdir(name) else str(Path(name).parent) for name in given]))
    except ValueError:
        return Path()


def _save(picture: torch.Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((picture[0].clamp(0, 1) * 255).round().byte().cpu().numpy()).save(path)


def as_dict(unit: Unit) -> dict[str, str]:
    """For engines in other processes."""
    return asdict(unit)
