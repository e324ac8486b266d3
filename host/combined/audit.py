"""Audit a model on a list of prompts: a row a prompt, kept as it comes, so that a run that was stopped carries on."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfyui_version
import folder_paths
import torch

from ...unmemorize.copies.audit import counts, finished, summary
from ...unmemorize.pictures.audit_page import page
from ..copies.base_and_lora import LENT, has_a_lora
from ..core import files, rows
from ..core.identity import identity, shown
from ..core.latents import check_single
from ..core.progress import Progress
from ..core.prompts import encoded
from ..core.sampling import empty_of
from ..core.settings import check_range, check_sampling
from ..curvature.measuring import RECOMMENDED
from ..lora.report import TOOL
from ..stability.profiles import StoredProfile, check_guidance, check_profile
from .audit_extras import extras, looked_into
from .audit_row import AT_ONCE, Audit, RowMaker, check_base, strip

SEEDS, NEIGHBOURS = (2, 64), (0, 64)
"""Least and most."""
ROWS, FACTS, PAGE, REPORT = "rows.jsonl", "audit.json", "index.html", "report.json"
PROBE = "a photo of a cat on a mat"
"""What a text encoder makes of it tells it from others."""
PICTURES = "pictures"
"""Folder of a strip a prompt, for the view in the node."""
VALUES = 64
"""Of each tensor of a VAE."""
NUMBERS = ("agreement", "beyond", "guard_score", "map_score", "likeness")
SHOWN, LETTERS = 1000, 300
"""Rows in the view, and letters of a prompt there."""


def check(a: Audit) -> None:
    """ValueError before any work on what does not fit."""
    check_sampling(a.use)
    check_single(a.latent)
    check_range("seeds", a.seeds, *SEEDS)
    check_range("neighbours", a.neighbours, *NEIGHBOURS)
    if not a.prompts:
        raise ValueError("There is no prompt to audit. Write some, one a line, or choose a file of the input folder.")
    check_base(a)
    if a.profile is not None:
        check_profile(a.profile, a.model)
        check_guidance(a.profile, a.use["cfg"])


def folder_of(name: str) -> Path:
    """Where an audit of that name lies, in ComfyUI's output folder; ValueError if the name leads elsewhere."""
    home = Path(folder_paths.get_output_directory()).resolve() / "unmemorize" / "audits"
    path = (home / name.strip()).resolve()
    if not name.strip() or not path.is_relative_to(home) or path == home:
        raise ValueError(f"{name!r} cannot be the name of an audit: use letters, digits, - and _; a / makes a folder.")
    return path


@dataclass(frozen=True)
class Audited:
    """All rows, those of earlier runs included; the page; and what was measured with what, and when."""

    rows: list[dict[str, Any]]
    page: Path
    facts: dict[str, Any]


def run(a: Audit) -> Audited:
    """Rows as they come, then the page and the report as JSON, also of a run that is cancelled. ValueError before work if the folder
    holds another audit."""
    check(a)
    home, settings = folder_of(a.name), _settings(a)
    known = {row["id"]: row for row in _kept(home, settings)}
    home.mkdir(parents=True, exist_ok=True)
    files.replace_text(home / FACTS, json.dumps(settings, indent=1) + "\n")
    todo = [p for p in a.prompts if _id(p, settings) not in known]
    progress = Progress(max(1, len(todo)) * _steps_of(a))
    maker = RowMaker(a, progress) if todo else None
    try:
        with rows.Writer(home / ROWS) as writer:
            for prompt in todo:
                assert maker is not None
                row = {"id": _id(prompt, settings), **maker.row(prompt)}
                writer.write(row)
                known[row["id"]] = row
    finally:
        found = [known[i] for i in (_id(p, settings) for p in a.prompts) if i in known]
        done = Audited(found, home / PAGE, settings | _when(a, found))
        _write(done)
    return done


def _write(done: Audited) -> None:
    """Page, JSON, and the strips that are not there yet."""
    files.replace_text(done.page, page(finished(done.rows), summary(done.rows), done.facts))
    files.replace_text(done.page.with_name(REPORT), json.dumps(report(done), indent=1, allow_nan=False) + "\n")
    folder = done.page.parent / PICTURES
    for row in done.rows:
        if row.get("thumbnails") and not (folder / _picture(row)).is_file():
            files.replace_bytes(folder / _picture(row), strip(row["thumbnails"]))


def _picture(row: dict[str, Any]) -> str:
    return f"{row['id']}.jpg"


