"""Correct a LoRA's copy: while the layout forms, what the LoRA makes of this prompt alone is left out, and its common change kept.

A memory is called up while the layout forms. A step at which the prompt asks for the same with the LoRA and without it is no memory's:
there the LoRA draws as it does.
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
from ..core.sampler_call import DRAWN_AGAIN, RunCall, options_of_another_run
from .lora_watch import Lora
from .restart import in_phases
from .strategies import Correction, Redrawing
from .watching import Watch

HOOKED = (
    "A prompt carries a LoRA of its own (a hook), which could not be told from the LoRA that is watched. Load it with a LoRA loader to "
    "have its pictures corrected."
)
REFERENCE = "reference"
"""Of the guider's prompts: the one under which the LoRA's common change is asked for."""


@dataclass(frozen=True)
class CommonChange:
    """Draw flagged samples again without what the LoRA changed for their prompt alone."""

    lora: Lora
    until: float = 0.5
    """Share of the steps that are drawn so: the fewer, the more of the LoRA is kept."""
    gated: bool = True
    """Is the LoRA's change left out only at steps where the prompt asks for something else under it?"""
    redraws = True
    same_prompt = False

    def obstacle(self, guider: Any, _sigmas: Tensor) -> str:
        """Why nothing could be changed in a run of that guider, in words; "" if it can."""
        if None in self.lora.prompts(guider.original_conds):
            return "There is no negative prompt, nor a reference, that shows what the LoRA changes for every prompt. Connect one."
        return HOOKED if hooked_loras(guider.original_conds) else ""

    def begin(self, watch: Watch) -> Correction:
        """Nothing of the run that was watched is needed. A picture that is still the same is drawn so in all of its steps."""
        first = _Drawing(self)
        return Redrawing(first.drawn, first.drawn_wholly) if self.gated or self.until < 1 else Redrawing(first.drawn)


class _Drawing:
    """One sample after the other, drawn in one way and, where that did not help, in a stricter one."""

    def __init__(self, how: CommonChange) -> None:
        self._how = how
        self._last: tuple[Tensor, bool] | None = None

    def drawn(self, call: RunCall) -> Tensor:
        """As the strategy says."""
        keeps = self._how.lora.region.keeps if self._how.gated else None
        self._last = drawn_without_leak(call, self._how.lora, self._how.until, keeps)
        return self._last[0]

    def drawn_wholly(self, call: RunCall) -> Tensor:
        """Without the LoRA's change at any step; the same once more if there was no step at which it had to be left out."""
        assert self._last is not None
        latent, left_out = self._last
        return drawn_without_leak(call, self._how.lora, 1.0, None)[0] if left_out else latent


def drawn_without_leak(call: RunCall, lora: Lora, until: float, keeps: float | None) -> tuple[Tensor, bool]:
    """One sample's run, a latent as nodes see it: up to a share of its steps by the model before the LoRA, whose every prediction is given
    the LoRA's change for the prompt where agreement is at least `keeps`, and its common change elsewhere (None: everywhere); then by the
    LoRA.

    Also: was there a step at which the LoRA's change for the prompt was left out?
    """
    own = copy.copy(call.guider)
    own.model_options = options_of_another_run(call.guider)
    lent = _Lent(lora, keeps)
    latent = in_phases(call, [(until, lambda _: _without_leak(call.guider, lora, lent)), (1.0, lambda _: own)])
    return latent, lent.left_out


def _without_leak(guider: Any, lora: Lora, lent: _Lent) -> Any:
    """A guider of the model before the LoRA, with what the LoRA lends it."""
    conds = guider.original_conds
    positive, other = lora.prompts(conds)
    before = copy.copy(guider)
    before.model_patcher = lora.parent
    before.original_conds = {**conds, "positive": positive, REFERENCE: other}
    before.model_options = comfy.model_patcher.set_model_options_post_cfg_function(
        {**lora.parent.model_options, DRAWN_AGAIN: True}, as_function(partial(lent.corrected, before)), disable_cfg1_optimization=True
    )
    return before


class _Lent:
    """Asks the model under the LoRA at each call of the parent's run. Both are clones of one model: the weights are exchanged twice."""

    def __init__(self, lora: Lora, keeps: float | None) -> None:
        self._lora, self._keeps = lora, keeps
        self.left_out = False
        """Was the LoRA's change for the prompt left out at a step?"""

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
            self.left_out = True
            return of_prompts
        agrees = agreement(under[0], under[1], cond, before[0])
        self.left_out |= bool((agrees < self._keeps).any())
        return kept_changes(agrees, self._keeps, under[0] - cond, of_prompts)
