"""How flagged samples are corrected: what a strategy offers the guard. `restart` and `step_rule` are two.

A strategy is a value that is handed to the guard, and serves any number of runs; its work on one run is a `Correction`.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

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


class Strategy(Protocol):
    """A way of correcting."""

    @property
    def redraws(self) -> bool:
        """True: flagged samples are drawn again from the start, so that a run may end as soon as all of them are flagged."""

    def obstacle(self, guider: Any) -> str:
        """Why this strategy could change nothing in a run of that guider, in words; "" if it can."""

    def begin(self, watch: Watch) -> Correction:
        """The work on a run that begins; `watch` fills while it goes on."""
