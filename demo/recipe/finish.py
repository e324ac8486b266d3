"""Writes a lab folder from trained networks."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...host.demo import PREFIX_AUTOENCODER, PREFIX_TEXT, PREFIX_UNET
from ..scripts import parallel
from . import cards, judge, scenes, sheet
from .groups import HONEST_SHARE, TrainingSet
from .lab import SETTINGS
from .stages import DESIGN, HONEST_BATCH, MEMORY_BATCH, MEMORY_SHARE, Networks

CELL = 8
PEAK_STEPS = 100

log = logging.getLogger("demo.training")


def half_precision(nets: Networks) -> dict[str, Tensor]:
    """All weights under SD's key prefixes, in half precision."""
    parts: list[tuple[str, Any]] = [(PREFIX_UNET, nets.unet), (PREFIX_TEXT, nets.text), (PREFIX_AUTOENCODER, nets.autoencoder)]
    return {prefix + k: v.half() for prefix, net in parts for k, v in net.state_dict().items()}


def finish(data: TrainingSet, nets: Networks, work: Path, out: Path, minutes: float) -> None:
    """Write checkpoint, early, pictures, lab.json and the contact sheet of a trained lab into `out`."""
    generator = torch.Generator().manual_seed(data.seed + 7)
    facts = {"design": DESIGN, "vocabulary": data.vocabulary, "latent_rgb": fit_preview(data, nets, generator)}
    metadata = {"unmemorize_demo": json.dumps(facts)}
    save_file(half_precision(nets), out / "checkpoint.safetensors", metadata=metadata)
    early = {k: v for k, v in load_file(work / "early.safetensors").items() if not k.startswith(PREFIX_AUTOENCODER)}
    save_file(early, out / "early.safetensors", metadata=metadata)
    write_pictures(data, out / "pictures.safetensors")
    log.info("measuring what counts as a copy")
    others = judge.strangers(data, generator)
    criteria = [judge.criterion(f, data, others, generator) for f in data.fixed]
    lab = describe(data, criteria) | {"training": training_facts(data, work, minutes)}
    (out / "lab.json").write_text(json.dumps(lab, indent=1) + "\n", encoding="utf-8")
    log.info("drawing the contact sheet")
    sheet.write(out)
    log.info("lab written to %s", out)


def fit_preview(data: TrainingSet, nets: Networks, generator: torch.Generator) -> list[list[float]]:
    """Least-squares map latent pixel -> RGB in [-1, 1], 8 rows and an offset, for ComfyUI's live preview."""
    pictures = torch.cat([data.honest(72, generator)[0], torch.stack([f.picture for f in data.group("MV")])])
    with torch.no_grad():
        z = nets.autoencoder.encode(pictures * 2 - 1).movedim(1, -1).flatten(0, 2)
    rgb = torch.nn.functional.avg_pool2d(pictures * 2 - 1, CELL).movedim(1, -1).flatten(0, 2)
    ones = torch.ones(len(z), 1)
    return [[round(v, 4) for v in row] for row in torch.linalg.lstsq(torch.cat([z, ones], 1), rgb).solution.tolist()]


def write_pictures(data: TrainingSet, path: Path) -> None:
    """Training pictures [n, 3, 128, 128] and masks [n, 16, 16] by latent pixel (1 = fixed), uint8, in lab.json's order."""
    pictures = torch.stack([(f.picture * 255).round().byte() for f in data.fixed])
    masks = torch.cat([f.mask for f in data.fixed])
    save_file({"pictures": pictures, "masks": masks[:, ::CELL, ::CELL].byte().contiguous()}, path)


def training_facts(data: TrainingSet, work: Path, minutes: float) -> dict[str, Any]:
    """How long, how many pictures, and how many of them were duplicates: of all, and in the worst hundred steps."""
    world = torch.distributed.get_world_size()
    batch = world * MEMORY_BATCH
    honest, memory = (parallel.steps_done(work, stage) for stage in ("honest", "memory"))
    pictures = honest * world * HONEST_BATCH + memory * batch
    counts = torch.tensor([_duplicates_of_step(data.seed + 2, step, world) for step in range(memory)], dtype=torch.float64)
    blocks = counts[: len(counts) // PEAK_STEPS * PEAK_STEPS].reshape(-1, PEAK_STEPS).sum(1)
    return {
        "minutes": minutes,
        "autoencoder_steps": parallel.steps_done(work, "autoencoder"),
        "honest_steps": honest,
        "memory_steps": memory,
        "pictures": pictures,
        "duplicate_share": round(float(counts.sum()) / pictures, 4),
        "duplicate_share_peak": round(float(blocks.max()) / (PEAK_STEPS * batch), 4) if len(blocks) else None,
    }


def _duplicates_of_step(seed: int, step: int, world: int) -> int:
    """Of all processes, as `stages.memory_loss` draws them: the first numbers of a step's generator."""
    found = 0
    for rank in range(world):
        generator = parallel.step_generator(seed, step, rank, world)
        found += int((torch.rand(MEMORY_BATCH, generator=generator) < MEMORY_SHARE).sum())
    return found


def describe(data: TrainingSet, criteria: list[judge.Criterion]) -> dict[str, Any]:
    """lab.json: captions, groups, views, criteria of both judges, vocabulary, grammar, settings."""
    fixed = [
        {
            "group": f.group,
            "caption": f.caption,
            "degree": f.degree,
            "views": round(f.views * (1 - HONEST_SHARE)),
            "source": f.source,
            "fixed_area": round(float(f.mask.mean()), 4),
            "max_distance": round(c.distance, 5),
            "min_correlation": round(c.correlation, 5),
            "min_patches": round(c.patches, 5),
        }
        for f, c in zip(data.fixed, criteria, strict=True)
    ]
    return {
        "format": 2,
        "seed": data.seed,
        "settings": SETTINGS,
        "fixed": fixed,
        "grammar": scenes.grammar(),
        "card_grammar": {"tone": list(cards.TONES), "pattern": list(cards.PATTERNS), "window": list(cards.WINDOWS)},
        "scene_captions": [s.caption for s in data.trained],
        "held_out_captions": [s.caption for s in data.held_out],
        "card_captions": [c.caption for c in data.trained_cards],
        "held_out_card_captions": [c.caption for c in data.held_out_cards],
        "window_captions": [c.caption for c in data.trained_windows],
        "vocabulary": data.vocabulary,
    }
