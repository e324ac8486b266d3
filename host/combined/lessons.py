"""Teach new factors of a LoRA what the model shall predict: what is asked and answered, and the run in which it is learnt."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch
from comfy.ldm.modules.attention import attention_pytorch
from torch import Tensor
from torch.autograd.graph import allow_mutation_on_saved_tensors

from ...unmemorize.lora.relearning import error, falling, rate_of
from ..core.denoiser import differentiable, without_caches
from ..core.noise import noise_levels
from ..core.predictions import Point
from ..core.progress import Progress
from ..core.sampler_call import DRAWN_AGAIN
from ..core.seeds import kept_generators
from .new_factors import Factors, learning

PROMPT, CAPTION, EMPTY = "prompt", "caption", "empty"
"""Kinds of lessons; the last is of the prompt that stands for every prompt."""
ROWS = {PROMPT: (2, 3, 1.0), CAPTION: (1, 2, 1.0), EMPTY: (1, 1, 2.0)}
"""Kind of lesson -> of a step: how many lessons, points of each, and how much one counts."""
TOGETHER = 64 * 64
"""Places of latents in one call, for autograd keeps what happens in it; a single picture may have more."""
SMALLER, TRIES = 1 / 8, 12
"""Gradients that overflow in half precision are taken again at so much of the scale, at most so often in a run."""


@dataclass(frozen=True)
class Lesson:
    """A prompt by its name among the guider's, latents of a run, and what is to be predicted there."""

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
    """`steps` steps of learning with MODEL, which has the old factors applied; `prompts`: CONDITIONING by the lessons' names. Returns the
    evaluations, a backward pass as two. ValueError if the model has no gradients, or what was learnt is no number."""
    guider = comfy.samplers.CFGGuider(without_caches(model))
    guider.model_options = {**guider.model_options, DRAWN_AGAIN: True}
    guider.inner_set_conds(prompts)
    run = _Learning(several, lessons, steps, seed, progress)
    sigmas = torch.tensor([p.sigma for p in lessons[0].points] + [0.0])
    with torch.no_grad():
        guider.sample(torch.zeros_like(latent), latent, run, sigmas, disable_pbar=True, seed=seed)
    if not all(bool(p.isfinite().all()) for factors in several for p in factors.new):
        raise ValueError("Learning ended in values that are no numbers: the model's precision is too low. Load it in bf16 or fp32.")
    return run.evaluations


def with_gradients(options: dict[str, Any]) -> dict[str, Any]:
    """Model options under which attention has a backward pass, whatever kernel ComfyUI was started with."""
    inside = {**options.get("transformer_options", {}), "optimized_attention_override": _plain_attention}
    return {**options, "transformer_options": inside}


def _plain_attention(_function: Any, *arguments: Any, **more: Any) -> Tensor:
    found: Tensor = attention_pytorch(*arguments, **more)
    return found


class _Learning(comfy.samplers.Sampler):
    """A sampler that learns, instead of sampling."""

    def __init__(self, several: list[Factors], lessons: list[Lesson], steps: int, seed: int, progress: Progress) -> None:
        self._several, self._steps, self._progress = several, steps, progress
        self._by_kind = {kind: found for kind in ROWS if (found := [les for les in lessons if les.kind == kind])}
        self._random = torch.Generator().manual_seed(seed % 2**63)
        self.evaluations, self._scale, self._tries = 0, 1.0, 0
        self._mutates = False
        """Does the model add to what autograd keeps (Flux)? Allowing it costs time at every operation."""

    def sample(
        self, model_wrap: Any, sigmas: Tensor, extra_args: dict, callback: Any, noise: Tensor, latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None, disable_pbar: bool = False, **_: Any,
    ) -> Tensor:  # fmt: skip
        model, options = model_wrap.inner_model, with_gradients(extra_args["model_options"])
        groups: list[dict[str, Any]] = [{"params": f.new, "rate": rate_of(f.old)} for f in self._several]
        optimizer = torch.optim.Adam(groups)
        with differentiable(model.diffusion_model), learning(self._several):
            for step in range(self._steps):
                asked = list(self._of_step())
                while not self._gradients(model, model_wrap.conds, asked, options, noise):
                    optimizer.zero_grad()
                for group in optimizer.param_groups:
                    group["lr"] = group["rate"] * falling(step, self._steps)
                self._advance(optimizer)
        return noise

    def _gradients(self, model: Any, conds: dict[str, Any], asked: list[tuple[Lesson, list[int]]], options: Any, like: Tensor) -> bool:
        """Those of a step's lessons; False if they overflowed, for another try at a smaller scale. ValueError if there are none."""
        try:
            with allow_mutation_on_saved_tensors() if self._mutates else contextlib.nullcontext():
                for lesson, rows in asked:
                    self._learn(model, conds[lesson.name], lesson, rows, options, like)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, NotImplementedError) as error:
            if "inplace operation" in str(error) and not self._mutates:
                self._mutates = True
                return False
            raise ValueError(f"This model cannot be learnt through: {error}. Load it in bf16, fp16 or fp32, not quantised.") from error
        found = [p.grad for factors in self._several for p in factors.new if p.grad is not None]
        if not found:
            raise ValueError(
                "No gradient reaches the LoRA's layers in this model, so that it cannot be learnt anew. Filter it by its weights."
            )
        if all(bool(g.isfinite().all()) for g in found):
            for g in found:
                g.div_(self._scale)
            return True
        self._tries += 1
        self._scale *= SMALLER
        if self._tries > TRIES:
            raise ValueError("Gradients overflow at every scale: the model's precision is too low. Load it in bf16 or fp32.")
        return False

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
            (loss * self._scale * ROWS[lesson.kind][2]).backward()
            self.evaluations += 3 * len(part)

    def _advance(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.step()
        optimizer.zero_grad()
        self._progress.advance(rows_of(self._by_kind))


def rows_of(kinds: Iterable[str]) -> int:
    """Rows of a step with lessons of these kinds."""
    return sum(ROWS[kind][0] * ROWS[kind][1] for kind in kinds)
