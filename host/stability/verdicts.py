"""Is a run the recall of a memory? The detectors, given what was observed and a profile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...unmemorize.stability.profile import Profile, default_score, deviations, paper_score, region_along
from ...unmemorize.stability.rule import Rule, severity
from .watching import Watch

LIMIT = 3.0
"""A default score from here, in standard deviations of clean runs, is called memorized."""


@dataclass(frozen=True)
class Verdict:
    """What was found in a run, by sample."""

    score: Tensor
    """[n], in standard deviations of clean runs; NaN for a run that broke."""
    flagged: Tensor
    """[n], boolean."""
    detector: str
    observed: dict[str, Tensor]
    """What it rests on: signal -> [steps, n], NaN where there is nothing."""


def default_verdict(watch: Watch, profile: Profile, limit: float, rule: Rule) -> Verdict:
    """By the default score; where a run has none (no guidance), by the paper's region."""
    observed, angles = _observed(watch), torch.tensor(watch.angles[:-1])
    score = default_score(profile, angles, observed)
    if torch.isnan(score).all():
        return paper_verdict(watch, profile, limit, rule)
    return Verdict(score, score > limit, "default", observed)


def paper_verdict(watch: Watch, profile: Profile, limit: float, rule: Rule) -> Verdict:
    """Has a sample left the paper's region at any step? (Section 4.3; the score is that of Section 4.2)"""
    observed, angles = _observed(watch), torch.tensor(watch.angles[:-1])
    z = [deviations(profile, name, angles, observed[name]) for name in ("update", "prediction")]
    return Verdict(paper_score(profile, angles, observed), (severity(*z, rule) > 0).any(0), "paper", observed)


def _observed(watch: Watch) -> dict[str, Tensor]:
    """ValueError if the sampler was never seen at a step of its schedule."""
    observed = watch.observed()
    if "update" not in observed:
        raise ValueError(
            "This sampler did not evaluate the model at the steps of its schedule, so the stability guard saw nothing. "
            "Use another sampler (euler, dpmpp_2m ...), or set the guard's mode to off."
        )
    return observed


def regions_of(watch: Watch, profile: Profile, names: dict[str, Any]) -> dict[str, list[list[float]]]:
    """Mean and standard deviation of clean runs by step, [steps][2], of those signals that the profile knows."""
    angles = torch.tensor(watch.angles[:-1])
    return {name: torch.stack(region_along(profile, name, angles), 1).tolist() for name in names if name in profile.mean}
