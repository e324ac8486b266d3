"""The demo model's own stability profile, `profiles/demo.safetensors` in the lab's folder: what its clean runs look like.

`python demo/run.py demo.scripts.demo_profile --lab DIR` calibrates on ordinary captions of the lab;
run it anew when a lab was trained anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...host.stability.profiles import PROFILES, StoredProfile, as_file, calibrate
from ..networks import LATENT_CHANNELS
from ..pictures import read_facts
from ..recipe.lab import far_from_memories
from . import bundled
from .generate import SETTINGS, Generator

CLEAN = {"scene_captions": 50}
"""Captions of each kind."""
CHOICE, SEED = 71, 7100
"""Seeds: of the choice of captions, and of the first run's noise."""


def chosen_captions(facts: dict[str, Any], counts: dict[str, int]) -> list[str]:
    """So many captions of each kind that are near to no memory."""
    generator = torch.Generator().manual_seed(CHOICE)
    chosen: list[str] = []
    for group, count in counts.items():
        clean = far_from_memories(facts, facts[group])
        chosen += [clean[int(i)] for i in torch.randperm(len(clean), generator=generator)[:count]]
    return chosen


@torch.inference_mode()
def measure(folder: Path) -> StoredProfile:
    """Sample the captions as every template samples, and note the steps."""
    model = Generator(folder / "checkpoint.safetensors")
    positives = [model.condition(c) for c in chosen_captions(read_facts(folder / "lab.json"), CLEAN)]
    use = {"seed": SEED, "sampler_name": SETTINGS["sampler"], **{k: SETTINGS[k] for k in ("steps", "cfg", "scheduler")}}
    latent = {"samples": torch.zeros(1, LATENT_CHANNELS, 16, 16)}
    return calibrate(model.model, positives, model.condition(""), latent, 1, use)


def main() -> None:
    """Command line."""
    bundled.write(PROFILES, measure, as_file, lambda stored: f"{stored.profile.runs} clean runs", __doc__)
