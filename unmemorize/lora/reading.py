"""Channels by the layer they are in: does it decide how the picture reads the prompt? Ours, no paper's; measured in benchmarks/lora.py.

A memory is called up by its caption. Without the LoRA's changes of cross-attention's queries, keys and values the picture attends to the
words as the base does, and the caption finds the memory no more; what the LoRA does whatever the words, a style, stays in the other layers.
A word that the LoRA taught goes with it.
"""

from __future__ import annotations

import torch

from .channels import Channels
from .filtering import Verdict
from .gates import READING, Settings, gate, new_sigma


def judge_by_layer(channels: Channels, reads_the_prompt: bool, settings: Settings, of_the_file: float | None = None) -> Verdict:
    """Scores -1 for every channel of a layer by which the prompt is read, 1 elsewhere, and new singular values; no base is needed.

    `settings.score` must be READING.
    """
    if settings.score != READING:
        raise ValueError(f"the score {settings.score!r} needs the base's subspace")
    scores = torch.full_like(channels.sigma, -1.0 if reads_the_prompt else 1.0)
    g = gate(scores, channels.sigma, settings, 0.0, of_the_file)
    return Verdict(scores, channels.sigma, new_sigma(channels.sigma, g, settings), 0, 0.0, False)
