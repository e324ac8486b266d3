"""Correct a LoRA's copy: the model before the LoRA draws the layout, with the LoRA's common change on top, and the LoRA the rest.

A memory is called up while the layout forms. What a LoRA does to every prompt, and the details that it draws, are no memory's.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_patcher
from torch import Tensor

from ...unmemorize.stability.agreement import with_common_change
from ..core.another_model import asked, asked_meanwhile
from ..core.hooks import as_function
from ..core.predictions import Conds
from ..core.sampler_call import DRAWN_AGAIN, RunCall
from .lora_watch import Lora
from .restart import in_phases
from .strategies import Correction, Redrawing
from .watching import Watch

REFERENCE = "reference"
"""Of the guider's prompts: the one under which the LoRA's common change is asked for."""


@dataclass(frozen=True)
class CommonChange:
    """Draw flagged samples again without what the LoRA changed for their prompt alone."""

    lora: Lora
    until: float = 1.0
    """Share of the steps that the model before the LoRA draws: the fewer, the more of the LoRA is kept."""
    at_last: float = 1.0
    """The same if the picture is still the one that was flagged."""
    redraws = True
    same_prompt = False

    def obstacle(self, guider: Any, _sigmas: Tensor) -> str:
        """Why nothing could be changed in a run of that guider, in words; "" if it can."""
        if self.lora.prompts(guider.original_conds)[1] is None:
            return "There is no negative prompt, nor a reference, that shows what the LoRA changes for every prompt. Connect one."
        return ""

    def begin(self, watch: Watch) -> Correction:
        """Nothing of the run that was watched is needed."""
        longer = replace(self, until=self.at_last)
        ways = [self] if self.at_last <= self.until else [self, longer]
        return Redrawing(*((lambda call, how=how: drawn_without_leak(call, how.lora, how.until)) for how in ways))


def drawn_without_leak(call: RunCall, lora: Lora, until: float) -> Tensor:
    """One sample's run: up to a share of its steps by the model before the LoRA, whose every prediction is given the LoRA's common change,
    then by the LoRA; a latent as nodes see it."""
    own = copy.copy(call.guider)
    own.model_options = {**own.model_options, DRAWN_AGAIN: True}
    return in_phases(call, [(until, lambda _: _without_leak(call.guider, lora)), (1.0, lambda _: own)])


def _without_leak(guider: Any, lora: Lora) -> Any:
    """A guider of the model before the LoRA, with the LoRA's common change."""
    conds = guider.original_conds
    positive, other = lora.prompts(conds)
    before = copy.copy(guider)
    before.model_patcher = lora.parent
    before.original_conds = {**conds, "positive": positive, REFERENCE: other}
    lent = _Lent(before, lora)
    before.model_options = comfy.model_patcher.set_model_options_post_cfg_function(
        {**lora.parent.model_options, DRAWN_AGAIN: True}, as_function(lent.corrected), disable_cfg1_optimization=True
    )
    return before


class _Lent:
    """Asks the model under the LoRA at each call of the parent's run. Both are clones of one model: the weights are exchanged twice."""

    def __init__(self, guider: Any, lora: Lora) -> None:
        self._guider, self._lora = guider, lora

    def corrected(self, facts: dict[str, Any]) -> Tensor:
        """After each call: what the parent makes of the prompt, and the LoRA's common changes."""
        lora, conds = self._lora, self._guider.conds
        reference, negative = conds[REFERENCE], conds.get("negative")
        if lora.reference is None:
            sides: list[Conds | None] = [None, reference]
            known = None if facts["uncond"] is None else facts["uncond_denoised"]
        else:
            sides, known = [reference, negative], None
        under = asked_meanwhile(lora.model, lora.parent, sides, facts)
        before = [None, known] if known is not None else asked(lora.parent, sides, facts)
        changes = [u - b for side, u, b in zip(sides, under, before, strict=True) if side is not None]
        return with_common_change(facts["denoised"], changes[0], changes[-1], facts["cond_scale"])
