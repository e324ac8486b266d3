"""Copy Check: pictures against references, a calibrated answer for each, and where."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ...unmemorize.copies.calibration import Calibration, best_of_others, calibration, least
from ...unmemorize.pictures.copy_sheet import copy_sheet
from ..core.progress import Progress
from ..core.settings import check_range
from .detectors import Detector
from .references import References, features, recalled, remember

AMONG_THEMSELVES, FEW, PAIRS = 400, 100, 50_000
"""References that are compared with all others, where they calibrate themselves: so many, of large sets fewer (but FEW or what the rate
needs), so that there are about as many PAIRS."""
PART = 0.25
"""Of a place in the mask: from here it is called copied."""


@dataclass(frozen=True)
class Checked:
    """Of every picture its best match: score, reference, percentile of honest pictures (NaN: uncalibrated, or a broken picture), is it a
    copy (None: cannot be said), and the copied part [n, h, w] in [0, 1]."""

    scores: list[float]
    nearest: list[int]
    percentiles: list[float]
    copies: list[bool | None]
    masks: Tensor
    threshold: float | None
    honest: int
    how: str


@dataclass(frozen=True)
class Known:
    """References as a detector keeps them [m, ...], and what of honest pictures a likeness is compared with."""

    references: References
    detector: Detector
    kept: Tensor
    honest: Calibration | None
    threshold: float | None
    how: str


def check(
    pictures: Tensor, references: References, detector: Detector, honest: Tensor | None, among_themselves: bool, rate: float
) -> Checked:
    """Pictures [n, h, w, 3] against references, calibrated by `honest` pictures [k, h, w, 3], or by the references among themselves.

    ValueError before any work on a rate that so few honest pictures cannot tell.
    """
    if not len(pictures):
        raise ValueError("No picture came in. Connect the pictures in question.")
    pictures, honest = coloured(pictures), None if honest is None else coloured(honest)
    count = enough(references, honest, among_themselves, rate)
    progress = Progress(len(references.names) + _units(len(pictures) + count, len(references.names)))
    return compared(pictures, known(references, detector, honest, among_themselves, rate, progress), progress)


def calibrated(references: References, detector: Detector, among_themselves: bool, rate: float) -> Known:
    """What `check` finds out before it looks at a picture. ValueError if so few references that differ cannot tell that rate."""
    count = enough(references, None, among_themselves, rate)
    progress = Progress(len(references.names) + _units(count, len(references.names)))
    return known(references, detector, None, among_themselves, rate, progress)


def coloured(pictures: Tensor) -> Tensor:
    """IMAGE [n, h, w, c] with three channels: grey ones thrice, of others the first three."""
    return pictures.expand(*pictures.shape[:3], 3) if pictures.shape[-1] == 1 else pictures[..., :3]


def enough(references: References, honest: Tensor | None, among_themselves: bool, rate: float) -> int:
    """How many honest pictures there are; ValueError if they cannot tell that rate of false alarms."""
    check_range("false_alarms", rate, 1e-6, 0.5)
    count = len(honest) if honest is not None else _calibrating(len(references.names), rate) if among_themselves else 0
    if count and count < least(rate):
        raise ValueError(
            f"{count} honest pictures cannot tell a false-alarm rate of {rate:g}: at least {least(rate)} are needed, or a rate of "
            f"{1 / (count + 1):.3g} or more."
        )
    return count


def _calibrating(references: int, rate: float) -> int:
    """How many references are compared with the others."""
    return min(references, AMONG_THEMSELVES, max(FEW, least(rate), PAIRS // max(references, 1)))


def known(
    references: References, detector: Detector, honest: Tensor | None, among_themselves: bool, rate: float, progress: Progress
) -> Known:
    """What can be kept from one picture in question to the next."""
    kept = features(references, detector, progress.advance)
    if honest is not None:
        theirs = detector.prepare(honest[..., :3].movedim(-1, 1).float())
        found = calibration(detector.compare(theirs, kept, progress.advance).max(1).values)
    else:
        count = _calibrating(len(kept), rate)
        found = calibration(_among_themselves(references, detector, kept, count, progress)) if among_themselves else None
    how = "honest pictures" if honest is not None else "the references among themselves" if among_themselves else "uncalibrated"
    return Known(references, detector, kept, found, None if found is None else found.threshold(rate), how)


def compared(pictures: Tensor, k: Known, progress: Progress) -> Checked:
    """Pictures [n, h, w, 3] against references; one that is broken (values that are no numbers) is not judged."""
    several = pictures[..., :3].movedim(-1, 1).float()
    sound = several.flatten(1).isfinite().all(1).tolist()
    several = several.nan_to_num(0.0, 0.0, 0.0)
    best, nearest = k.detector.compare(k.detector.prepare(several), k.kept, progress.advance).max(1)
    masks = torch.stack([
        _mask(k.detector, picture, k.references.picture(int(j))) for picture, j in zip(several, nearest.tolist(), strict=True)
    ])  # fmt: skip
    scores = list(zip(best.tolist(), sound, strict=True))
    return Checked(
        best.tolist(),
        nearest.tolist(),
        [math.nan if k.honest is None or not fine else k.honest.percentile(s) for s, fine in scores],
        [None if k.threshold is None or not fine else is_copy(s, k.threshold, k.detector.least) for s, fine in scores],
        masks,
        k.threshold,
        0 if k.honest is None else len(k.honest.honest),
        k.how,
    )


def is_copy(score: float, threshold: float, least: float) -> bool | None:
    """More alike than honest pictures are? None: it is, but no more than different pictures may be: the honest ones were of few kinds."""
    return False if score <= threshold else True if score >= least else None


def counted(verdicts: list[bool | None]) -> tuple[int, int]:
    """How many of some pictures are copies, and of how many that cannot be told."""
    return sum(copy is True for copy in verdicts), sum(copy is None for copy in verdicts)


def _units(pictures: int, references: int) -> int:
    return max(1, pictures * (references // 16 + 9))


def _among_themselves(references: References, detector: Detector, kept: Tensor, count: int, progress: Progress) -> Tensor:
    """Best matches of `count` references among all others; remembered by the content of all of them."""
    name = f"{references.digest}-{count}-{detector.name}"
    found = recalled(name)
    if found is None or found.shape != (count,):
        ours = sorted(range(len(kept)), key=lambda i: references.hashes[i])[:count]
        found = best_of_others(detector.compare(kept[ours], kept, progress.advance), detector.same, torch.tensor(ours))
        remember(name, found)
    return found


def _mask(detector: Detector, picture: Tensor, reference: Tensor) -> Tensor:
    """[h, w] of a picture's size."""
    small = detector.locate(picture, reference)
    return F.interpolate(small[None, None], size=picture.shape[1:], mode="bilinear", align_corners=False)[0, 0].clamp(0, 1).cpu()


