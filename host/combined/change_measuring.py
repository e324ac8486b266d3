"""What LoRAs change at the latents of some captions' runs: drawn once by one of them, asked of any number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import comfy.model_patcher
import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from ...unmemorize.lora.measured import Changes
from ...unmemorize.stability.agreement import EARLY, UNCALIBRATED, agreement, region_of_runs
from ..core.hooks import as_function
from ..core.noise import noise_level
from ..core.predictions import Point, predict_along
from ..core.progress import Progress
from ..core.prompts import encoded
from ..core.sampler_call import RunCall
from ..core.sampling import empty_of
from ..core.seeds import later_seed
from ..stability.lora_watch import ALTERING
from ..stability.watching import SAME_LEVEL

PLACES = (0.0, 0.1, 0.3, 0.5, 0.7)
"""Parts of a run's steps at which the models are asked; the first two are those at which agreement says something."""
AGREES = UNCALIBRATED.limit
"""Below it a caption asks for something else under a LoRA: the guard's fixed limit."""
LEAST_PROMPTS = 5
"""From so many on, ordinary prompts say what agreement is usual under a LoRA."""


class Latents:
    """Latents that the captions' runs met, and what models predict there; D_u of the reference, or of the empty prompt."""

    def __init__(
        self, model: Any, clip: Any, captions: list[str], reference: str, latent: dict[str, Any], use: dict[str, Any], progress: Progress,
        places: Sequence[float] = PLACES,
    ) -> None:  # fmt: skip
        """Runs of MODEL and CLIP, a seed each; `use`: seed, steps, cfg, sampler_name, scheduler; `places`: parts of its steps."""
        self._captions, self._reference, self._progress, self._places = captions, reference, progress, places
        self._drawn_by = (model, clip)
        self._met: Changes = []
        """(D_c, D_u) of the runs themselves; nothing where a run asks for less, or for something else, than `predicted` says."""
        self.evaluations = 0
        self._runs = []
        for i, caption in enumerate(captions):
            self._runs.append(self._run(model, clip, caption, latent, use, later_seed(use["seed"], i)))

    @property
    def points(self) -> list[list[Point]]:
        """Of every run."""
        return [points for _, points in self._runs]

    def _run(
        self, model: Any, clip: Any, caption: str, latent: dict[str, Any], use: dict[str, Any], seed: int
    ) -> tuple[RunCall, list[Point]]:  # fmt: skip
        positive, negative = encoded(clip, [caption, ""])
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(use["cfg"])
        empty = empty_of(model, latent)
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), use["scheduler"], use["steps"])
        sampler = comfy.samplers.sampler_object(use["sampler_name"])
        wanted = sorted({float(sigmas[int(place * (len(sigmas) - 1))]) for place in self._places}, reverse=True)
        points: list[Point] = []
        sees_both = not self._reference and use["cfg"] != 1 and _is_plain(guider.model_options)

        def see(facts: dict[str, Any]) -> Tensor:
            """What a callback is given is scaled by the sampler as it likes; what the model is asked is not."""
            sigma = float(facts["sigma"].reshape(-1)[0])
            if len(points) < len(wanted) and abs(sigma - wanted[len(points)]) <= SAME_LEVEL * sigma:
                points.append(Point(facts["input"].detach().cpu().clone(), sigma))
                if sees_both:
                    self._met.append((facts["cond_denoised"].float().cpu(), facts["uncond_denoised"].float().cpu()))
            return facts["denoised"]

        options = comfy.model_patcher.create_model_options_clone(guider.model_options)
        guider.model_options = comfy.model_patcher.set_model_options_post_cfg_function(options, as_function(see))
        noise = comfy.sample.prepare_noise(empty, seed)
        guider.sample(noise, empty, sampler, sigmas, callback=lambda *_: self._progress.advance(), disable_pbar=True, seed=seed)
        if len(points) < len(wanted):
            raise ValueError(
                f"The sampler {use['sampler_name']} does not ask the model at the levels of its schedule, so that there is nothing to "
                "compare. Use another one (euler, dpmpp_2m ...)."
            )
        self.evaluations += 2 * use["steps"]
        return RunCall(guider, noise, empty, sampler, sigmas, None, None, True, seed), points

    def predicted(self, model: Any, clip: Any) -> Changes:
        """(D_c, D_u) at every point of every run, on the CPU."""
        if self._met and (model, clip) == self._drawn_by:
            self._progress.advance(2 * len(self._met))
            return self._met
        found: Changes = []
        for (call, points), caption in zip(self._runs, self._captions, strict=True):
            positive, other = (comfy.sampler_helpers.convert_cond(c) for c in encoded(clip, [caption, self._reference]))

            def keep(_k: int, sides: list[Tensor]) -> None:
                found.append((sides[0].float().cpu(), sides[1].float().cpu()))
                self._progress.advance(2)

            predict_along(model, positive, other, call, points, keep)
            self.evaluations += 2 * len(points)
        return found

    def agreements(self, changes: Changes, before: Changes) -> list[float]:
        """How far each caption asks for the same under a LoRA: the mean over its early points; NaN where the LoRA changes nothing."""
        early = [self._is_early(call, point) for call, points in self._runs for point in points]
        values = [
            float(agreement(b + c, a + u, b, a)) if counts else math.nan
            for (c, u), (b, a), counts in zip(changes, before, early, strict=True)
        ]
        return self._by_caption(values)

    @staticmethod
    def _is_early(call: RunCall, point: Point) -> bool:
        level = noise_level(call.guider.model_patcher.get_model_object("model_sampling"), point.sigma)
        return math.atan2(level.b, level.a) >= EARLY

    def _by_caption(self, values: list[float]) -> list[float]:
        """Means of what was found at every point; NaN where nothing was."""
        return torch.tensor(values).view(len(self._runs), -1).nanmean(1).tolist() if self._runs else []


def _is_plain(options: dict[str, Any]) -> bool:
    """Does a run meet what its model predicts when it is asked alone? Not under what alters its predictions, or may draw random numbers:
    all models are asked with the same."""
    inside = options.get("transformer_options", {})
    return not any(options.get(name) for name in (*ALTERING, "model_function_wrapper")) and not any(
        inside.get(name) for name in ("patches", "patches_replace", "wrappers")
    )


def changes_of(after: Changes, before: Changes) -> Changes:
    """What a LoRA changes for the caption and for every prompt."""
    return [(c - b, u - a) for (c, u), (b, a) in zip(after, before, strict=True)]


def usual_limit(ordinary: list[float]) -> float:
    """Below it a caption asks for something else, given the agreement of ordinary prompts; the fixed limit where these are few, or hardly
    agree themselves (a model that does not know their words)."""
    known = torch.tensor([value for value in ordinary if not math.isnan(value)])
    region = region_of_runs(known[None]) if len(known) >= LEAST_PROMPTS else UNCALIBRATED
    return region.limit if region.tells else AGREES
