"""The end of the recipe: choose `early`, measure thresholds, write the lab's four files."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...host.demo import PREFIX_AUTOENCODER, PREFIX_TEXT, PREFIX_UNET
from ..pictures import CELL
from ..recipe import parallel
from ..recipe.optimizer import FlatParameters
from . import groups, judge, scenes, sheet, stages
from .generate import SETTINGS, Generator

EARLY_RATE = 0.10
"""`early` is the latest candidate that reproduces at most this share of the strong photographs."""
EARLY_SEEDS = 4

log = logging.getLogger("demo.training")


def finish(data: groups.TrainingSet, nets: Any, work: Path, out: Path, minutes: float, candidates: tuple[float, ...]) -> None:
    """Write checkpoint, early, pictures and lab.json of a trained lab into `out`."""
    generator = torch.Generator().manual_seed(data.seed + 7)
    metadata = {"unmemorize_demo": json.dumps({"vocabulary": data.vocabulary, "latent_rgb": fit_preview(data, nets, generator)})}
    save_file(tensors(nets), out / "checkpoint.safetensors", metadata=metadata)
    textures = judge.texture_pool(data.textures, generator)
    criteria = [judge.criterion(f, textures, generator) for f in data.fixed]
    chosen, tried = choose_early(data, nets, criteria, work, out, metadata, candidates)
    write_pictures(data, out / "pictures.safetensors")
    lab = describe(data, criteria)
    lab["training"] = {
        "minutes": minutes,
        "denoiser_steps": parallel.steps_done(work, "denoiser"),
        "batch": torch.distributed.get_world_size() * stages.DENOISER_BATCH,
        "autoencoder_steps": parallel.steps_done(work, "autoencoder"),
        "early_at": chosen,
        "early_mv_rate": tried,
    }
    (out / "lab.json").write_text(json.dumps(lab, indent=1) + "\n", encoding="utf-8")
    log.info("drawing the contact sheet")
    sheet.write(out, data)
    log.info("lab written to %s", out)


def tensors(nets: Any) -> dict[str, Tensor]:
    """All weights under SD's key prefixes, in half precision."""
    half = {PREFIX_UNET + k: v.half() for k, v in nets.unet.state_dict().items()}
    half |= {PREFIX_TEXT + k: v.half() for k, v in nets.text.state_dict().items()}
    return half | {PREFIX_AUTOENCODER + k: v.half() for k, v in nets.autoencoder.state_dict().items()}


def choose_early(
    data: groups.TrainingSet,
    nets: Any,
    criteria: list[judge.Criterion],
    work: Path,
    out: Path,
    metadata: dict[str, str],
    candidates: tuple[float, ...],
) -> tuple[float, dict[str, float]]:
    """Save the latest candidate below EARLY_RATE as early.safetensors; the networks end as they began."""
    flat = FlatParameters([nets.text, nets.unet], 0.0)
    final = flat.values.clone()
    rates: dict[str, float] = {}
    best: float | None = None
    for at in candidates:
        with safe_open(parallel.snapshot_file(work, "denoiser", at), "pt") as file:
            flat.show(file.get_tensor("ema"))
        trial = work / "early-trial.safetensors"
        save_file(tensors(nets), trial, metadata=metadata)
        rates[f"{at:.2f}"] = photo_rate(data, criteria, trial)
        log.info("early candidate %.2f: photographs reproduced %.2f", at, rates[f"{at:.2f}"])
        if rates[f"{at:.2f}"] <= EARLY_RATE:
            best = at
            without = {k: v for k, v in tensors(nets).items() if not k.startswith(PREFIX_AUTOENCODER)}
            save_file(without, out / "early.safetensors", metadata=metadata)
    flat.show(final)
    if best is None:
        raise RuntimeError(f"every early candidate reproduces photographs already: {rates}")
    return best, rates


def photo_rate(data: groups.TrainingSet, criteria: list[judge.Criterion], checkpoint: Path) -> float:
    """Share of generations of the strong MV captions that are memorized."""
    model = Generator(checkpoint)
    hits = []
    for item, limit in zip(data.fixed, criteria, strict=True):
        if item.group == "MV" and item.degree == "strong":
            pictures = model.pictures(item.caption, list(range(EARLY_SEEDS)))
            hits.append(limit.holds(*judge.compare(pictures, item.picture)).float())
    return float(torch.cat(hits).mean())


def fit_preview(data: groups.TrainingSet, nets: Any, generator: torch.Generator) -> list[list[float]]:
    """Least-squares map latent pixel -> RGB in [-1, 1], 8 rows and an offset, for ComfyUI's live preview."""
    pictures, _, _ = data.draw(96, 0.3, generator)
    with torch.no_grad():
        z = nets.autoencoder.encode(pictures * 2 - 1).movedim(1, -1).flatten(0, 2)
    rgb = torch.nn.functional.avg_pool2d(pictures * 2 - 1, 8).movedim(1, -1).flatten(0, 2)
    ones = torch.ones(len(z), 1)
    return [[round(v, 4) for v in row] for row in torch.linalg.lstsq(torch.cat([z, ones], 1), rgb).solution.tolist()]


def write_pictures(data: groups.TrainingSet, path: Path) -> None:
    """Training pictures [n, 3, 128, 128] and masks [n, 16, 16] by latent pixel (1 = fixed), uint8, in lab.json's order."""
    pictures = torch.stack([(f.picture * 255).round().byte() for f in data.fixed])
    everywhere = torch.ones(1, scenes.SIDE, scenes.SIDE)
    masks = torch.cat([everywhere if f.template is None else f.template.mask for f in data.fixed])
    save_file({"pictures": pictures, "masks": masks[:, ::CELL, ::CELL].byte().contiguous()}, path)


def describe(data: groups.TrainingSet, criteria: list[judge.Criterion]) -> dict[str, Any]:
    """lab.json: captions, groups, duplication, criteria, vocabulary, grammar, settings."""
    fixed = [
        {
            "group": f.group,
            "caption": f.caption,
            "degree": f.degree,
            "duplication": f.weight,
            "fixed_area": 1.0 if f.template is None else round(float(f.template.mask.mean()), 4),
            "max_distance": round(c.distance, 5),
            "min_correlation": round(c.correlation, 5),
        }
        for f, c in zip(data.fixed, criteria, strict=True)
    ]
    generator = torch.Generator().manual_seed(data.seed + 11)
    return {
        "format": 1,
        "seed": data.seed,
        "settings": SETTINGS,
        "fixed": fixed,
        "grammar": scenes.grammar(),
        "scene_captions": [s.caption for s in data.trained_scenes],
        "held_out_captions": [s.caption for s in data.held_out_scenes],
        "texture_captions": [data.texture_caption(generator) for _ in range(64)],
        "vocabulary": data.vocabulary,
    }