def sorted_out(checked: Checked, pictures: Tensor) -> list[Any]:
    """What is surely no copy, and copies, as outputs of a node: an empty side blocks what hangs on it. What cannot be told is on neither
    side, and the report says so."""
    sides = (torch.tensor([copy is wanted for copy in checked.copies]) for wanted in (False, True))
    return [pictures[side] if bool(side.any()) else ExecutionBlocker(None) for side in sides]


def rejected(checked: Checked) -> str:
    """Numbers of the copies, with commas between them."""
    return ", ".join(str(i) for i, copy in enumerate(checked.copies) if copy)


def highest(checked: Checked) -> float:
    """Percentile of the most copied picture, its bare likeness where nothing was calibrated; NaN if no picture could be judged."""
    known = checked.scores if checked.threshold is None else [p for p in checked.percentiles if not math.isnan(p)]
    return max(known, default=math.nan)


def nearest_pictures(checked: Checked, references: References, size: tuple[int, int]) -> Tensor:
    """The nearest reference of every picture, as an IMAGE batch [n, h, w, 3] of the pictures' size."""
    several = [
        F.interpolate(references.picture(j)[None], size=size, mode="bilinear", antialias=True)[0] for j in checked.nearest
    ]  # fmt: skip
    return torch.stack(several).movedim(1, -1).clamp(0, 1)


def in_words(checked: Checked) -> str:
    """The answer, in a sentence."""
    n = len(checked.copies)
    if checked.threshold is None:
        return (
            "uncalibrated: the scores are likenesses, no verdict, so nothing is accepted or rejected. Connect honest pictures, or let "
            "the references calibrate themselves."
        )
    copies, broken = sum(c is True for c in checked.copies), sum(math.isnan(p) for p in checked.percentiles)
    unclear = sum(c is None for c in checked.copies) - broken
    judged = n - broken - unclear
    none = f"no copy among {judged} picture{'s' if judged != 1 else ''}" if judged else "no verdict"
    found = f"{copies} of {n} {'is a copy' if copies == 1 else 'are copies'}" if copies else none
    if unclear:
        found += f"; {unclear} unclear: more alike than the honest pictures, but not more than different pictures may be"
    return found + (f"; {broken} could not be judged: broken pictures (values that are no numbers)" if broken else "")


def report(checked: Checked, references: References, detector: Detector, rate: float) -> dict[str, Any]:
    """What was found, with what, and how sure that is; JSON-able."""
    rows = [
        {
            "copy": copy, "verdict": _said(checked, i), "score": round(score, 4), "percentile": None if math.isnan(p) else round(p, 4),
            "nearest": references.names[j], "copied_area": round(float((mask > PART).float().mean()), 4),
        }
        for i, (copy, score, p, j, mask) in enumerate(zip(
            checked.copies, checked.scores, checked.percentiles, checked.nearest, checked.masks, strict=True
        ))
    ]  # fmt: skip
    return {
        "verdict": in_words(checked), "pictures": rows, "rejected": [i for i, c in enumerate(checked.copies) if c],
        "threshold": None if checked.threshold is None else round(checked.threshold, 4), "false_alarms": rate, "calibrated_by": checked.how,
        "honest_pictures": checked.honest, "detector": detector.name, "references": len(references.names),
        "left_out": dict(list(references.left_out.items())[:50]), "left_out_count": len(references.left_out),
    }  # fmt: skip


def shown(checked: Checked, pictures: Tensor, references: References) -> Tensor:
    """Pictures beside their nearest references with the copied part, IMAGE [1, h, w, 3]."""
    nearest = nearest_pictures(checked, references, tuple(pictures.shape[1:3]))  # type: ignore[arg-type]
    words = [_row(checked, references, i) for i in range(len(pictures))]
    return copy_sheet(coloured(pictures), nearest, checked.masks > PART, words, [bool(c) for c in checked.copies], in_words(checked))


def _said(checked: Checked, i: int) -> str:
    """Of one picture, in a word or two."""
    copy = checked.copies[i]
    unsaid = "uncalibrated" if checked.threshold is None else "not judged" if math.isnan(checked.percentiles[i]) else "unclear"
    return unsaid if copy is None else "copy" if copy else "no copy"


def _row(checked: Checked, references: References, i: int) -> str:
    p = checked.percentiles[i]
    like = "" if math.isnan(p) else f", above {p:.0%} of honest"
    return f"{_said(checked, i)}: {checked.scores[i]:.2f}{like}; {references.names[checked.nearest[i]]}"
