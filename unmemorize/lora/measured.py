"""Which groups of a LoRA's layers carry its memories? Found by trying them (our own method, no paper's).

With B the model without the LoRA and L with it: what L changes for every prompt alike, D_u^L - D_u^B, is what it is for; what it changes
for one prompt on top of that, (D_c^L - D_c^B) - (D_u^L - D_u^B), is memory where the two changes do not agree (`stability.agreement`).
Groups are weakened one after the other, always the one that loses most of the memory for the least of the common change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

LEVELS = (1.0, 0.5, 0.0)
"""Strengths of a group, in the order in which they are tried."""
LEAST_GAIN = 0.01
"""Of the memory: what loses less is left alone."""
LEAST_LOSS = 0.01
"""Of the common change: below it groups are told apart by what they gain alone."""

Changes = list[tuple[Tensor, Tensor]]
"""Of every point that was measured: what a LoRA changes for the caption and for every prompt, [n, c, ...] each."""


@dataclass(frozen=True)
class Effect:
    """What is left of a LoRA, of its memory (`leak`) and of its common change (`kept`): 1 = all of it, 0 = nothing."""

    leak: float
    kept: float


@dataclass(frozen=True)
class Trial:
    """Strengths of the groups, and what they leave."""

    strengths: dict[str, float]
    effect: Effect


def effect_of(changes: Changes, whole: Changes, leaking: list[bool]) -> Effect:
    """Of a weakened LoRA, as projections onto what the whole one changes; 1 and 1 for the whole one itself.

    Memory is looked for at the points that are `leaking`: where the whole LoRA's two changes do not agree.
    """
    own = [(c - u, a - b) for (c, u), (a, b), leaks in zip(changes, whole, leaking, strict=True) if leaks]
    common = [(u, b) for (_, u), (_, b) in zip(changes, whole, strict=True)]
    return Effect(_projected(own), _projected(common))


def _projected(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """<x, whole> / <whole, whole> over all pairs, at least 0; 0 if the whole is nothing."""
    along = sum(float((x.double() * whole.double()).sum()) for x, whole in pairs)
    norm = sum(float(whole.double().square().sum()) for _, whole in pairs)
    return max(along / norm, 0.0) if norm else 0.0


def search(groups: list[str], measure: Callable[[dict[str, float]], Effect], goal: float, floor: float) -> list[Trial]:
    """The path from the whole LoRA to one whose leak is at most `goal`, or to the last one that keeps `floor` of the common change.

    Every entry weakens one group of the entry before it by one level. What a group gained is measured again only once it looks best.
    """
    path = [Trial(dict.fromkeys(groups, LEVELS[0]), Effect(1.0, 1.0))]
    waiting = {group: _Known(_weakened(path[0], group, measure), 0, path[0]) for group in groups}
    while path[-1].effect.leak > goal and waiting:
        here = path[-1]
        best = max(waiting, key=lambda group: waiting[group].worth)
        if waiting[best].asked_at < len(path) - 1:
            waiting[best] = _Known(_weakened(here, best, measure), len(path) - 1, here)
            continue
        found = waiting[best].trial
        if found.effect.kept < floor or here.effect.leak - found.effect.leak < LEAST_GAIN:
            del waiting[best]
            continue
        path.append(found)
        if found.strengths[best] == LEVELS[-1]:
            del waiting[best]
        else:
            waiting[best] = _Known(_weakened(found, best, measure), len(path) - 1, found)
    return path


@dataclass(frozen=True)
class _Known:
    """What weakening a group gave, at which length of the path it was asked, and from where."""

    trial: Trial
    asked_at: int
    before: Trial

    @property
    def worth(self) -> float:
        """Memory that goes, for the common change that goes with it."""
        gain = self.before.effect.leak - self.trial.effect.leak
        return gain / (max(self.before.effect.kept - self.trial.effect.kept, 0.0) + LEAST_LOSS)


def _weakened(trial: Trial, group: str, measure: Callable[[dict[str, float]], Effect]) -> Trial:
    """The same with one group a level lower."""
    strengths = {**trial.strengths, group: LEVELS[LEVELS.index(trial.strengths[group]) + 1]}
    return Trial(strengths, measure(strengths))
