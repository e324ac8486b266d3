"""How flagged samples are corrected: what a strategy offers the guard. `restart`, `common_change` and `step_rule` are three.

A strategy is a value that is handed to the guard, and serves any number of runs; its work on one run is a `Correction`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ...unmemorize.stability.redrawn import STILL_ALIKE, likeness
from ..core.one_sample import call_of_one
from ..core.sampler_call import RunCall, SamplerCall
from .watching import Call, Watch


class Correction:
    """A strategy at work on one run. This one corrects nothing; a strategy overrides what it needs.

    Its life: `saw` after a step of the schedule (again if the sampler asks again; never where its calls were missed), `within` when the
    sampler returns (not where the run ended early), `after` when the whole run does and a sample is flagged.
    """

    def __init__(self) -> None:
        self.restarted: list[int] = []
        """Samples that were drawn again, and came out otherwise."""
        self.unchanged: list[int] = []
        """Samples that were drawn again, and came out the same."""
        self.broken: list[int] = []
        """Samples that came out broken whenever they were drawn again, and were left as they were."""
        self.edited: dict[int, list[int]] = {}
        """Sample -> steps that were edited."""

    def saw(self, call: Call, proposed: Tensor) -> None:
        """A step begins with a call of the model and proposes a latent [n, c, ...]; both in VP coordinates."""

    def within(self, call: SamplerCall, result: Tensor) -> Tensor:
        """What the sampler returns, [n, c, ...], in the model's own latent space; `result` itself if nothing changes."""
        return result

    def after(self, call: RunCall, flagged: Tensor, result: Tensor) -> Tensor:
        """What the run returns, [n, c, ...], latents as nodes see them, given which samples [n] are flagged."""
        return result


Draw = Callable[[RunCall], Tensor]
"""The run of one sample -> its latent as nodes see it, [1, c, ...]."""
Looking = Callable[[RunCall, Draw, int], tuple[Tensor, "Look"]]
"""(The run of a sample, a way of drawing it, its place in the batch) -> its latent, and what the guard makes of it."""


@dataclass(frozen=True)
class Look:
    """What the guard makes of a picture that was drawn again: its score, and is it still a memory? None: that could not be judged."""

    score: float
    memorized: bool | None
    likeness: float | None = None
    """With the picture of the first run, where that is what it was judged by."""

    @property
    def badness(self) -> float:
        """Of two that still look like a memory, the one with less is kept."""
        return self.score if self.likeness is None else self.likeness


class Redrawing(Correction):
    """Draws each flagged sample again, alone, in one way after the other until the guard finds no memory in it; nothing of the run that was
    watched is needed."""

    def __init__(self, *ways: Draw) -> None:
        super().__init__()
        self._ways = ways
        self.look: Looking | None = None
        """Draws and looks; set by a guard."""
        self.looks: dict[int, list[Look]] = {}
        """Sample -> what each way gave."""

    def after(self, call: RunCall, flagged: Tensor, result: Tensor) -> Tensor:
        """`result` with each flagged sample replaced by the best way's; the others keep their bits."""
        n, result = len(call.noise), result.clone()
        for i in torch.nonzero(flagged).flatten().tolist():
            again = self._drawn(call_of_one(call, i, n), i)
            if again is None:
                self.broken.append(i)
                continue
            again = again.to(result)  # the run's own latent lies where it is asked for, the result still on the device
            (self.unchanged if torch.equal(again, result[i : i + 1]) else self.restarted).append(i)
            result[i : i + 1] = again
        return result

    def _drawn(self, call: RunCall, i: int) -> Tensor | None:
        """The first way that leaves no memory; if each leaves one, the way with the least score. None: values that are no numbers, in
        every way."""
        if self.look is None:
            latent = self._ways[0](call)
            return latent if latent.isfinite().all() else None
        best: tuple[float, Tensor] | None = None
        looks: list[Look] = []
        for way in self._ways:
            latent, look = self.look(call, way, i)
            if not latent.isfinite().all():
                continue
            looks.append(look)
            if not look.memorized:
                best = look.badness, latent
                break
            if best is None or look.badness < best[0]:
                best = look.badness, latent
        if looks:
            self.looks[i] = looks
        return None if best is None else best[1]


def compared_with(first: Tensor, region: Tensor | None = None) -> Looking:
    """Looks at a picture that another model or other words drew: their runs cannot be judged as the first one was, so the picture is
    compared with that of the first run, [n, c, ...], where `region` (broadcastable, 1 = counts) says."""

    def look(call: RunCall, draw: Draw, i: int) -> tuple[Tensor, Look]:
        latent = draw(call)
        here = region if region is None or len(region) == 1 else region[i : i + 1]
        found = float(likeness(first[i : i + 1], latent, here))
        return latent, Look(math.nan, None) if math.isnan(found) else Look(math.nan, found >= STILL_ALIKE, found)

    return look


def looks_of(done: Correction) -> dict[str, Any]:
    """Of every picture that was drawn again and looked at: how often, and what the one that was kept looks like; JSON-able."""
    found = {}
    for i, several in (done.looks if isinstance(done, Redrawing) else {}).items():
        kept = next((look for look in several if not look.memorized), min(several, key=lambda look: look.badness))
        score = None if math.isnan(kept.score) else kept.score
        found[str(i)] = {"tries": len(several), "memorized": kept.memorized, "score": score}
        found[str(i)] |= {} if kept.likeness is None else {"likeness": round(kept.likeness, 4)}
    return found


def of_redrawn(done: Correction, looks: dict[str, Any], helped: bool) -> list[str]:
    """What must be said of pictures that were drawn again; `helped`: a parent or other words were connected."""
    said = []
    if done.unchanged:
        which = ", ".join(str(i) for i in done.unchanged)
        said.append(f"Picture {which} of the batch (counted from 0) was drawn again and came out the same: nothing was corrected.")
    if done.broken:
        which = ", ".join(str(i) for i in done.broken)
        said.append(
            f"Picture {which} of the batch (counted from 0) was drawn again and came out broken (values that are no numbers), so it was "
            "left as it was: nothing was corrected. Check the parent's precision, or lower the CFG."
        )
    still = ", ".join(i for i, look in looks.items() if look["memorized"])
    if still:
        advice = "Write it in other words" if helped else "Connect Alternative Prompts, or a parent model"
        said.append(f"Picture {still} of the batch (counted from 0) was drawn again and still looks like the same memory. {advice}.")
    return said


class Strategy(Protocol):
    """A way of correcting."""

    @property
    def redraws(self) -> bool:
        """True: flagged samples are drawn again from the start, so that a run may end as soon as all of them are flagged."""

    @property
    def same_prompt(self) -> bool:
        """Does it draw again with the prompt and the model of the run? Only then can the new run be judged as the first one was."""

    def obstacle(self, guider: Any, sigmas: Tensor) -> str:
        """Why this strategy could change nothing in a run of that guider, in words; "" if it can."""

    def begin(self, watch: Watch) -> Correction:
        """The work on a run that begins; `watch` fills while it goes on."""
