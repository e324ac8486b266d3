"""One prompt of an audit: its pictures, what they have in common, and what guard, map and references say of them."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...unmemorize.copies.audit import agreement, beyond
from ...unmemorize.copies.patches import likeness
from ...unmemorize.copies.trigger_words import with_another, words_of
from ...unmemorize.curvature.maps import scores
from ..copies.base_and_lora import has_a_lora
from ..copies.checking import counted, is_copy
from ..copies.detectors import Detector
from ..copies.references import References, features
from ..core.another_model import EXCHANGED, LORA, SAME, relation
from ..core.latents import decoded
from ..core.progress import Progress
from ..core.prompts import encoded
from ..core.sampling import draw, empty_of
from ..core.seeds import later_seed
from ..curvature.measuring import RECOMMENDED, measure_map
from ..stability.guard import guarded
from ..stability.methods import Guard
from ..stability.profiles import StoredProfile
from .check_prompt import what_was_not_watched
from .neighbours import Vocabulary, vocabulary_of

THUMBNAIL = 96
QUALITY = 80
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
    """Likeness to a reference above which a picture is called a copy, if the detector is sure of it too; None: the likeness is noted."""
    base_clip: Any = None
    """The base's own text encoder; None: as the model's."""


@dataclass
class _Seen:
    """What the guard says of a prompt's runs."""

    scores: list[float | None] = field(default_factory=list)
    flags: list[bool] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    """Why a run has no verdict; "" for those that have one."""

    def add(self, facts: dict[str, Any], unwatched: str) -> None:
        """A record's facts, and why what the guard did not flag is not clean all the same, or ""."""
        self.scores += facts["scores"]
        self.flags += facts["memorized"]
        self.reasons += [why or unwatched for why in facts["not_judged"]]

    def facts(self) -> dict[str, Any]:
        """For a row: memorized if any run is, not only if all were judged, and None otherwise."""
        known = [s for s in self.scores if s is not None]
        missing = next((reason for reason in self.reasons if reason), "" if self.reasons else "the guard saw no run")
        said = {"guard_score": max(known, default=None), "memorized": True if any(self.flags) else None if missing else False}
        return said | ({"not_judged": missing} if missing else {})


def watching(a: Audit) -> Guard | None:
    """What watches the runs: by the profile, and by the model before a LoRA where that is the base. None: neither."""
    lora = a.base is not None and relation(a.model, a.base) == LORA
    return None if a.profile is None and not lora else Guard(a.profile, parent=a.base if lora else None)


def check_base(a: Audit) -> None:
    """ValueError if the base is no other model, so that nothing is beyond it, or the one under the LoRA; only a text encoder may differ."""
    if a.base is None:
        return
    wanted = "Connect the MODEL that goes into the LoRA loader as base, and the one that comes out as model"
    found = relation(a.model, a.base)
    if found == SAME and (a.base_clip is None or not has_a_lora(a.clip)):
        raise ValueError(
            f"base is the same model with the same LoRAs: nothing that is drawn goes beyond it. {wanted}; of a LoRA that changes the text "
            "encoder alone, the CLIP that goes into the loader as base_clip."
        )
    if found == EXCHANGED:
        raise ValueError(f"base carries a LoRA that the model does not have: the two are exchanged. {wanted}.")


