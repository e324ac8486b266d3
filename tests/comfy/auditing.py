"""What tests of audits share: settings, an empty latent, prompts."""

from __future__ import annotations

import torch

USE = {"seed": 1, "steps": 3, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
EMPTY = {"samples": torch.zeros(1, 8, 8, 8)}
PROMPTS = ["a large red circle", "a small blue star", "a green cross"]
