"""The demo model's own neuron mask, `masks/demo.safetensors` in the lab's folder: what its strong memories use, the empty prompt not.

`python demo/run.py demo.scripts.demo_mask --lab DIR` records and finds; run it anew when a lab was trained anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...host.neurons.finding import find
from ...host.neurons.masks import MASKS, StoredMask, as_file
from ...host.neurons.recording import record
from ..networks import LATENT_CHANNELS
from ..pictures import read_facts
from . import bundled
from .generate import SETTINGS, Generator

SEED = 0
GROUPS = ("MV",)
"""Whose strong captions: the photographs."""
SETTING: dict[str, Any] = {"place": "feed-forward", "low": 5.6, "share": 0.1, "select_ratio": 0.0, "rows": "cond only", "score": "wanda"}
"""The paper's window; denser than its 1 % for SD1.5, since there are far fewer neurons here, and from the prompt's rows alone: of all that
`nox -s sweep -- neurons` tried, the mask that silences most without harming scenes."""


def captions(facts: dict[str, Any]) -> list[str]:
    """Captions of the lab whose fixed pictures were repeated most."""
    return [f["caption"] for f in facts["fixed"] if f["group"] in GROUPS and f["degree"] == "strong"]


@torch.inference_mode()
def measure(folder: Path, **changes: Any) -> StoredMask:
    """Record the captions and the empty prompt as every template samples, and find what they do not share."""
    model = Generator(folder / "checkpoint.safetensors")
    use = {"seed": SEED, "sampler_name": SETTINGS["sampler"], **{k: SETTINGS[k] for k in ("steps", "cfg", "scheduler")}}
    how = SETTING | changes
    empty, latent = model.condition(""), {"samples": torch.zeros(1, LATENT_CHANNELS, 16, 16)}
    memorized, reference = (
        record(model.model, [model.condition(c) for c in several], empty, latent, 1, use, how["place"], how["low"])
        for several in (captions(read_facts(folder / "lab.json")), [""])
    )
    return find(model.model, memorized, reference, how["share"], how["select_ratio"], how["rows"], how["score"])


def main() -> None:
    """Command line."""
    bundled.write(MASKS, measure, as_file, lambda stored: f"density {stored.mask.density():.4f}", __doc__)
