"""Starting noises moved away from a memory, as published (arXiv 2510.08625; METHODS.md, 6b.7), at the lab's sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...demo.scripts.generate import Generator
from ...host.core.denoiser import differentiable
from .published import CHANNELS, difference, guided, schedule

BATCH_STEPS, BATCH_RATE, BATCH_REACH, SD_VALUES = 2, 0.7, 50.0, 4 * 64 * 64
"""Of a batch's noises, moved without gradients; the reach is SD's, of a noise of so many values."""
UNGUIDED = 0.1
"""Share of the steps without guidance then: 0 to 4 of 50."""
SAMPLE_STEPS, SAMPLE_RATE = 10, 0.01
"""Of each noise by gradients."""


def _given(generator: Generator, caption: str, settings: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """The first noise level [1], and the contexts of the caption and of the empty prompt."""
    cond, uncond = (generator.condition(text)[0][0] for text in (caption, ""))
    return schedule(generator, settings)[:1], cond, uncond


def _noises(seeds: list[int]) -> Tensor:
    return torch.cat([torch.randn(1, CHANNELS, 16, 16, generator=torch.manual_seed(s)) for s in seeds])


def moved_as_a_batch(generator: Generator, caption: str, seeds: list[int], settings: dict[str, Any]) -> Tensor:
    """Twice x <- x - .7 (e(x + r e / |e|) - e(x)) with e = eps_c - eps_u at the first step; unit noises [n, c, h, w]."""
    sigma, cond, uncond = _given(generator, caption, settings)
    net, noise = generator.model.model, _noises(seeds)
    reach = BATCH_REACH * (noise[0].numel() / SD_VALUES) ** 0.5
    with torch.inference_mode():
        for _ in range(BATCH_STEPS):
            e = difference(net, noise * torch.sqrt(1 + sigma**2), sigma, cond, uncond)
            unit = e / e.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1).clamp_min(1e-8)
            there = difference(net, (noise + reach * unit) * torch.sqrt(1 + sigma**2), sigma, cond, uncond)
            noise = noise - BATCH_RATE * (there - e)
    return noise


def moved_alone(generator: Generator, caption: str, seeds: list[int], target: float, settings: dict[str, Any]) -> Tensor:
    """AdamW on each noise until |e| <= target, at most ten steps; unit noises [n, c, h, w]. SD's target is .9, its clean level."""
    net, made = generator.model.model, []
    given = _given(generator, caption, settings)
    with torch.inference_mode(False), differentiable(net.diffusion_model):
        sigma, cond, uncond = (x.detach().clone() for x in given)
        for noise in _noises(seeds).split(1):
            z = torch.nn.Parameter(noise.clone())
            optimizer = torch.optim.AdamW([z], lr=SAMPLE_RATE)
            for _ in range(SAMPLE_STEPS):
                norm = difference(net, z * torch.sqrt(1 + sigma**2), sigma, cond, uncond).norm()
                if float(norm.detach()) <= target:
                    break
                optimizer.zero_grad()
                norm.backward()
                optimizer.step()
            made.append(z.detach().clone())
    return torch.cat(made)


def guided_late(generator: Generator, settings: dict[str, Any]) -> Any:
    """MODEL without guidance in the first steps."""
    last = float(schedule(generator, settings)[round(UNGUIDED * settings["steps"])])
    return guided(generator.model, lambda sigma, cfg: 0.0 if sigma > last * (1 + 1e-4) else cfg)
