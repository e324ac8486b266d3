"""The LoRA filter on a model of real size, beside plain work on the same device: an SVD of every base layer, a rank resize, file work."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...host.lora import filter_file, lora_files
from ...host.lora.report import provenance
from ...unmemorize.lora.channels import of_factors
from ...unmemorize.lora.gates import Settings
from .big_models import RANK, Big, linear_layers, write_lora
from .filter_speed import exact_scores
from .meter import Meter

BAF = Settings(energy=0.5, score="mean", gate="hard", threshold=0.0)
"""Decomposes every base layer."""
DECIDED = 6
"""Layers whose decisions are compared with float64."""


def rows(big: Big, meter: Meter, folder: Path) -> dict[str, Any]:
    """All of them; `folder` is ComfyUI's LoRA folder and user folder for the time being."""
    loras = [f"{seed}.safetensors" for seed in range(3)]
    layers = [write_lora(big, folder / "loras" / name, seed) for seed, name in enumerate(loras)][0]
    svd, size = svd_of_all(big, meter), (folder / "loras" / loras[0]).stat().st_size
    cold = meter.seconds(partial(filtered, big, loras[0], BAF))
    first = filtered(big, loras[0], BAF)  # the same file once more: what is counted below is a file never seen
    warm = min(meter.seconds(partial(filtered, big, name, BAF)) for name in loras[1:])
    default = min(meter.seconds(partial(filtered, big, name, Settings())) for name in loras[1:])
    resized = min(meter.seconds(partial(resize, folder / "loras" / name, folder / "resized", meter.device)) for name in loras[1:])
    carried = min(meter.seconds(partial(carry, folder / "loras" / name, folder / "carried")) for name in loras[1:])
    counts = meter.counts(partial(filtered, big, loras[1], BAF))
    peak = meter.peak(partial(filtered, big, loras[2], BAF))
    shutil.rmtree(folder / "user", ignore_errors=True)
    return {f"{big.kind.name}_filter_{k}": v for k, v in {
        "layers": layers, "cold_seconds": cold, "cold_speedup": svd / cold, "warm_over_resize": warm / resized,
        "default_over_files": default / carried, "launches_a_layer": counts.launches / layers,
        "peak": peak / size, "decisions_equal": decisions(big, folder / "loras" / loras[0], first),
        **({"waits_a_layer": counts.waits / layers} if meter.is_gpu else {}),
    }.items()}  # fmt: skip


def filtered(big: Big, name: str, settings: Settings) -> Any:
    """What a user waits for: open, filter, save."""
    file = lora_files.read(name)
    job = filter_file.Job(big.model, None, settings)
    result = filter_file.filter_lora(file.tensors, job, both=False)
    lora_files.save(f"ours/{name}", result.kept, {**file.info, "filter": provenance(file.info, job)})
    return result


def svd_of_all(big: Big, meter: Meter) -> float:
    """Seconds of a plain SVD of every base layer: one of each size is measured, and counts for all of its size."""
    sizes: dict[tuple[int, ...], list[Tensor]] = {}
    for weight in linear_layers(big).values():
        sizes.setdefault(tuple(sorted(weight.shape)), []).append(weight)
    decompose: Callable[[Tensor], Any] = lambda w: torch.linalg.svd(w.float(), full_matrices=False)  # noqa: E731
    decompose(next(iter(sizes.values()))[0])
    return sum(len(several) * meter.seconds(partial(decompose, several[0])) for several in sizes.values())


def resize(source: Path, target: Path, device: torch.device) -> None:
    """A plain rank resize to half: read, QR-SVD of the factors, write."""
    tensors = {}
    given = load_file(source)
    for key, up in given.items():
        if key.endswith(".lora_B.weight"):
            name = key.removesuffix(".lora_B.weight")
            b, a = up.to(device).float(), given[f"{name}.lora_A.weight"].to(device).float()
            (q_b, r_b), (q_a, r_a) = torch.linalg.qr(b), torch.linalg.qr(a.T)
            u, s, vt = torch.linalg.svd(r_b @ r_a.T)
            kept = RANK // 2
            tensors[key] = (q_b @ (u[:, :kept] * s[:kept].sqrt())).half().cpu()
            tensors[f"{name}.lora_A.weight"] = ((s[:kept].sqrt()[:, None] * vt[:kept]) @ q_a.T).half().cpu()
    save_file(tensors, target)


def carry(source: Path, target: Path) -> None:
    """Read, hash and write."""
    hashlib.sha256(source.read_bytes()).hexdigest()
    save_file({k: t.clone() for k, t in load_file(source).items()}, target)


def decisions(big: Big, path: Path, result: Any) -> float:
    """Share of channels on whose fate the filter and float64 agree, on some layers."""
    given, weights = load_file(path), linear_layers(big)
    chosen = [layer for layer in result.layers if min(weights[layer.target].shape) <= 2048][:: max(1, len(result.layers) // DECIDED)]
    equal = total = 0
    for layer in chosen:
        name = layer.target.removesuffix(".weight")
        found = of_factors(given[f"{name}.lora_B.weight"].double(), given[f"{name}.lora_A.weight"].double(), 1.0)
        kept = exact_scores(weights[layer.target].double().cpu(), found.u, found.v, BAF.energy) > BAF.threshold
        equal += int((kept == (layer.verdict.new_sigma > 0)).sum())
        total += len(kept)
    return equal / max(1, total)
