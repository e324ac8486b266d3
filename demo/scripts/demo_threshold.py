"""The demo model's own map threshold, `thresholds/demo.safetensors` in the lab's folder: how hot its clean pictures get.

`python demo/run.py demo.scripts.demo_threshold --lab DIR` measures it on ordinary captions of the lab, as *Curvature Difference Map*
does by default; run it anew when a lab was trained anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...host.curvature.measuring import RECOMMENDED
from ...host.curvature.thresholds import THRESHOLDS, as_file, calibrate
from ...host.demo import load_demo
from ..networks import LATENT_CHANNELS
from ..pictures import read_facts
from . import bundled
from .demo_profile import chosen_captions
from .generate import SETTINGS

CLEAN = {"scene_captions": 32, "card_captions": 8, "window_captions": 16}
"""Captions of each kind: maps of templates are judged by it too."""
SEED = 7300


@torch.inference_mode()
def measure(folder: Path) -> dict[str, Any]:
    """Draw the captions as every template does, and map them."""
    model, clip, _ = load_demo(folder / "checkpoint.safetensors")
    use = {"seed": SEED, "sampler_name": SETTINGS["sampler"], **{k: SETTINGS[k] for k in ("steps", "cfg", "scheduler")}}
    latent = {"samples": torch.zeros(1, LATENT_CHANNELS, 16, 16)}
    return calibrate(model, clip, latent, chosen_captions(read_facts(folder / "lab.json"), CLEAN), RECOMMENDED, use)


def main() -> None:
    """Command line."""
    bundled.write(THRESHOLDS, measure, as_file, lambda found: f"{found['threshold']:.4f} from {found['prompts']} prompts", __doc__)
