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
from ..scripts.generate import SETTINGS
from . import cards, judge, parallel, scenes, sheet
from .groups import HONEST_SHARE, TrainingSet
from .stages import BATCHES, Networks, duplicates_of

CELL = 8
PEAK_STEPS = 100

log = logging.getLogger("demo.training")


def half_precision(nets: Networks) -> dict[str, Tensor]:
    """All weights under SD's key prefixes, in half precision."""
    parts: list[tuple[str, Any]] = [(PREFIX_UNET, nets.unet), (PREFIX_TEXT, nets.text), (PREFIX_AUTOENCODER, nets.autoencoder)]
    return {prefix + k: v.half().cpu() for prefix, net in parts for k, v in net.state_dict().items()}


def finish(data: TrainingSet, nets: Networks, work: Path, out: Path) -> None:
    """Write checkpoint, early, pictures, lab.json and the contact sheet of a trained lab into `out`: rank 0 does, all measure criteria."""
    criteria = measured_criteria(data)
    if torch.distributed.get_rank():
        return
    generator = torch.Generator().manual_seed(data.seed + 7)
    facts = {"vocabulary": data.vocabulary, "latent_rgb": fit_preview(data, nets, generator)}
    metadata = {"unmemorize_demo": json.dumps(facts)}
    save_file(half_precision(nets), out / "checkpoint.safetensors", metadata=metadata)
    early = {k: v for k, v in load_file(work / "early.safetensors").items() if not k.startswith(PREFIX_AUTOENCODER)}
    save_file(early, out / "early.safetensors", metadata=metadata)
    write_pictures(data, out / "pictures.safetensors")
    lab = describe(data, criteria) | {"training": training_facts(data, work)}
    (out / "lab.json").write_text(json.dumps(lab, indent=1) + "\n", encoding="utf-8")
    log.info("drawing the contact sheet")
    sheet.write(out)
    log.info("lab written to %s", out)


def measured_criteria(data: TrainingSet) -> list[judge.Criterion]:
    """What counts as a copy of each fixed picture, measured by all processes; the same however many they are."""
    others = judge.strangers(data, torch.Generator().manual_seed(data.seed + 7))

    def measure(i: int) -> judge.Criterion:
        return judge.criterion(data.fixed[i], data, others, torch.Generator().manual_seed(1_000 * (data.seed + 7) + i))

    return judge.shared(len(data.fixed), measure)


def fit_preview(data: TrainingSet, nets: Networks, generator: torch.Generator) -> list[list[float]]:
    """Least-squares map latent pixel -> RGB in [-1, 1], 8 rows and an offset, for ComfyUI's live preview."""
    pictures = torch.cat([data.honest(72, generator)[0], torch.stack([f.picture for f in data.group("MV")])])
    with torch.no_grad():
        z = nets.autoencoder.encode(pictures * 2 - 1).movedim(1, -1).flatten(0, 2)
    rgb = torch.nn.functional.avg_pool2d(pictures * 2 - 1, CELL).movedim(1, -1).flatten(0, 2)
    ones = torch.ones(len(z), 1, device=z.device)
    return [[round(v, 4) for v in row] for row in torch.linalg.lstsq(torch.cat([z, ones], 1), rgb).solution.tolist()]


def write_pictures(data: TrainingSet, path: Path) -> None:
    """Training pictures [n, 3, 128, 128] and masks [n, 16, 16] by latent pixel (1 = fixed), uint8, in lab.json's order."""
    pictures = torch.stack([(f.picture * 255).round().byte() for f in data.fixed])
    masks = torch.cat([f.mask for f in data.fixed]).cpu()
    save_file({"pictures": pictures.cpu(), "masks": masks[:, ::CELL, ::CELL].byte().contiguous()}, path)


def training_facts(data: TrainingSet, work: Path) -> dict[str, Any]:
    """How long, how many pictures, and how many of them were duplicates: of all, and in the worst hundred steps."""
    world = torch.distributed.get_world_size()
    batches = BATCHES[data.device.type]
    batch = world * batches.memory
    honest, memory = (parallel.steps_done(work, stage) for stage in ("honest", "memory"))
    pictures = honest * world * batches.honest + memory * batch
    counts = torch.tensor([_duplicates_of_step(data.seed + 2, step, world, batches.memory) for step in range(memory)], dtype=torch.float64)
    blocks = counts[: len(counts) // PEAK_STEPS * PEAK_STEPS].reshape(-1, PEAK_STEPS).sum(1)
    return {
        "minutes": round(sum(parallel.seconds_spent(work, stage) for stage in ("autoencoder", "honest", "memory")) / 60, 1),
        "autoencoder_steps": parallel.steps_done(work, "autoencoder"),
        "honest_steps": honest,
        "memory_steps": memory,
        "pictures": pictures,
        "duplicate_share": round((1 - HONEST_SHARE) * float(counts.sum()) / pictures, 4),
        "duplicate_share_peak": round((1 - HONEST_SHARE) * float(blocks.max()) / (PEAK_STEPS * batch), 4) if len(blocks) else None,
    }


def _duplicates_of_step(seed: int, step: int, world: int, batch: int) -> int:
    """Of all processes, as `stages.memory_loss` draws them: the first numbers of a step's generator."""
    return sum(duplicates_of(batch, parallel.step_generator(seed, step, rank, world)) for rank in range(world))


def describe(data: TrainingSet, criteria: list[judge.Criterion]) -> dict[str, Any]:
    """lab.json: captions, groups, views, criteria of both judges, vocabulary, grammar, settings. No memory hangs on the captions that are
    listed beside `fixed`."""
    fixed = [
        {
            "group": f.group,
            "caption": f.caption,
            "degree": f.degree,
            "views": round(f.views),
            "source": f.source,
            "fixed_area": round(float(f.mask.mean()), 4),
            "max_distance": round(c.distance, 5),
            "min_correlation": round(c.correlation, 5),
            "min_patches": round(c.patches, 5),
        }
        for f, c in zip(data.fixed, criteria, strict=True)
    ]
    tied = {f.caption for f in data.fixed}
    return {
        "format": 2,
        "seed": data.seed,
        "settings": SETTINGS,
        "fixed": fixed,
        "grammar": scenes.grammar(),
        "card_grammar": {"tone": list(cards.TONES), "pattern": list(cards.PATTERNS), "window": list(cards.WINDOWS)},
        "scene_captions": [s.caption for s in data.trained if s.caption not in tied],
        "held_out_captions": [s.caption for s in data.held_out],
        "card_captions": [c.caption for c in data.trained_cards],
        "held_out_card_captions": [c.caption for c in data.held_out_cards],
        "window_captions": [c.caption for c in data.trained_windows if c.caption not in tied],
        "vocabulary": data.vocabulary,
    }
