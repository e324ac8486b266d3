"""A lab's generations under changes of prompt, guidance or model, and what both judges and the readers of scenes and cards find in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...demo.recipe import scene_judge, scenes
from ...demo.recipe.lab import Lab, far_from_memories, is_card
from ...demo.scripts.generate import Generator
from .common import log, rate, shared_out

HELD_OUT_STRIDE, WINDOW_STRIDE = 3, 15
BROKEN = 0.01
"""Of a model's own clean scenes are called broken. Of fresh drawings three in 300 are misread, and the quantile beside them was .49 in one
lab and .88 in another."""

Rates = dict[str, dict[str, list[float]]]
"""Quantity -> caption -> a value for each run."""


@dataclasses.dataclass
class Bench:
    """What every part of the benchmark needs."""

    lab: Lab
    final: Generator
    settings: dict[str, Any]
    seeds: list[int]
    broken_below: float = 0.0

    @property
    def random(self) -> torch.Generator:
        """The same numbers at each use."""
        return torch.Generator().manual_seed(17)


def judged(bench: Bench, caption: str, pictures: Tensor) -> dict[str, list[float]]:
    """Of pictures [n, 3, 128, 128] made for a memorized caption: copied, second, adherence, artefacts."""
    index = bench.lab.index(caption)
    assert index is not None
    first, second = bench.lab.copies(pictures, index)
    found = {"copies": first.float().tolist(), "copies_second": second.float().tolist()}
    if not is_card(caption):
        readings = [scene_judge.read(p) for p in pictures]
        wanted = scenes.scene_of(caption)
        found["adherence"] = [float(r.scene == wanted) for r in readings]
        found["artefacts"] = [float(r.overlap < bench.broken_below) for r, c in zip(readings, first | second, strict=True) if not c]
    return found


def measured(bench: Bench, captions: list[str], draw: Callable[[str], Tensor], what: str) -> Rates:
    """What `judged` finds in `draw(caption)` for each caption, shared between two processes."""

    def work(part: list[str]) -> dict[str, dict[str, list[float]]]:
        log.info("%s", what)
        return {c: judged(bench, c, draw(c)) for c in part}

    by_caption = shared_out(work, captions)
    names = ("copies", "copies_second", "adherence", "artefacts")
    return {n: {c: found[n] for c, found in by_caption.items() if found.get(n)} for n in names}


def rows(name: str, rates: Rates, suffix: str = "") -> dict[str, Any]:
    """Metrics of what `measured` found, `NAME_copies` and so on."""
    return {f"{name}_{quantity}{suffix}": rate(list(found.values())) for quantity, found in rates.items() if found}


def pictures_with(bench: Bench, model: Any, caption: str, seeds: list[int], **changes: Any) -> Tensor:
    """Generations of a caption by another MODEL."""
    plain, bench.final.model = bench.final.model, model
    try:
        return bench.final.pictures(caption, seeds, **{**bench.settings, **changes})
    finally:
        bench.final.model = plain


def clean_captions(bench: Bench) -> list[str]:
    """Prompts that no memory hangs on, two words away from all of them: held-out scenes and cards, windows that are nobody's."""
    facts = bench.lab.facts
    kinds = ("held_out_captions", "held_out_card_captions", "window_captions")
    scene, card, window = (far_from_memories(facts, facts[kind]) for kind in kinds)
    return scene[::HELD_OUT_STRIDE] + card + window[::WINDOW_STRIDE]


def near_captions(bench: Bench) -> list[str]:
    """Held-out scenes one word away from a memory."""
    facts = bench.lab.facts
    clean = set(far_from_memories(facts, facts["held_out_captions"]))
    return [c for c in facts["held_out_captions"] if c not in clean][::HELD_OUT_STRIDE]


def through_autoencoder(generator: Generator, pictures: Tensor) -> Tensor:
    """Encode and decode [n, 3, 128, 128] in [0, 1]."""
    with torch.inference_mode():
        return generator.vae.decode(generator.vae.encode(pictures.movedim(1, -1))).movedim(-1, 1)


def edges(pictures: Tensor) -> float:
    """Mean of the hundredth largest steps between neighbouring pixels, of pictures [n, 3, h, w]."""
    steps = torch.cat([torch.diff(pictures, dim=d).abs().amax(1).flatten(1) for d in (2, 3)], 1)
    return float(steps.quantile(0.98, dim=1).mean())


def feed_forward_share(generator: Generator) -> float:
    """Share of the U-Net's parameters in feed-forward layers."""
    sizes = {k: p.numel() for k, p in generator.model.model.diffusion_model.named_parameters()}
    return sum(n for k, n in sizes.items() if ".ff." in k) / sum(sizes.values())
