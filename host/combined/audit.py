"""Audit a model on a list of prompts: a row a prompt, kept as it comes, so that a run that was stopped carries on."""

from __future__ import annotations

import base64
import datetime
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.sample
import folder_paths
import torch
from PIL import Image
from torch import Tensor

from ...unmemorize.copies.audit import agreement, beyond, finished, summary
from ...unmemorize.copies.patches import likeness
from ...unmemorize.copies.trigger_words import with_another, words_of
from ...unmemorize.pictures.audit_page import page
from ..copies.detectors import Detector
from ..copies.references import References, features
from ..core import files, rows
from ..core.identity import identity, shown
from ..core.progress import Progress
from ..core.prompts import digest_of, encoded
from ..core.sampling import draw
from ..core.settings import check_range, check_sampling
from ..lora.report import TOOL
from ..stability.guard import guarded
from ..stability.methods import Guard
from ..stability.profiles import StoredProfile, check_guidance, check_profile
from .neighbours import Vocabulary, vocabulary_of

ROWS, FACTS, PAGE = "rows.jsonl", "audit.json", "index.html"
THUMBNAIL = 96
QUALITY = 80
PROBE = "a photo of a cat on a mat"
"""What a text encoder makes of it tells it from others."""
AT_ONCE = 4
"""Pictures of a prompt that are sampled together."""


@dataclass(frozen=True)
class Audit:
    """What is audited, and with what."""

    model: Any
    clip: Any
    vae: Any
    negative: Any
    latent: dict[str, Any]
    prompts: list[str]
    seeds: int
    use: dict[str, Any]
    """seed, steps, cfg, sampler_name, scheduler"""
    name: str
    neighbours: int = 8
    """Prompts with one word replaced whose agreement is subtracted, where no base is connected; 0: none."""
    base: Any = None
    profile: StoredProfile | None = None
    references: References | None = None
    detector: Detector | None = None
    limit: float | None = None
    """Likeness to a reference from which a picture is called a copy; None: only the likeness is noted."""


def check(a: Audit) -> None:
    """ValueError before any work on what does not fit."""
    check_sampling(a.use)
    check_range("seeds", a.seeds, 2, 64)
    check_range("neighbours", a.neighbours, 0, 64)
    if not a.prompts:
        raise ValueError("There is no prompt to audit. Write some, one a line, or choose a file of the input folder.")
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


def run(a: Audit) -> tuple[list[dict[str, Any]], Path]:
    """All rows, those of earlier runs included, and the page. ValueError before work if the folder holds another audit."""
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
        files.replace_text(home / PAGE, page(finished(found), summary(found), settings | _when(a, found)))
    return found, home / PAGE


def _steps_of(a: Audit) -> int:
    """Of a prompt."""
    others = 1 if a.base is not None else a.neighbours
    return (1 + others) * a.use["steps"] * -(-a.seeds // AT_ONCE)


def _settings(a: Audit) -> dict[str, Any]:
    """What makes two audits the same."""
    return {
        "tool": TOOL, "model": shown(identity(a.model)), "extras": _extras(a.model), "negative": digest_of(a.negative),
        "clip": digest_of(encoded(a.clip, [PROBE])[0]), "base": None if a.base is None else shown(identity(a.base)),
        "profile": None if a.profile is None else {k: v for k, v in a.profile.facts.items() if k != "model"},
        "references": None if a.references is None else a.references.digest,
        "detector": None if a.detector is None else a.detector.name, "limit": a.limit, "seeds": a.seeds, "neighbours": a.neighbours,
        "size": list(a.latent["samples"].shape[2:]), **a.use,
    }  # fmt: skip


def _extras(model: Any) -> list[str]:
    """What nodes have put on a model beside weights: names of replaced objects (a shifted schedule, for one) and of filled options."""
    options = [name for name, value in model.model_options.items() if value not in (None, {}, [])]
    hooks = model.model_options.get("transformer_options", {})
    return sorted([*map(str, model.object_patches), *options, *(f"transformer {name}" for name, value in hooks.items() if value)])


def _when(a: Audit, found: list[dict[str, Any]]) -> dict[str, Any]:
    done = f"{len(found)} of {len(a.prompts)}"
    return {"prompts audited": done, "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"), "torch": torch.__version__}


def _id(prompt: str, settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps([prompt, settings], sort_keys=True).encode()).hexdigest()[:24]


