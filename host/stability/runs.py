"""Runs under guard, and the stages that they are cut into: what was seen, what was found, what was drawn before it was corrected."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from ..core.influences import holding, inside
from ..core.latents import is_empty, is_marked
from ..core.sampler_call import RunCall
from .strategies import Correction, Redrawing
from .verdicts import Verdict
from .watching import SAME_LEVEL, Watch


@dataclass(frozen=True)
class Stage:
    """A run that stopped on the way, for a sampler that goes on with its latent."""

    watch: Watch
    marks: Tensor
    """Of the latent that it left."""
    judged: bool
    first: dict[int, Tensor]
    """Of the samples that it drew again: what they were on the way to before, as nodes see it."""

    def goes_on_in(self, call: RunCall) -> bool:
        """Does that run begin with this one's latent, at its noise level, without noise of its own?"""
        same_level = math.isclose(self.watch.sigmas[-1], float(call.sigmas[0]), rel_tol=SAME_LEVEL)
        return same_level and is_marked(call.latent, self.marks) and not bool(call.noise.any())


@dataclass
class Run:
    """One run of a sampler under guard, from the sampler's start on."""

    watch: Watch
    correction: Correction | None
    before: Stage | None = None
    """The stage that this run goes on from."""
    verdict: Verdict | None = None
    looked: bool = False
    """Was it asked, when the score was complete, whether the rest of the run is needed?"""
    cut: bool = False
    """Did it end early, since all of it will be drawn again?"""
    last: Tensor | None = None
    """The prediction of its last step."""
    remark: str = ""
    """Why nothing is corrected though it was asked for."""
    acquitted: dict[int, float] = field(default_factory=dict)
    """Samples that a LoRA's changes flagged, and that hardly changed on trial: how alike they stayed."""
    untried: str = ""
    """Why a sample that they flagged could not be tried, in words."""
    hooked: bool = False
    """Does a prompt carry a LoRA of its own?"""

    def first(self, result: Tensor, call: RunCall) -> Tensor:
        """What was drawn before any correction, as nodes see it; of a run that ended early, and of samples that an earlier stage drew
        again, what they were on the way to."""
        found = self.expected(call).to(result) if self.cut else result.clone()
        for i, picture in ({} if self.before is None else self.before.first).items():
            found[i : i + 1] = picture
        return found

    def held_by(self, call: RunCall) -> str:
        """What else than its prompts' words holds the picture as it is, so that whatever is drawn again would look like the first, in
        words; "" if it is drawn from noise alone to its end, in one run."""
        if call.mask is not None or not is_empty(call.latent):
            return "it is drawn over another picture, or in a part of one."
        if self.before is not None or self.watch.sigmas[-1] != 0 or not bool(call.noise.any()):
            return "this is a part of a run."
        conds = (cond for several in call.guider.original_conds.values() for cond in several)
        held = [*inside(call.guider.model_options), *holding(conds)]
        return f"other nodes hold it too ({', '.join(held)})." if held else ""

    def expected(self, call: RunCall) -> Tensor:
        """What it was on the way to at its last step, as nodes see it."""
        assert self.last is not None
        return call.guider.model_patcher.model.process_latent_out(self.last.float())

    def firsts(self, call: RunCall) -> dict[int, Tensor]:
        """Of the samples that this stage or an earlier one drew again: what they were on the way to before."""
        known = {} if self.before is None else self.before.first
        again = self.correction.restarted if isinstance(self.correction, Redrawing) else []
        new = [i for i in again if i not in known]
        if self.last is None or not new:
            return known
        expected = self.expected(call).cpu()  # a stage may wait long for the next
        return known | {i: expected[i : i + 1].clone() for i in new}

    @property
    def whole(self) -> Watch:
        """All that was seen of the picture, earlier stages included."""
        return self.watch if self.before is None else self.before.watch.followed_by(self.watch)