class RowMaker:
    """One prompt after the other."""

    def __init__(self, a: Audit, progress: Progress) -> None:
        self._a, self._progress, self._guard = a, progress, watching(a)
        self._broken = 0
        """Pictures of the others of a prompt."""
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
        self._broken = 0
        pictures, guard, first = self._pictures(self._a.model, self._a.clip, prompt, watched=True)
        if not pictures.isfinite().all():
            raise ValueError("a picture came out broken: values that are no numbers (try --fp32-vae, or other settings)")
        own = agreement(_alike(pictures))
        found: dict[str, Any] = {"agreement": own, "beyond": beyond(own, self._others(prompt)), **self._mapped(prompt, first)}
        if self._broken:
            found["left_out"] = f"{self._broken} broken pictures of the base or of neighbours (values that are no numbers)"
        if self._guard is not None:
            found |= guard.facts()
        if self._kept is not None:
            found |= self._likest(pictures)
        found = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}  # JSON has no other numbers
        return found | {"thumbnails": [_thumbnail(p) for p in pictures]}

    def _likest(self, pictures: Tensor) -> dict[str, Any]:
        """The nearest reference, and with a limit how many pictures are copies: None if that is unclear of some, and sure of none."""
        a = self._a
        assert self._kept is not None and a.detector is not None and a.references is not None
        best, where = a.detector.compare(a.detector.prepare(pictures), self._kept, self._progress.check).max(1)
        top = int(best.argmax())
        found = {"likeness": float(best[top]), "nearest": a.references.names[int(where[top])]}
        if a.limit is None:
            return found
        copies, unclear = counted([is_copy(score, a.limit, a.detector.least) for score in best.tolist()])
        return found | {"copies": copies or (None if unclear else 0)} | ({"unclear": unclear} if unclear else {})

    def _mapped(self, prompt: str, latent: Tensor) -> dict[str, Any]:
        """How much of the first picture's latent [1, c, h, w] the map calls remembered, mean over its places; or why there is no map."""
        a = self._a
        (positive,) = encoded(a.clip, [prompt])
        try:
            found = measure_map(a.model, positive, a.negative, {"samples": latent}, RECOMMENDED, a.use["seed"])
        except ValueError as error:
            return {"map_score": None, "not_mapped": str(error)[:200]}
        return {"map_score": float(scores(found)[0])}

    def _others(self, prompt: str) -> list[float]:
        """Agreement of the base under the same prompt, or of prompts with one word replaced; without those whose pictures are broken."""
        a = self._a
        if a.base is not None:
            asked = [(a.base, a.clip if a.base_clip is None else a.base_clip, prompt)]
        else:
            asked = [(a.model, a.clip, other) for other in self._neighbours(prompt)]
        several = [self._sound(self._pictures(*one)[0]) for one in asked]
        return [agreement(_alike(pictures)) for pictures in several if len(pictures) > 1]

    def _sound(self, pictures: Tensor) -> Tensor:
        """Those of some pictures that hold numbers; the others are counted."""
        fine = pictures.flatten(1).isfinite().all(1)
        self._broken += int((~fine).sum())
        return pictures[fine]

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

    def _pictures(self, model: Any, clip: Any, prompt: str, watched: bool = False) -> tuple[Tensor, _Seen, Tensor]:
        """[seeds, 3, h, w] in [0, 1], what the guard says of them where it watches, and the first one's latent."""
        a = self._a
        (positive,) = encoded(clip, [prompt])
        empty = empty_of(model, a.latent)
        made: list[Tensor] = []
        first: Tensor | None = None
        seen = _Seen()
        for start in range(0, a.seeds, AT_ONCE):
            n = min(AT_ONCE, a.seeds - start)
            used, record = guarded(model, self._guard) if watched and self._guard is not None else (model, None)
            latent = {"samples": empty.expand(n, *empty.shape[1:]).clone()}
            samples = draw(used, positive, a.negative, latent, a.use | {"seed": later_seed(a.use["seed"], start)}, self._progress.advance)
            first = samples[:1] if first is None else first
            made.append(decoded(a.vae, samples).movedim(-1, 1))
            if record is not None and record.facts:
                seen.add(record.facts, what_was_not_watched(record.facts, a.clip))
        assert first is not None  # there are at least two seeds
        return torch.cat(made), seen, first


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


def strip(thumbnails: list[str]) -> bytes:
    """Data URIs of `_thumbnail` side by side, as one JPEG."""
    images = [Image.open(io.BytesIO(base64.b64decode(t.partition(",")[2]))) for t in thumbnails]
    whole = Image.new("RGB", (sum(i.width for i in images), max(i.height for i in images)))
    at = 0
    for image in images:
        whole.paste(image, (at, 0))
        at += image.width
    buffer = io.BytesIO()
    whole.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