def _steps_of(a: Audit) -> int:
    """Of a prompt."""
    others = 1 if a.base is not None else a.neighbours
    return (1 + others) * a.use["steps"] * -(-a.seeds // AT_ONCE)


def _settings(a: Audit) -> dict[str, Any]:
    """What makes two audits the same."""
    own, others = extras(a.model), None if a.base is None else extras(a.base)
    asked = {"negative": a.negative, "clip": encoded(a.clip, [PROBE])}
    asked |= {} if a.base_clip is None else {"base_clip": encoded(a.base_clip, [PROBE])}
    looks = {name: looked_into(conditioning) for name, conditioning in asked.items()}
    blind = [name for name, (_, whole) in looks.items() if not whole]
    return {
        "tool": TOOL, "model": shown(identity(a.model)), "extras": own.digests, **{name: found[:16] for name, (found, _) in looks.items()},
        "base": None if a.base is None else shown(identity(a.base)), "base_extras": None if others is None else others.digests,
        "unseen": own.unseen + ([] if others is None else others.unseen) + blind, "vae": _content_of_vae(a.vae),
        "profile": None if a.profile is None else _content_of_profile(a.profile),
        "references": None if a.references is None else a.references.digest,
        "detector": None if a.detector is None else a.detector.name, "limit": a.limit, "seeds": a.seeds, "neighbours": a.neighbours,
        "map": dataclasses.asdict(RECOMMENDED), "size": list(empty_of(a.model, a.latent).shape[1:]), **a.use,
    }  # fmt: skip


def _content_of_profile(stored: StoredProfile) -> dict[str, Any]:
    """What it was measured on, and a digest of what was measured: other prompts are another profile."""
    return {k: v for k, v in stored.facts.items() if k != "model"} | {"content": looked_into(stored.profile)[0][:16]}


def _content_of_vae(vae: Any) -> str:
    """Its layers, and the first numbers of each: pictures, and so their agreement, are its own."""
    network = getattr(vae, "first_stage_model", None)
    weights = {} if network is None else network.state_dict()
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name} {list(weights[name].shape)}".encode())
        digest.update(weights[name].flatten()[:VALUES].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _when(a: Audit, found: list[dict[str, Any]]) -> dict[str, Any]:
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "prompts audited": f"{len(found)} of {len(a.prompts)}", "date": now.strftime("%Y-%m-%d %H:%M UTC"), "torch": torch.__version__,
        "comfyui": comfyui_version.__version__,
        **({"warning": LENT} if a.base is not None and a.base_clip is None and has_a_lora(a.clip) else {}),
    }  # fmt: skip


def _id(prompt: str, settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([prompt, settings], sort_keys=True).encode()).hexdigest()[:24]


def _kept(home: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of an earlier run of the same audit. A last line that was cut off is made anew, and so are rows that failed: ComfyUI may have
    been started with other options since."""
    if not (home / ROWS).is_file():
        return []
    try:
        before, now = json.loads((home / FACTS).read_text(encoding="utf-8")), json.loads(json.dumps(settings))
    except (OSError, ValueError):
        before, now = {}, settings
    if before != now:
        differing = f" ({_differing(before, now)} differ)" if isinstance(before, dict) and before else ""
        raise ValueError(f"{home.name!r} holds an audit with another model or other settings{differing}. Choose another name.")
    found = [row for row in rows.read(home / ROWS) if isinstance(row.get("prompt"), str) and not row.get("error")]
    if found and settings["unseen"]:
        raise ValueError(
            f"The audit {home.name!r} cannot carry on: what nodes have put on this model cannot all be looked into "
            f"({', '.join(settings['unseen'])}), so it may be another model by now. Choose another name."
        )
    return found


def _differing(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Names of what differs, for a message."""
    words = []
    for name in sorted({*before, *now}):
        there, here = before.get(name), now.get(name)
        if there != here:
            inside = f" ({_differing(there, here)})" if isinstance(there, dict) and isinstance(here, dict) else ""
            words.append(f"{name}{inside}")
    return ", ".join(words)


def report(done: Audited) -> dict[str, Any]:
    """The audit without its pictures; JSON-able."""
    kept = [{k: v for k, v in row.items() if k not in ("thumbnails", "id", "fine", "found")} for row in finished(done.rows)]
    return {"summary": summary(done.rows), "page": done.page.name, "folder": _folder(done), "measured": done.facts, "rows": kept}


def _folder(done: Audited) -> str:
    """In ComfyUI's output folder."""
    return done.page.parent.relative_to(Path(folder_paths.get_output_directory()).resolve()).as_posix()


def gallery(done: Audited) -> dict[str, Any]:
    """For the view in the node: counts of all rows, and the most suspicious ones with the names of their strips of pictures; JSON-able."""
    several = [
        {k: row.get(k) for k in ("verdict", "fine", *NUMBERS)}
        | {"prompt": row["prompt"][:LETTERS], "picture": _picture(row) if row.get("thumbnails") else None}
        for row in finished(done.rows)[:SHOWN]
    ]  # fmt: skip
    folder = _folder(done)
    whole = {"summary": summary(done.rows), "count": len(done.rows), "counts": counts(done.rows)}
    return whole | {"folder": folder, "pictures": f"{folder}/{PICTURES}", "rows": several}
