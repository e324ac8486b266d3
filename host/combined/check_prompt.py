"""Is a prompt's picture a memory? One answer of the guard, the map and, where there are references, of Copy Check."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ...unmemorize.pictures.heatmap import DEFAULT
from ..copies import checking
from ..copies.base_and_lora import has_a_lora
from ..copies.detectors import BuiltIn, Detector
from ..copies.references import References
from ..core import store
from ..core.latents import check_single, decoded
from ..core.progress import Progress
from ..core.prompts import encoded
from ..core.sampling import draw, first_of
from ..curvature.measuring import RECOMMENDED, measure_map
from ..curvature.overlays import FULL_OVER_LIMIT, Look, Overlay, overlaid
from ..curvature.thresholds import THRESHOLDS, fitting
from ..stability.guard import UNWATCHED, guarded
from ..stability.methods import Guard
from ..stability.model_profile import profile_for
from ..stability.profiles import PROFILES
from ..stability.records import in_short, of_batch

LOOK = Look(DEFAULT, 0.85, 0.0, 99.0, "3")
"""As Heatmap Overlay shows a map by default."""
RATE = 0.05
"""Of false alarms, where references calibrate themselves; with fewer than 19 there is no verdict of theirs."""
FEWEST = 19
CLIP_UNWATCHED = (
    "What a LoRA (or another patch) adds to the text encoder was not watched: a guard sees what the model makes of the prompt, not how it "
    "is read. Compare with Reference Pictures of what it was trained on; one that changes the model too, ask with LoRA Leak Probe."
)


@dataclass(frozen=True)
class Answer:
    """The picture, the map over it, and what was found: memorized is None if it could not be judged."""

    picture: Tensor
    heatmap: Tensor
    memorized: bool | None
    words: str
    report: dict[str, Any]


def check_prompt(
    model: Any, clip: Any, vae: Any, prompt: str, latent: dict[str, Any], use: dict[str, Any], references: References | None = None,
    detector: Detector | None = None,
) -> Answer:  # fmt: skip
    """Draw a prompt once under guard, map it, compare it. ValueError before any work on settings; a profile is measured where none is
    kept."""
    if not prompt.strip():
        raise ValueError("There is no prompt. Write the one whose picture you wonder about.")
    check_single(latent)
    positive, empty = encoded(clip, [prompt, ""])
    one = first_of(model, latent)
    asked = asked_of(references, detector)
    profile = profile_for(model, clip, empty, one, use)
    clone, record = guarded(model, Guard(profile.stored, "detect", sampling=use))
    drawn = {**one, "samples": draw(clone, positive, empty, one, use)}
    picture = decoded(vae, drawn["samples"])
    found = measure_map(model, positive, empty, drawn, RECOMMENDED, use["seed"])
    flagged, score = of_batch(record.facts, off=False)
    reason = record.facts["not_judged"][0]
    words = f"not judged: {reason}" if reason else _guard_says(flagged, score, record.facts["limit"])
    unwatched = what_was_not_watched(record.facts, clip)
    if not reason and not flagged and unwatched:
        words = f"not judged: {unwatched} Of the checkpoint itself {words}"
    found_so_far = True if flagged else None if reason or unwatched else False
    overlay = mapped(picture, found, found_so_far)
    facts: dict[str, Any] = {"guard": in_short(record.facts), "profile": profile.how, "map": overlay.report}
    return answer(picture, overlay.pictures, found_so_far, words, facts, compared_with(asked, picture))


def stamp() -> str:
    """Changes when a map threshold or a stability profile is kept, replaced or taken away: an answer depends on what there is."""
    kept = store.paths(THRESHOLDS) | {f"profile {name}": path for name, path in store.paths(PROFILES).items()}
    return "\n".join(f"{name} {path.stat().st_mtime_ns if path.is_file() else 0}" for name, path in sorted(kept.items()))


def what_was_not_watched(guard: dict[str, Any], clip: Any) -> str:
    """Why "nothing found" cannot be said of runs: what a LoRA adds to the model or to the text encoder, a guard does not see; or ""."""
    return UNWATCHED if guard.get("unwatched") else CLIP_UNWATCHED if has_a_lora(clip) else ""


def mapped(picture: Tensor, found: dict[str, Any], memorized: bool | None) -> Overlay:
    """A map over its picture, in the colours of a kept threshold if one fits. Without one every picture has a hottest place, and where
    nothing was found that lies in the middle of the colours, where a threshold would be."""
    kept = fitting(found)
    overlay = overlaid(picture, found, LOOK, calibration=kept)
    if kept is None and memorized is False and overlay.peak > 0:
        overlay = overlaid(picture, found, replace(LOOK, full_heat=FULL_OVER_LIMIT * overlay.peak))
    return overlay


@dataclass(frozen=True)
class Compared:
    """What references say of a picture: copied is None if that is unclear, False also where they are too few for a verdict."""

    copied: bool | None
    words: str
    report: dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """References that have calibrated themselves, or why they give no verdict."""

    known: checking.Known
    unsure: str


def asked_of(references: References | None, detector: Detector | None) -> Asked | None:
    """References as a picture is compared with them; None without references. Those that are nearly all of one picture have no honest pairs
    to be calibrated by: they still name the nearest."""
    if references is None:
        return None
    how = detector or BuiltIn()
    if len(references.names) < FEWEST:
        return Asked(checking.calibrated(references, how, False, RATE), "too few references for a verdict")
    try:
        return Asked(checking.calibrated(references, how, True, RATE), "")
    except ValueError:
        bare = checking.calibrated(references, how, False, RATE)
        return Asked(bare, "no verdict by likeness: too few of the references are different pictures, the others are copies of each other")


def compared_with(asked: Asked | None, picture: Tensor) -> Compared | None:
    """One picture [1, h, w, 3] against them; None without references."""
    if asked is None:
        return None
    known = asked.known
    checked = checking.compared(picture, known, Progress(1))
    report = checking.report(checked, known.references, known.detector, RATE)
    copied = False if asked.unsure else checked.copies[0]
    return Compared(copied, _references_say(report["pictures"][0], asked.unsure), report)


def answer(
    picture: Tensor, heatmap: Tensor, memorized: bool | None, words: str, facts: dict[str, Any], compared: Compared | None
) -> Answer:
    """What was found of a picture, and what references say of it: a copy of one is a memory, whatever else was found."""
    if compared is not None:
        memorized = True if memorized or compared.copied else None if compared.copied is None else memorized
        words, facts = f"{words}; {compared.words}", {**facts, "references": compared.report}
    return Answer(picture, heatmap, memorized, words, {"verdict": words, "memorized": memorized, **facts})


def _guard_says(flagged: bool, score: float, limit: float) -> str:
    if flagged:
        return (
            f"memorized: the model knew this picture from the start (score {score:.1f}, memorized from {limit:g}); hot is what it recalls"
        )
    return f"nothing found: it was drawn like an ordinary picture (score {score:.1f}, memorized from {limit:g})"


def _references_say(row: dict[str, Any], unsure: str) -> str:
    if row["copy"] is None:
        why = unsure or "unclear: no more alike than different pictures may be"
        return f"nearest reference {row['nearest']!r}, likeness {row['score']:.2f}; {why}"
    return f"a copy of {row['nearest']!r}" if row["copy"] else "no copy of the references"