def _kept(home: Path, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of an earlier run of the same audit; a last line that was cut off is made anew."""
    if not (home / ROWS).is_file():
        return
    try:
        same = json.loads((home / FACTS).read_text(encoding="utf-8")) == json.loads(json.dumps(settings))
    except (OSError, ValueError):
        same = False
    if not same:
        raise ValueError(f"{home.name!r} holds an audit with another model or other settings. Choose another name.")
    yield from (row for row in rows.read(home / ROWS) if isinstance(row.get("prompt"), str))


@dataclass
class _Seen:
    """What the guard says of a prompt's runs."""

    scores: list[float | None] = field(default_factory=list)
    flags: list[bool] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    """Why a run has no verdict; "" for those that have one."""

    def add(self, facts: dict[str, Any]) -> None:
        """A record's facts."""
        self.scores += facts["scores"]
        self.flags += facts["memorized"]
        self.reasons += facts["not_judged"]

    def facts(self) -> dict[str, Any]:
        """For a row: memorized if any run is, not only if all were judged, and None otherwise."""
        known = [s for s in self.scores if s is not None]
        missing = next((reason for reason in self.reasons if reason), "" if self.reasons else "the guard saw no run")
        said = {"guard_score": max(known, default=None), "memorized": True if any(self.flags) else None if missing else False}
        return said | ({"not_judged": missing} if missing else {})


class RowMaker:
    """One prompt after the other."""

    def __init__(self, a: Audit, progress: Progress) -> None:
        self._a, self._progress = a, progress
        self._words: Vocabulary | None = vocabulary_of(a.clip) if a.base is None and a.neighbours else None
        known = a.references is not None and a.detector is not None
        self._kept = features(a.references, a.detector, progress.check) if known else None  # type: ignore[arg-type]

    def row(self, prompt: str) -> dict[str, Any]:
        """Of a prompt; one that fails is a row with its error."""
        try:
            return {"prompt": prompt, **self._measured(prompt)}
        except ValueError as error:
            return {"prompt": prompt, "error": str(error)[:500], "agreement": None, "beyond": None}

    def _measured(self, prompt: str) -> dict[str, Any]:
        pictures, guard = self._pictures(self._a.model, prompt, watched=True)
        if not pictures.isfinite().all():
            raise ValueError("a picture came out broken: values that are no numbers (try --fp32-vae, or other settings)")
        own = agreement(_alike(pictures))
        found: dict[str, Any] = {"agreement": own, "beyond": beyond(own, self._others(prompt))}
        if self._a.profile is not None:
            found |= guard.facts()
        if self._kept is not None and self._a.detector is not None and self._a.references is not None:
            best, where = self._a.detector.compare(self._a.detector.prepare(pictures), self._kept, self._progress.check).max(1)
            limit, top = self._a.limit, int(best.argmax())
            found |= {"likeness": float(best[top]), "nearest": self._a.references.names[int(where[top])]}
            found |= {} if limit is None else {"copies": int((best > limit).sum())}
        return found | {"thumbnails": [_thumbnail(p) for p in pictures]}

    def _others(self, prompt: str) -> list[float]:
        """Agreement of the base under the same prompt, or of prompts with one word replaced."""
        if self._a.base is not None:
            return [agreement(_alike(self._pictures(self._a.base, prompt)[0]))]
        return [agreement(_alike(self._pictures(self._a.model, other)[0])) for other in self._neighbours(prompt)]

    def _neighbours(self, prompt: str) -> list[str]:
        if self._words is None:
            return []
        content = [w for w in words_of(prompt) if not w.little]
        found: list[str] = []
        for k in range(self._a.neighbours):
            for word in content:
                several = self._words.near(word.text, k + 1)
                if len(several) > k:
                    found.append(with_another(prompt, word, several[k]))
            if len(found) >= self._a.neighbours:
                break
        return found[: self._a.neighbours]

    def _pictures(self, model: Any, prompt: str, watched: bool = False) -> tuple[Tensor, _Seen]:
        """[seeds, 3, h, w] in [0, 1], and what the guard says of them where it watches."""
        a = self._a
        (positive,) = encoded(a.clip, [prompt])
        empty = comfy.sample.fix_empty_latent_channels(model, torch.zeros_like(a.latent["samples"][:1]))
        made: list[Tensor] = []
        seen = _Seen()
        for start in range(0, a.seeds, AT_ONCE):
            n = min(AT_ONCE, a.seeds - start)
            used, record = guarded(model, Guard(a.profile)) if watched and a.profile is not None else (model, None)
            latent = {"samples": empty.expand(n, *empty.shape[1:]).clone()}
            samples = draw(used, positive, a.negative, latent, a.use | {"seed": a.use["seed"] + start}, self._progress.advance)
            made.append(a.vae.decode(samples)[..., :3].movedim(-1, 1).float().cpu())
            if record is not None and record.facts:
                seen.add(record.facts)
        return torch.cat(made), seen


def _alike(pictures: Tensor) -> Tensor:
    found = likeness(pictures, pictures)
    return (found + found.T) / 2


def _thumbnail(picture: Tensor) -> str:
    """A data URI."""
    image = Image.fromarray((picture.clamp(0, 1).movedim(0, -1) * 255).round().byte().numpy())
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def report(found: list[dict[str, Any]], place: Path) -> dict[str, Any]:
    """The audit without its pictures; JSON-able."""
    kept = [{k: v for k, v in row.items() if k not in ("thumbnails", "id", "fine")} for row in finished(found)]
    return {"summary": summary(found), "page": place.name, "folder": place.parent.name, "rows": kept}
