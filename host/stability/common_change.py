"""Correct a LoRA's copy: while the layout forms, what the LoRA makes of this prompt alone is left out, and its common change kept.

A memory is called up while the layout forms, and a LoRA that was shown little else shows it for every prompt: the first steps are the
model's before it alone.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.model_patcher
from torch import Tensor

from ...unmemorize.stability.agreement import agreement, kept_changes, with_change
from ..core.another_model import asked, asked_meanwhile
from ..core.guiders import hooked_loras
from ..core.hooks import as_function
from ..core.sampler_call import RunCall, options_for, options_of_another_run
from .lora_watch import Lora
from .restart import in_phases
from .strategies import Correction, Draw, Redrawing
from .watching import Watch

HOOKED = (
    "A prompt carries a LoRA of its own (a hook), which could not be told from the LoRA that is watched. Load it with a LoRA loader to "
    "have its pictures corrected."
)
BARE, UNTIL = 0.3, 0.5
"""Shares of the steps, see `CommonChange`; from `nox -s sweep -- lora_correction`."""
REFERENCE = "reference"
"""Of the guider's prompts: the one under which the LoRA's common change is asked for."""


@dataclass(frozen=True)
class CommonChange:
    """Draw flagged samples again without what the LoRA changed for their prompt alone."""

    lora: Lora
    bare: float = BARE
    """Share of the steps that the model before the LoRA draws alone."""
    until: float = UNTIL
    """Share of the steps from which on the LoRA draws as it does: the fewer, the more of it is kept."""
    redraws = True
    same_prompt = False

    def obstacle(self, guider: Any, _sigmas: Tensor) -> str:
        """Why nothing could be changed in a run of that guider, in words; "" if it can."""
        if None in self.lora.prompts(guider.original_conds):
            return "There is no negative prompt, nor a reference, that shows what the LoRA changes for every prompt. Connect one."
        return HOOKED if hooked_loras(guider.original_conds) else ""

    def begin(self, watch: Watch) -> Correction:
        """Nothing of the run that was watched is needed. What is still the same is drawn so in all of its steps."""

        def way(until: float) -> Draw:
            return lambda call: drawn_without_leak(call, self.lora, self.bare, until)

        return Redrawing(way(self.until), *([way(1.0)] if self.until < 1 else []))


def drawn_without_leak(
    call: RunCall, lora: Lora, bare: float, until: float, keeps: float | None = None, region: Tensor | None = None
) -> Tensor:
    """One sample's run, a latent as nodes see it: up to a share of its steps by the model before the LoRA alone; up to another by that
    model, whose every prediction is given the LoRA's change for the prompt where agreement (in `region`) is at least `keeps`, and its
    common change elsewhere (None: everywhere); then by the LoRA. Of the fewest steps one is drawn with that change."""
    own, steps = copy.copy(call.guider), len(call.sigmas) - 1
    own.model_options = options_of_another_run(call.guider)
    bare = min(round(bare * steps), steps - 1) / steps
    until = max(until, bare + 1 / steps)
    lent = _Lent(lora, keeps, region)
    phases = [(bare, lambda _: _before(call.guider, lora)), (until, lambda _: lent.to(call.guider)), (1.0, lambda _: own)]
    return in_phases(call, phases)


def _before(guider: Any, lora: Lora) -> Any:
    """A guider of the model before the LoRA."""
    before = copy.copy(guider)
    before.model_patcher = lora.parent
    before.model_options = options_for(lora.parent, guider)
    return before


class _Lent:
    """Asks the model under the LoRA at each call of the parent's run. Both are clones of one model: the weights are exchanged twice."""

    def __init__(self, lora: Lora, keeps: float | None, region: Tensor | None) -> None:
        self._lora, self._keeps, self._region = lora, keeps, region

    def to(self, guider: Any) -> Any:
        """A guider of the model before the LoRA, with what the LoRA lends it."""
        positive, other = self._lora.prompts(guider.original_conds)
        before = _before(guider, self._lora)
        before.original_conds = {**guider.original_conds, "positive": positive, REFERENCE: other}
        before.model_options = comfy.model_patcher.set_model_options_post_cfg_function(
            before.model_options, as_function(partial(self.corrected, before)), disable_cfg1_optimization=True
        )
        return before

    def corrected(self, guider: Any, facts: dict[str, Any]) -> Tensor:
        """After each call: what the parent makes of the prompt, with the LoRA's changes that are no memory's."""
        lora, conds = self._lora, guider.conds
        others = [conds[REFERENCE], *([] if lora.reference is None else [conds.get("negative")])]
        under = asked_meanwhile(lora.model, lora.parent, [None if self._keeps is None else conds["positive"], *others], facts)
        known = facts["uncond"] is not None and lora.reference is None
        before = [facts["uncond_denoised"]] if known else asked(lora.parent, [None, *others], facts)[1:]
        changes = [u - b for u, b in zip(under[1:], before, strict=True)]
        of_prompt = self._kept(under, before, changes[0], facts["cond_denoised"])
        return with_change(facts["denoised"], of_prompt, changes[-1], facts["cond_scale"])

    def _kept(self, under: list[Tensor], before: list[Tensor], of_prompts: Tensor, cond: Tensor) -> Tensor:
        """What the LoRA may change of the prompt's prediction."""
        if self._keeps is None:
            return of_prompts
        region = None if self._region is None else self._region.to(cond.device)
        agrees = agreement(under[0], under[1], cond, before[0], region)
        return kept_changes(agrees, self._keeps, under[0] - cond, of_prompts)
