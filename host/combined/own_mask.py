"""Correct without a parent: the flagged prompt's own neurons are found in its run, and the model draws again without them.

Clean pictures never meet the mask, and a mask of one prompt is found where one of many prompts is not (METHODS.md 6b.2).
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core.sampler_call import RunCall, options_of_another_run
from ..neurons.finding import own_mask
from ..neurons.layers import layers_of
from ..neurons.masks import laid_over
from ..neurons.recording import record_run, window_along
from ..stability.restart import SCALES
from ..stability.strategies import Correction, Redrawing
from ..stability.watching import Watch

MORE = 2.0
"""Times as many weights are silenced if the first mask left a memory."""


@dataclass(frozen=True)
class OwnMask:
    """Draw flagged samples again by the model without the weights that their prompt uses and the empty one does not."""

    share: float = 0.1
    """Of a row's weights that can be taken at one noise level."""
    low: float = 2.8
    """Least sigma = b / a at which is listened."""
    score: str = "wanda"
    place: str = "feed-forward"
    cfg: float = 1.0
    """Factor on the guidance."""
    redraws = True
    same_prompt = True

    def obstacle(self, guider: Any, sigmas: Tensor) -> str:
        """Layers must be known, and the run guided, so that the prompt's rows can be told from those of the empty prompt."""
        if not any(getattr(guider, name, 1) != 1 for name in SCALES) or "negative" not in guider.original_conds:
            return "This run has no guidance (CFG 1), so that the prompt's own neurons cannot be told apart. Connect a parent model."
        try:
            layers_of(guider.model_patcher, self.place)
            window_along(guider.model_patcher, sigmas, self.low)
        except ValueError as error:
            return str(error)
        return ""

    def begin(self, watch: Watch | None) -> Correction:
        """Nothing of the run that was watched is needed."""
        denser = dataclasses.replace(self, share=MORE * self.share)
        return Redrawing(lambda call: drawn_by_pruned(call, self), lambda call: drawn_by_pruned(call, denser))


def drawn_by_pruned(call: RunCall, how: OwnMask) -> Tensor:
    """One sample's run by the model pruned by its own mask; a latent as nodes see it."""
    model = call.guider.model_patcher
    mask = own_mask(model, record_run(call, how.place, how.low), how.share, how.score)
    guider = copy.copy(call.guider)
    guider.model_patcher = laid_over(model, mask)
    guider.model_options = options_of_another_run(call.guider)
    for name in SCALES:
        if getattr(guider, name, 1) != 1:
            setattr(guider, name, getattr(guider, name) * how.cfg)
    done = guider.sample(call.noise, call.latent, call.sampler, call.sigmas, call.mask, call.callback, call.disable_pbar, call.seed)
    return done.to(call.latent)
