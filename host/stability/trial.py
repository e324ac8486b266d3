"""Is a picture that looks like a LoRA's memory one? It is drawn on trial without the LoRA's answer where that is another than the model's.

At a step at which the prompt asks for the same with the LoRA and without it, the LoRA answers the prompt. A trial leaves out what it makes
of the prompt at the other steps: a memory is gone then, and a picture that stays as it was was none.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...unmemorize.stability.redrawn import UNMOVED, likeness
from ..core.one_sample import call_of_one
from ..core.progress import Progress
from ..core.sampler_call import RunCall
from .common_change import UNTIL, CommonChange, drawn_without_leak
from .lora_watch import Lora
from .restart import Phase, Restart, restarted

AS_IT_WAS = Restart((Phase(UNTIL), Phase(1.0)))
"""The LoRA's own run, cut where a trial is."""


def acquitted(call: RunCall, lora: Lora, flagged: Tensor, first: Tensor, region: Tensor | None) -> tuple[dict[int, float], str]:
    """Of samples [n] that a LoRA's changes flagged those that hardly change on trial, and how alike they are; and why others could not be
    tried, in words, or "". `first` [n, c, ...] is what the run drew, `region` (broadcastable, 1 = counts) where it counts."""
    trouble = CommonChange(lora).obstacle(call.guider, call.sigmas)
    found: dict[int, float] = {}
    suspects = [] if trouble else torch.nonzero(flagged).flatten().tolist()
    progress = Progress(len(suspects) * (len(call.sigmas) - 1))
    for i in suspects:
        try:
            alone = call_of_one(call, i, len(call.noise))
        except ValueError as error:  # a prompt that cannot be cut: the limit decides
            trouble = str(error)
            continue
        alone = replace(alone, callback=lambda *_: progress.advance())  # nobody gets this picture
        inside = region if region is None or len(region) == 1 else region[i : i + 1]
        again = drawn_without_leak(alone, lora, 0.0, UNTIL, lora.region.keeps, inside)
        alike = float(likeness(first[i : i + 1], again, inside))
        if alike < UNMOVED and draws_noise(call.sampler):  # alone, a sample meets other noise: what does the LoRA draw with that?
            alike = float(likeness(restarted(alone, AS_IT_WAS), again, inside))
        if alike >= UNMOVED:
            found[i] = alike
    return found, trouble


def draws_noise(sampler: Any) -> bool:
    """Does a sampler draw noise of its own at its steps? k-diffusion's say so by what they take."""
    function = getattr(sampler, "sampler_function", None)
    return function is None or "noise_sampler" in inspect.signature(function).parameters
