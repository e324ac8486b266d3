"""Correct without a parent: other words while the layout forms, the exact words after (METHODS.md 6b.3; ours, measured in benchmarks/).

A memory hangs on the exact words while the layout forms; later they only name details. Which other words do not call it up is asked of the
model at the first step: there a memory shows in the norm of D_c - D_u (WEN, arXiv 2407.21720).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import comfy.sampler_helpers
import torch

from ...unmemorize.stability.signals import rms
from ..core.predictions import predict_at_start
from ..core.sampler_call import RunCall
from .restart import Conds, Phase, Restart, others_early, restarted
from .strategies import Correction, Redrawing
from .watching import Watch

PARTS = "The prompt has several parts (areas, masks, ranges of steps), which alternatives cannot take the place of. Connect a parent model."


@dataclass(frozen=True)
class OtherWords:
    """Draw flagged samples again with other prompts early, another at each step; of the alternatives those that call least up."""

    alternatives: Any
    """CONDITIONING: prompts of which each differs from the run's in a word or so."""
    until: float = 0.3
    """Share of the steps that other words draw: the fewer, the more the exact words are obeyed."""
    at_last: float = 0.8
    """The same if the picture is still the one that was flagged."""
    kept: int = 6
    redraws = True
    same_prompt = False

    def obstacle(self, guider: Any, _sigmas: Any) -> str:
        """Why nothing could be changed in a run of that guider, in words; "" if it can."""
        conds = guider.original_conds
        if not conds.get("negative"):
            return "This run has no negative prompt, against which alternatives could be compared. Connect one, or a parent model."
        return "" if len(conds.get("positive", ())) == 1 else PARTS

    def begin(self, watch: Watch | None) -> Correction:
        """Nothing of the run that was watched is needed."""
        longer = dataclasses.replace(self, until=self.at_last)
        return Redrawing(lambda call: drawn_with_others(call, self), lambda call: drawn_with_others(call, longer))


def drawn_with_others(call: RunCall, how: OtherWords) -> torch.Tensor:
    """One sample's run with other words early; a latent as nodes see it."""
    (prompt,) = call.guider.original_conds["positive"]
    others = [{**prompt, **other} for other in comfy.sampler_helpers.convert_cond(how.alternatives)]
    chosen = others_early(calling_least_up(call, others, how.kept), how.until)
    return restarted(call, Restart((Phase(1.0, prompt=chosen),)))


def calling_least_up(call: RunCall, others: Conds, count: int) -> Conds:
    """Of prompts, so many whose prediction is nearest to the negative prompt's where the run begins, in their own order."""
    uncond, *found = predict_at_start(call, [call.guider.original_conds["negative"], *([other] for other in others)])
    norms = torch.stack([rms(d - uncond).mean() for d in found])
    return [others[i] for i in sorted(norms.argsort()[:count].tolist())]
