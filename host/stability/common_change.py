"""Correct a LoRA's copy: draw it again with content from the model before the LoRA, and the LoRA's common change on top."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
from torch import Tensor

from ...unmemorize.stability.agreement import with_common_change
from ..core.another_model import asked, asked_meanwhile
from ..core.hooks import as_function
from ..core.sampler_call import DRAWN_AGAIN, RunCall
from .lora_watch import Lora
from .strategies import Correction, Redrawing
from .watching import Watch

REFERENCE = "reference"
"""Of the guider's prompts: what takes the empty prompt's place."""


@dataclass(frozen=True)
class CommonChange:
    """Draw flagged samples again without what the LoRA changed for their prompt alone."""

    lora: Lora
    redraws = True
    same_prompt = False

    def obstacle(self, guider: Any, _sigmas: Tensor) -> str:
        """Why nothing could be changed in a run of that guider, in words; "" if it can."""
        if self.lora.prompts(guider.original_conds)[1] is None:
            return "There is no negative prompt, nor a reference, that shows what the LoRA changes for every prompt. Connect one."
        return ""

    def begin(self, watch: Watch) -> Correction:
        """Nothing of the run that was watched is needed."""
        return Redrawing(lambda call: drawn_without_leak(call, self.lora))


def drawn_without_leak(call: RunCall, lora: Lora) -> Tensor:
    """One sample's run by the model before the LoRA, whose every prediction is given the LoRA's common change; a latent as nodes see it."""
    positive, other = lora.prompts(call.guider.original_conds)
    guider = copy.copy(call.guider)
    guider.model_patcher = lora.parent
    guider.original_conds = {**call.guider.original_conds, "positive": positive, REFERENCE: other}
    lend = _Lent(guider, lora)
    options = comfy.model_patcher.set_model_options_post_cfg_function(
        {**lora.parent.model_options, DRAWN_AGAIN: True}, as_function(lend.corrected), disable_cfg1_optimization=True
    )
    guider.model_options = options
    done = guider.sample(call.noise, call.latent, call.sampler, call.sigmas, call.mask, call.callback, call.disable_pbar, call.seed)
    return done.to(call.latent)


class _Lent:
    """Asks the model under the LoRA at each call of the parent's run. Both are clones of one model: the weights are exchanged twice."""

    def __init__(self, guider: Any, lora: Lora) -> None:
        self._guider, self._lora = guider, lora

    def corrected(self, facts: dict[str, Any]) -> Tensor:
        """After each call: what the parent makes of the prompt, and the LoRA's common change."""
        lora, reference = self._lora, self._guider.conds[REFERENCE]
        own = facts["uncond_denoised"]
        if lora.reference is not None or facts["uncond"] is None:
            own = asked(lora.parent, [None, reference], facts)[1]
        return with_common_change(facts["denoised"], own, asked_meanwhile(lora.model, lora.parent, [None, reference], facts)[1])
