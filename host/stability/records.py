"""What a guarded run leaves behind, and how it is read: by the chart, by the report, by other programs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ...unmemorize.pictures.stability_chart import verdict
from ...unmemorize.pictures.views import MOST_SAMPLES, MOST_STEPS, curves, outcomes_of, worst_of
from ...unmemorize.stability.profile import Profile
from ..core import facts
from ..core.latents import is_marked
from .verdicts import regions_of
from .watching import Watch


class Record:
    """The output of a guard that waits for a run. Empty until the guarded model has been sampled; each finished run replaces it."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        """JSON-able, see `guard`; empty: no run was seen."""


def numbers(values: Tensor) -> list[Any]:
    """Lists of numbers, [n] or [steps, n]; None where there is none, since JSON has no NaN."""
    if values.ndim > 1:
        return [numbers(row) for row in values]
    return [v if math.isfinite(v) else None for v in values.tolist()]


def so_far(watch: Watch, profile: Profile | None) -> dict[str, Any] | None:
    """A run that is going on, for the chart in the node; None where there is nothing to draw. All of it is on the CPU already."""
    if watch.now is None or watch.steps > MOST_STEPS:
        return None
    observed = {k: numbers(v[:, :MOST_SAMPLES]) for k, v in watch.observed().items()}
    return {"step": watch.now.step, "steps": watch.steps, "signals": curves(observed, regions_of(watch, profile, observed))}


def read_record(report: str | None, record: Record | None, latent: dict[str, Any] | None) -> dict[str, Any]:
    """The facts of a guarded run, from a report or from the guard's own record; ValueError if there is none that fits."""
    if (report is None) == (record is None):
        raise ValueError("Connect either the report of KSampler (Stability Guard) or the record of Stability Guard, one of the two.")
    found = record.facts if isinstance(record, Record) else _parsed(report or "")
    if not found:
        raise ValueError(
            "No guarded run was recorded: the guard's mode is off, or the guarded MODEL does not go into a sampler that ran before. "
            "Set mode to detect or correct, and connect the sampler's latent to the chart."
        )
    if record is not None and latent is not None and not is_marked(latent["samples"], torch.tensor(found["marks"])):
        raise ValueError(
            "The record belongs to another run than this latent. Connect the latent of the sampler that uses the guarded MODEL."
        )
    return found


SAMPLES, STEPS = 4096, 10_000
NUMBER = facts.Fact("a number or null", lambda v: v is None or facts.number(-1e30, 1e30).holds(v))
BY_STEP = facts.several(facts.several(NUMBER, 1, SAMPLES), 1, STEPS)
PAIRS = facts.several(facts.several(NUMBER, 2, 2), 1, STEPS)


def _is_look(look: Any) -> bool:
    """Is this what `guard` notes of a picture that was drawn again?"""
    numbers = isinstance(look, dict) and NUMBER.holds(look.get("score", "")) and NUMBER.holds(look.get("likeness"))
    return numbers and look.get("memorized") in (True, False, None)


REPORT = {
    "mode": facts.text(), "method": facts.text(), "detector": facts.text(), "limit": facts.number(-1e30, 1e30),
    "memorized": facts.several(facts.flag(), 1, SAMPLES), "not_judged": facts.several(facts.text(2000), 1, SAMPLES),
    "scores": facts.several(NUMBER, 1, SAMPLES),
    "acquitted": facts.Fact("a likeness by sample", lambda v: v == {} or facts.table(facts.number(-1, 1)).holds(v)),
    "restarted": facts.several(facts.whole(0, SAMPLES), 0, SAMPLES),
    "redrawn": facts.Fact("looks by sample", lambda v: isinstance(v, dict) and all(_is_look(look) for look in v.values())),
    "edited_steps": facts.Fact(
        "lists of steps by sample", lambda v: v == {} or facts.table(facts.several(facts.whole(0, STEPS), 0, STEPS)).holds(v)
    ),
    "angles": facts.several(NUMBER, 2, STEPS + 1), "sigmas": facts.several(NUMBER, 2, STEPS + 1), "observed": facts.table(BY_STEP),
    "regions": facts.Fact("two numbers a step", lambda v: v == {} or facts.table(PAIRS).holds(v)),
    "warnings": facts.several(facts.text(2000), 0, 100), "marks": facts.several(facts.several(NUMBER, 0, 64), 0, SAMPLES),
}  # fmt: skip
"""What a report holds; it is text, and may come from anywhere."""


def _parsed(report: str) -> dict[str, Any]:
    """The facts of a report; {} of a run that was not watched. ValueError if it is none."""
    try:
        found = facts.parsed("report", report)
        if found == {}:
            return {}
        if not isinstance(found, dict):
            facts.damaged("report", "it is no table of facts")
        kept = facts.checked("report", {"acquitted": {}, **found}, REPORT)  # reports of before know no trials
    except ValueError as error:
        what = str(error).removesuffix(facts.REMEDY)
        raise ValueError(f"This is not the report of a guarded run ({what}) Connect the report of KSampler (Stability Guard).") from error
    n, steps = len(kept["scores"]), len(kept["sigmas"]) - 1
    rows = [len(row) for rows in kept["observed"].values() for row in rows]
    lengths = [len(v) for table in (kept["observed"], kept["regions"]) for v in table.values()]
    if (
        len(kept["memorized"]) != n
        or len(kept["not_judged"]) != n
        or any(k != n for k in rows)
        or any(k != steps for k in lengths)
        or any(i >= n for i in kept["restarted"])
    ):
        raise ValueError(
            "This report does not agree with itself: its numbers of pictures or of steps differ. Connect the report of KSampler "
            "(Stability Guard) as it is."
        )
    return found


def sample_of(found: dict[str, Any], sample: int) -> tuple[bool, float]:
    """memorized and score of one picture of the batch, NaN if it was not judged; ValueError if the batch is smaller."""
    if sample >= len(found["scores"]):
        raise ValueError(f"sample {sample} was asked for, but the batch has {len(found['scores'])} (counted from 0).")
    return found["memorized"][sample], highest(found["scores"][sample : sample + 1])


NO_STEP = "not judged: no step was sampled (denoise 0), so that there was nothing to watch"


def of_batch(found: dict[str, Any], off: bool) -> tuple[bool, float]:
    """memorized and score of a batch: NaN if none of it was judged; False and 0 for a guard that was off."""
    return (any(found["memorized"]), highest(found["scores"])) if found else (False, 0.0 if off else math.nan)


def highest(scores: list[float | None]) -> float:
    """The highest score of a batch; NaN if no picture has one."""
    return max((s for s in scores if s is not None), default=math.nan)


def in_short(found: dict[str, Any], off: bool = False) -> dict[str, Any]:
    """What the front end shows of a record."""
    if not found:
        return {"verdict": "off" if off else NO_STEP}
    kept = (
        "mode", "method", "detector", "limit", "memorized", "not_judged", "unwatched", "scores", "restarted", "redrawn", "edited_steps",
        "warnings",
    )  # fmt: skip
    return {"verdict": verdict(found, worst_of(outcomes_of(found))), **{k: found[k] for k in kept if k in found}}
