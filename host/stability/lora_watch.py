"""Watch a LoRA: after a run, the model before it is asked about the latents of the first steps, and what the prompt asks for is compared.

Asked afterwards, the weights are exchanged once a run and not once a step. The parent adds two predictions at each of the first steps (four
of twenty on SD's schedule); a reference prompt, or a run without guidance, adds two more by the model itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import comfy.sampler_helpers
import torch
from torch import Tensor

from ...unmemorize.stability.agreement import EARLY, UNCALIBRATED, AgreementRegion, agreement
from ..core.another_model import before_the_lora, has_a_lora_beyond
from ..core.identity import identity
from ..core.predictions import Conds, Point, predict_along
from ..core.progress import Progress
from ..core.prompts import digest_of
from ..core.sampler_call import RunCall
from .profiles import BEFORE, StoredProfile, calibrate
from .watching import Watch, Watcher

ALTERING = ("sampler_pre_cfg_function", "sampler_calc_cond_batch_function")
"""In model_options: what changes a run's predictions before anyone hears of them."""


@dataclass(frozen=True)
class Lora:
    """A model under a LoRA and the model before it; `reference` (CONDITIONING) takes the empty prompt's place, for trigger words."""

    model: Any
    parent: Any
    reference: Any
    region: AgreementRegion
    """What ordinary prompts keep to under this LoRA."""
    calibrated: bool
    """Was that measured, with this LoRA?"""

    def prompts(self, conds: dict[str, Conds]) -> tuple[Conds | None, Conds | None]:
        """What is compared, of a guider's prompts: the positive one, and the reference or the negative one; None: there is none."""
        if self.reference is not None:
            return conds.get("positive"), comfy.sampler_helpers.convert_cond(self.reference)
        return conds.get("positive"), conds.get("negative")

    def warnings(self) -> list[str]:
        """What the verdict rests on, in words."""
        compared = "Only what the LoRA changes in the diffusion model was compared: its text encoder layers, if it has some, were not."
        if self.calibrated:
            return [compared]
        return [
            compared,
            f"What ordinary prompts look like under this LoRA was not measured: it is judged by a fixed limit (agreement below "
            f"{self.region.limit:.2g}). Calibrate Stability Profile with the parent connected measures it.",
        ]


def lora_between(model: Any, parent: Any, reference: Any, stored: StoredProfile | None) -> Lora | None:
    """The LoRA that `model` has and `parent` has not; None if the parent is another checkpoint. ValueError if they are the same."""
    if not has_a_lora_beyond(model, parent):
        return None
    here = identity(model)["patches"]
    measured = stored is not None and stored.facts["model"]["patches"] == here and stored.facts.get(BEFORE) == before_of(parent, reference)
    known = stored.profile.agreement if stored is not None and measured else None
    return Lora(model, before_the_lora(model, parent), reference, known or UNCALIBRATED, known is not None)


def before_of(parent: Any, reference: Any) -> str:
    """What a LoRA's changes are counted from: patches of the parent, and the reference if there is one."""
    return f"{identity(parent)['patches']}/{'' if reference is None else digest_of(reference)}"


def note_agreement(watch: Watch, lora: Lora, call: RunCall) -> str:
    """Add the agreement of the first steps to a watch that kept its calls; returns why there is none, in words, or ""."""
    kept = dict(sorted(watch.kept.items()))
    positive, other = lora.prompts(call.guider.original_conds)
    if positive is None or other is None:
        return "The run has no negative prompt that the LoRA's change could be compared on. Connect one, or a reference."
    if 0 not in kept:
        return (
            f"Its first step, at noise level {watch.sigmas[0]:.3g}, was not seen, or comes after those in which a LoRA's memories show. "
            "Guard the run from its start."
        )
    points = [Point(c.z * watch.scales[step], watch.sigmas[step]) for step, c in kept.items()]
    altered = any(call.guider.model_options.get(name) for name in ALTERING)
    ours_missing = altered or lora.reference is not None or any(c.uncond is None for c in kept.values())
    progress = Progress(len(points) * (2 if ours_missing else 1))
    steps, calls = list(kept), list(kept.values())
    ours = [(c.cond, c.uncond) for c in calls]
    if ours_missing:
        own = _own(lora, positive if altered else None, other, call, points, progress)
        ours = [(mine if altered else c.cond, uncond) for (mine, uncond), c in zip(own, calls, strict=True)]

    def compare(k: int, before: list[Tensor]) -> None:
        cond, uncond = (torch.as_tensor(d).to(before[0]) for d in ours[k])
        region = None if watch.region is None else watch.region.to(before[0].device)
        watch.agreements[steps[k]] = agreement(cond, uncond, *before, region).cpu()
        progress.advance()

    predict_along(lora.parent, positive, other, call, points, compare)
    return ""


def _own(lora: Lora, positive: Conds | None, other: Conds, call: RunCall, points: list[Point], progress: Progress) -> list[list[Tensor]]:
    """What the model itself predicts under the prompt and under the reference."""
    found: list[list[Tensor]] = []

    def keep(_k: int, predictions: list[Tensor]) -> None:
        found.append(predictions)
        progress.advance()

    predict_along(lora.model, positive, other, call, points, keep)
    return found


def calibrated(
    model: Any, parent: Any, reference: Any, positives: list[Any], negative: Any, latent: dict[str, Any], seeds: int,
    sampling: dict[str, Any],
) -> StoredProfile:  # fmt: skip
    """A stability profile (see `profiles.calibrate`); with a parent, of what ordinary prompts look like under a LoRA too.

    ValueError before any work if there is no LoRA that `model` has and `parent` has not.
    """
    if parent is None:
        if reference is not None:
            raise ValueError("A reference needs the model before the LoRA. Connect that as parent, or disconnect the reference.")
        return calibrate(model, positives, negative, latent, seeds, sampling)
    lora = lora_between(model, parent, reference, None)
    if lora is None:
        raise ValueError(
            "The parent is another checkpoint, not the model before a LoRA: there is no LoRA to measure. Connect the MODEL "
            "that goes into the LoRA loader, or nothing."
        )

    def afterwards(watch: Watch, call: RunCall) -> None:
        trouble = note_agreement(watch, lora, call)
        if trouble:
            raise ValueError(trouble)
        watch.kept.clear()

    def observe(observed: Any) -> tuple[Any, list[Watch]]:
        watcher = Watcher(afterwards, EARLY)
        return watcher.attached(observed), watcher.runs

    stored = calibrate(model, positives, negative, latent, seeds, sampling, observe)
    return replace(stored, facts={**stored.facts, BEFORE: before_of(parent, reference)})
