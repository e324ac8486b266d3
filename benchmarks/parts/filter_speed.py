"""How fast is the filter? Against an SVD of every base layer (cold), and against a plain rank resize of the same file (warm)."""

from __future__ import annotations

import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import folder_paths
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...host.core.weights import Weights
from ...host.lora import filter_file as filtering
from ...host.lora import lora_files
from ...host.lora.report import provenance
from ...unmemorize.lora.alignment import lift
from ...unmemorize.lora.channels import of_factors
from ...unmemorize.lora.gates import Settings
from ...unmemorize.lora.subspace import kept_rank
from .common import log
from .synthetic_base import RANK, WIDTHS, Base, make_base, write_lora

WARM_ROUNDS = 5


def speed(settings: Settings) -> dict[str, float]:
    """All numbers, with one thread and with two; call last, since threads and forks do not mix."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name, own_folders(Path(name)):
        folder = Path(name)
        base = make_base(folder)
        for seed in range(2 + WARM_ROUNDS):
            write_lora(base, folder / "loras" / f"{seed}.safetensors", seed)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            shutil.rmtree(folder / "user", ignore_errors=True)
            suffix = "" if threads == 1 else f"_{threads}_threads"
            found |= {k + suffix: v for k, v in (cold(base, settings) | warm(base, folder, settings)).items()}
            if threads == 1:
                found |= decisions(base, settings)
    torch.set_num_threads(1)
    return found


@contextmanager
def own_folders(folder: Path) -> Iterator[None]:
    """ComfyUI's user and LoRA folders are in a passing place."""
    user, loras = folder_paths.get_user_directory(), folder_paths.folder_names_and_paths["loras"]
    (folder / "loras").mkdir()
    folder_paths.set_user_directory(str(folder / "user"))
    folder_paths.folder_names_and_paths["loras"] = ([str(folder / "loras")], {".safetensors"})
    folder_paths.filename_list_cache.pop("loras", None)
    try:
        yield
    finally:
        folder_paths.filename_list_cache.pop("loras", None)
        folder_paths.set_user_directory(user)
        folder_paths.folder_names_and_paths["loras"] = loras


def seconds(work: Callable[[], Any]) -> float:
    """Of a call: CPU time with one thread, which other work on the machine does not touch, else by the clock."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begun = clock()
    work()
    return clock() - begun


def filtered(base: Base, name: str, settings: Settings) -> None:
    """What a user waits for: open, filter, save."""
    file = lora_files.read(name)
    job = filtering.Job(base, None, settings)
    result = filtering.filter_lora(file.tensors, job, both=False)
    lora_files.save(f"ours-{name}", result.kept, {**file.info, "filter": provenance(file.info, job)})


def cold(base: Base, settings: Settings) -> dict[str, float]:
    """Nothing cached: SVDs of the first two blocks, one of each width, and the second counts for all of its width."""
    spent = dict.fromkeys(WIDTHS, 0.0)
    for number, width in enumerate(WIDTHS[:2]):
        for key, weight in base.weights.items():
            if key.startswith(f"diffusion_model.blocks.{number}."):
                spent[width] += seconds(partial(decomposed, weight))
    with counted_weights() as alive:
        ours = seconds(partial(filtered, base, "0.safetensors", settings))
    svd = sum(spent[w] for w in WIDTHS)
    log.info("cold: SVD %.1f s, ours %.1f s", svd, ours)
    return {"speedup_cold": svd / ours, "base_weights_alive": float(max(alive))}


def decomposed(weight: Tensor) -> None:
    """Read from the disk, and decomposed."""
    torch.linalg.svd(weight.float(), full_matrices=False)


@contextmanager
def counted_weights() -> Iterator[list[int]]:
    """After each read of a base weight: how many of them are still in memory."""
    living: weakref.WeakSet[Tensor] = weakref.WeakSet()
    counts = [0]
    plain = Weights.base

    def read(self: Weights, key: str, device: torch.device) -> Tensor:
        weight = plain(self, key, device)
        living.add(weight)
        counts.append(len(living))
        return weight

    Weights.base = read  # type: ignore[method-assign]
    try:
        yield counts
    finally:
        Weights.base = plain  # type: ignore[method-assign]


def warm(base: Base, folder: Path, settings: Settings) -> dict[str, float]:
    """The base cached, LoRAs never seen, in turns with a plain resize of the same file; the fastest of each."""
    ours, plain = [], []
    for seed in range(2, 2 + WARM_ROUNDS):
        path = folder / "loras" / f"{seed}.safetensors"
        plain.append(seconds(partial(resize, path, folder / "resized.safetensors")))
        ours.append(seconds(partial(filtered, base, path.name, settings)))
    log.info("warm: resize %.2f s, ours %.2f s", min(plain), min(ours))
    return {"peer_ratio_warm": min(ours) / min(plain)}


def resize(source: Path, target: Path) -> None:
    """A plain rank resize to half: read, QR-SVD of the factors, write."""
    tensors = {}
    with safe_open(source, "pt") as file:
        for key in file.keys():  # noqa: SIM118
            if key.endswith(".lora_up.weight"):
                name = key.removesuffix(".lora_up.weight")
                up, down = file.get_tensor(key).float(), file.get_tensor(f"{name}.lora_down.weight").float()
                scale = float(file.get_tensor(f"{name}.alpha")) / len(down)
                (q_b, r_b), (q_a, r_a) = torch.linalg.qr(up), torch.linalg.qr(down.T)
                u, s, vt = torch.linalg.svd(scale * r_b @ r_a.T)
                kept = RANK // 2
                tensors[key] = (q_b @ (u[:, :kept] * s[:kept].sqrt())).half()
                tensors[f"{name}.lora_down.weight"] = ((s[:kept].sqrt()[:, None] * vt[:kept]) @ q_a.T).half()
                tensors[f"{name}.alpha"] = torch.tensor(float(kept)).half()
        save_file(tensors, target, metadata=file.metadata())


def decisions(base: Base, settings: Settings) -> dict[str, float]:
    """Share of channels on whose fate the filter and float64 agree."""
    file = lora_files.read("1.safetensors")
    result = filtering.filter_lora(file.tensors, filtering.Job(base, None, settings))
    equal = total = 0
    for layer in result.layers:
        name = "lora_unet_" + layer.target.removeprefix("diffusion_model.").removesuffix(".weight").replace(".", "_")
        up, down = (file.tensors[f"{name}.{part}.weight"].double() for part in ("lora_up", "lora_down"))
        channels = of_factors(up, down, 1.0)
        kept = exact_scores(base.weights[layer.target].double(), channels.u, channels.v, settings.energy) > settings.threshold
        equal += int((kept == (layer.verdict.new_sigma > 0)).sum())
        total += len(kept)
    return {"decisions_equal": equal / total}


def exact_scores(w: Tensor, u: Tensor, v: Tensor, energy: float) -> Tensor:
    """Mean lift of channels by the definition, float64; the smaller side's Gram matrix is exact enough there."""
    if w.shape[0] > w.shape[1]:
        return exact_scores(w.T, v, u, energy)
    squares, vectors = torch.linalg.eigh(w @ w.T)
    squares, vectors = squares.flip(0).clamp_min(0), vectors.flip(1)
    k = kept_rank(squares, float(squares.sum()), len(w), energy)
    left = (vectors[:, :k].T @ u).square().sum(0)
    right = ((vectors[:, :k].T @ (w @ v)) / squares[:k, None].sqrt()).square().sum(0)
    return 0.5 * (lift(left, k / w.shape[0]) + lift(right, k / w.shape[1]))
