"""Learn a LoRA anew from what it does to prompts in use (our own, no paper's).

With B the model without the LoRA, L with it and N with the new one, N is taught at latents x of their runs:

    N(x, prompt)  = L(x, prompt)                              where the prompt asks for the same under L as under B
    N(x, caption) = B(x, caption) + L(x, empty) - B(x, empty) where it does not: the base's content in the LoRA's common change
    N(x, empty)   = L(x, empty)

The second line is what the stability guard draws in the place of a LoRA's copy, and the way of concept ablation (arXiv 2303.13516, whose
target is the prediction under another prompt). N begins as L at a third of its strength, where no picture is recalled any more: what none
of the prompts needs is not learnt again, whoever knows its caption.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

START = 1 / 3
"""Strength of the LoRA that learning begins with: at half of it some pictures still come (`benchmark -- lora-guard`)."""
STEPS = 400
RATE = 0.07
"""Of Adam, of the size that a layer's factors have (root mean square), falling to nothing along a cosine (selection set of LoRAs)."""


def wanted(cond: Tensor, uncond: Tensor, cond_before: Tensor, uncond_before: Tensor, same: Tensor) -> Tensor:
    """What N is taught to predict for prompts [n, c, ...]; `same` [n], boolean: does the prompt ask for the same under L?"""
    common = cond_before + uncond - uncond_before
    return torch.where(same.view(-1, *[1] * (cond.ndim - 1)), cond, common)


def error(predicted: Tensor, target: Tensor, b: Tensor) -> Tensor:
    """Sum of squares of [n, c, ...] in units of the noise's share b [n], x = a x0 + b eps: every noise level counts as it does in training
    on v or on velocities."""
    return ((predicted.float() - target).flatten(1) / b.view(-1, 1)).square().sum()


def rate_of(factors: tuple[Tensor, Tensor]) -> float:
    """Rate at the first step of a layer with factors B and A: that of all layers, times the geometric mean of their sizes."""
    b, a = (float(f.square().mean().sqrt()) for f in factors)
    return RATE * math.sqrt(b * a)


def falling(step: int, steps: int) -> float:
    """What is left of the rate at step 0 to steps - 1."""
    return (1 + math.cos(math.pi * step / steps)) / 2
