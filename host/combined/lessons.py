"""Teach new factors of a LoRA what the model shall predict: what is asked and answered, and the run in which it is learnt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...unmemorize.lora.relearning import error, rate_at
from ..core.denoiser import differentiable
from ..core.noise import noise_levels
from ..core.predictions import Point
from ..core.progress import Progress
from ..core.sampler_call import DRAWN_AGAIN
from ..core.seeds import kept_generators
from .new_factors import Factors, learning

EMPTY = "empty"
"""Of the guider's prompts: the one that stands for every prompt."""
ROWS = {"prompt": (2, 3, 1.0), "caption": (1, 2, 1.0), EMPTY: (1, 1, 2.0)}
"""Kind of lesson -> of a step: how many lessons, points of each, and how much one counts."""
TOGETHER = 64 * 64
"""Places of latents in one call, for autograd keeps what happens in it; a single picture may have more."""
PRECISE = 1e3
"""The error is scaled so much while gradients are taken: in half precision small ones would be nothing."""


@dataclass(frozen=True)
class Lesson:
    """A prompt (or EMPTY) by name, latents of a run, and what is to be predicted there."""

    kind: str
    """A key of ROWS."""
    name: str
    points: list[Point]
    targets: Tensor
    """[points, c, ...] float32, on the CPU."""


def teach(
    model: Any, several: list[Factors], prompts: dict[str, Any], lessons: list[Lesson], latent: Tensor, steps: int, seed: int,
    progress: Progress,
) -> int:  # fmt: skip
    """`steps` steps of learning with MODEL, which has the old factors applied; `prompts`: CONDITIONING by the lessons' names, EMPTY among
    them. Returns the evaluations, a backward pass as two. ValueError if what was learnt is no number."""
    guider = comfy.samplers.CFGGuider(model)
    guider.model_options = {**model.model_options, DRAWN_AGAIN: True}
    guider.inner_set_conds(prompts)
    run = _Learning(several, lessons, steps, seed, progress)
    sigmas = torch.tensor([p.sigma for p in lessons[0].points] + [0.0])
    with torch.no_grad():
        guider.sample(torch.zeros_like(latent), latent, run, sigmas, disable_pbar=True, seed=seed)
    if not all(bool(p.isfinite().all()) for factors in several for p in factors.new):
        raise ValueError("Learning ended in values that are no numbers: the model's precision is too low. Load it in bf16 or fp32.")
    return run.evaluations


class _Learning(comfy.samplers.Sampler):
    """A sampler that learns, instead of sampling."""

    def __init__(self, several: list[Factors], lessons: list[Lesson], steps: int, seed: int, progress: Progress) -> None:
        self._several, self._steps, self._progress = several, steps, progress
        self._by_kind = {kind: found for kind in ROWS if (found := [les for les in lessons if les.kind == kind])}
        self._random = torch.Generator().manual_seed(seed % 2**63)
        self.evaluations = 0

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict, callback: Any, noise: Tensor, latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None, disable_pbar: bool = False, **_: Any,
    ) -> Tensor:  # fmt: skip
        model, options = model_wrap.inner_model, extra_args["model_options"]
        parameters = [p for factors in self._several for p in factors.new]
        optimizer = torch.optim.Adam(parameters)
        with differentiable(model.diffusion_model), learning(self._several):
            for step in range(self._steps):
                for lesson, rows in self._of_step():
                    self._learn(model, model_wrap.conds[lesson.name], lesson, rows, options, noise)
                self._advance(optimizer, parameters, rate_at(step, self._steps))
        return noise

    def _of_step(self) -> Iterator[tuple[Lesson, list[int]]]:
        """Lessons of one step, and which of their points."""
        for kind, several in self._by_kind.items():
            count, points, _ = ROWS[kind]
            for _ in range(count):
                lesson = several[int(torch.randint(len(several), (), generator=self._random))]
                yield lesson, torch.randperm(len(lesson.points), generator=self._random)[:points].tolist()

    def _learn(self, model: Any, cond: Any, lesson: Lesson, rows: list[int], options: dict[str, Any], like: Tensor) -> None:
        """Add the gradient of some points of a lesson."""
        at_once = max(1, TOGETHER // like[0, 0].numel())
        for start in range(0, len(rows), at_once):
            part = rows[start : start + at_once]
            points = [lesson.points[i] for i in part]
            x = torch.cat([p.x.to(like) for p in points]).clone()
            sigma = torch.tensor([p.sigma for p in points])
            b = torch.tensor([level.b for level in noise_levels(model.model_sampling, sigma)])
            # a row's place is its meaning: 0 = positive, 1 = negative
            sides = [None, cond] if lesson.kind == EMPTY else [cond]
            with kept_generators(x.device, seed=0):
                found = comfy.samplers.calc_cond_batch(model, sides, x, sigma.to(x), options)[-1]
            loss = error(found, lesson.targets[part].to(found.device, torch.float32), b.to(found.device))
            (loss * PRECISE * ROWS[lesson.kind][2]).backward()
            self.evaluations += 3 * len(part)

    def _advance(self, optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], rate: float) -> None:
        """A step, unless its gradient overflowed."""
        if all(p.grad is None or bool(p.grad.isfinite().all()) for p in parameters):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
        optimizer.zero_grad()
        self._progress.advance(sum(count * rows for count, rows, _ in ROWS.values()))
