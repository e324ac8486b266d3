"""What a guarded run leaves behind, and how it is read: by the chart, by the report, by other programs."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from torch import Tensor

from ...unmemorize.pictures.stability_chart import verdict
from ...unmemorize.pictures.views import MOST_SAMPLES, MOST_STEPS, curves
from ...unmemorize.stability.profile import Profile
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


def so_far(watch: Watch, profile: Profile) -> dict[str, Any] | None:
    """A run that is going on, for the chart in the node; None where there is nothing to draw. All of it is on the CPU already."""
    if watch.now is None or watch.steps > MOST_STEPS:
        return None
    observed = {k: numbers(v[:, :MOST_SAMPLES]) for k, v in watch.observed().items()}
    return {"step": watch.now.step, "steps": watch.steps, "signals": curves(observed, regions_of(watch, profile, observed))}


def read_record(report: str | None, record: Record | None, latent: dict[str, Any] | None) -> dict[str, Any]:
    """The facts of a guarded run, from a report or from the guard's own record; ValueError if there is none that fits."""
    if (report is None) == (record is None):
        raise ValueError("Connect either the report of KSampler (Stability Guard) or the record of Stability Guard, one of the two.")
    found = record.facts if isinstance(record, Record) else _parsed(report)
    if not isinstance(found, dict) or (found and "observed" not in found):
        raise ValueError("This is not the report of a guarded run. Connect the report of KSampler (Stability Guard).")
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


def _parsed(report: str | None) -> Any:
    try:
        return json.loads(report or "")
    except json.JSONDecodeError as error:
        raise ValueError(f"The report is not JSON ({error}). Connect the report of KSampler (Stability Guard).") from error


def sample_of(facts: dict[str, Any], sample: int) -> tuple[bool, float]:
    """memorized and score of one picture of the batch; ValueError if the batch is smaller."""
    if sample >= len(facts["scores"]):
        raise ValueError(f"sample {sample} was asked for, but the batch has {len(facts['scores'])} (counted from 0).")
    return facts["memorized"][sample], highest(facts["scores"][sample : sample + 1])


def of_batch(facts: dict[str, Any]) -> tuple[bool, float]:
    """memorized and score of a batch; False and 0 for a run that was not watched."""
    return (any(facts["memorized"]), highest(facts["scores"])) if facts else (False, 0.0)


def highest(scores: list[float | None]) -> float:
    """The highest score of a batch; a run that broke (NaN) has none."""
    return max((s for s in scores if s is not None), default=0.0)


def in_short(facts: dict[str, Any]) -> dict[str, Any]:
    """What the front end shows of a record."""
    if not facts:
        return {"verdict": "off"}
    kept = ("mode", "method", "detector", "limit", "memorized", "scores", "restarted", "edited_steps", "warnings")
    return {"verdict": verdict(facts, facts["memorized"].index(any(facts["memorized"]))), **{k: facts[k] for k in kept}}
