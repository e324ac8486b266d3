"""What is asked of a guard: detector, strategy, profile, parent; and whether they fit together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...unmemorize.stability.profile import Profile
from ...unmemorize.stability.rule import Rule
from ..core.influences import influences
from . import profiles
from .common_change import CommonChange
from .lora_watch import Lora, lora_between
from .other_words import OtherWords, check_alternatives
from .profiles import StoredProfile, check_guidance, check_profile, warnings_for
from .restart import check_parent, default_restart
from .step_rule import StepRule
from .strategies import Strategy
from .verdicts import LIMIT, Detector, Verdict, both, default_verdict, judged, judged_by_agreement, paper_verdict
from .watching import Watch

MODES = ("detect", "correct", "off")


@dataclass(frozen=True)
class Method:
    """A detector and the strategy that goes with it."""

    detect: Detector
    strategy: Callable[[Guard], Strategy]
    watches_loras: bool
    """Are a LoRA's changes compared where the parent is the model before it?"""


@dataclass(frozen=True)
class Guard:
    """What to watch with, and what to do."""

    stored: StoredProfile | None
    """None: only a LoRA is watched, by the model before it."""
    mode: str = "detect"
    method: str = "recommended"
    parent: Any = None
    reference: Any = None
    """CONDITIONING that takes the empty prompt's place where a LoRA's changes are compared: its trigger word."""
    alternatives: Any = None
    """CONDITIONING of prompts with other words, for a correction without a parent."""
    limit: float = LIMIT
    rule: Rule = field(default_factory=Rule)
    strategy: Strategy | None = None
    """None: the method's own."""
    sampling: dict[str, Any] = field(default_factory=dict)
    """What is known of the run beforehand: sampler_name, scheduler ..., for warnings."""

    @property
    def profile(self) -> Profile | None:
        """What clean runs look like."""
        return None if self.stored is None else self.stored.profile

    def judge(self, watch: Watch, lora: Lora | None = None, trouble: str = "", acquitted: Mapping[int, float] | None = None) -> Verdict:
        """By the method's detector where there is a profile, and by the LoRA's changes where one is watched; `trouble`: why these could
        not be compared, in words; `acquitted`: samples that were tried and are no memory of the LoRA's, and how alike."""
        if lora is None and self.profile is None:
            raise ValueError("A guard needs a profile, or a LoRA to watch.")
        found = []
        if self.profile is not None:
            found.append(judged(METHODS[self.method].detect, watch, self.profile, self.limit, self.rule))
        if lora is not None:
            found.append(judged_by_agreement(watch, lora.region, self.limit, trouble, acquitted))
        return functools.reduce(both, found)

    def other_guidance(self, cfg: float) -> str:
        """How a run's guidance is too far from the profile's, in words; "" if it is near."""
        return "" if self.stored is None else profiles.other_guidance(self.stored, cfg)

    def other_distilled(self, told: float | None) -> str:
        """How the guidance that a distilled model is told in a run is too far from the profile's, in words; "" if it is near."""
        return "" if self.stored is None else profiles.other_distilled(self.stored, told)

    def other_influences(self, guider: Any) -> str:
        """How what other nodes do in a run is not what they did when the profile was measured, in words; "" if it is."""
        conds = (cond for several in guider.original_conds.values() for cond in several)
        return "" if self.stored is None else profiles.other_influences(self.stored, influences(guider.model_options, conds))

    def warnings(self, samples: Tensor, here: dict[str, str]) -> list[str]:
        """What makes the profile fit a run less well, in words; `here` is the identity of the run's model."""
        return [] if self.stored is None else warnings_for(self.stored, samples, self.sampling, here)


METHODS: dict[str, Method] = {
    "recommended": Method(default_verdict, lambda guard: redrawing(guard, guard.parent), watches_loras=True),
    "paper": Method(paper_verdict, lambda guard: StepRule(_profile(guard), guard.rule), watches_loras=False),
}
"""`recommended` was best in our benchmarks; `paper` is arXiv 2605.22050."""


def redrawing(guard: Guard, parent: Any) -> Strategy:
    """How the model's own memories are drawn again: by a parent, with other words where there are some, or by loosened ones."""
    if parent is None and guard.alternatives is not None:
        return OtherWords(guard.alternatives)
    return default_restart(parent)


def _profile(guard: Guard) -> Profile:
    assert guard.profile is not None  # `check` asked for one
    return guard.profile


def lora_of(guard: Guard, model: Any) -> Lora | None:
    """The LoRA that is watched: what `model` has and the parent has not. None: no parent, another checkpoint, or the paper's method."""
    if guard.parent is None or not METHODS[guard.method].watches_loras:
        return None
    return lora_between(model, guard.parent, guard.reference, guard.stored)


def strategy_of(guard: Guard, lora: Lora | None) -> Strategy:
    """How flagged pictures are corrected."""
    if guard.strategy is not None:
        return guard.strategy
    return METHODS[guard.method].strategy(guard) if lora is None else CommonChange(lora)


def check(guard: Guard, model: Any) -> None:
    """ValueError before work on what does not fit together; mode off fits everything."""
    if guard.mode == "off":
        return
    if guard.mode not in MODES or guard.method not in METHODS:
        raise ValueError(f"mode {guard.mode!r} or method {guard.method!r} is none of {MODES}, {tuple(METHODS)}.")
    if guard.reference is not None and guard.parent is None:
        raise ValueError(
            "A reference says what a LoRA's trigger word does: it needs the model before the LoRA. Connect that as parent, or disconnect "
            "the reference."
        )
    if guard.mode == "correct" and guard.alternatives is not None:
        check_alternatives(guard.alternatives)
    if guard.parent is not None:
        check_parent(guard.parent, model)
    lora = lora_of(guard, model)
    if guard.stored is not None or lora is None:
        check_profile(guard.stored, model)
    if "cfg" in guard.sampling and guard.stored is not None:
        check_guidance(guard.stored, guard.sampling["cfg"])
