"""How time and memory grow: with a LoRA's layers and rank, a latent's side, a batch, prompts, and LoRAs in a folder.

Processor time of one thread, so that other work on the machine hardly counts; memory is the most that was held above what was there. What
grows in proportion has the exponent 1, with a latent's side 2. A file of subspaces that is mapped into memory counts whole.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..demo.scripts.generate import Generator
from ..host.curvature.measuring import RECOMMENDED, measure_map
from ..host.lora import filter_file, lora_files
from ..host.lora.folder import filter_folder
from ..host.neurons.recording import record
from ..host.stability.guard import guarded
from ..host.stability.methods import Guard
from ..host.stability.profiles import calibrate
from ..unmemorize.lora.gates import Settings
from .many_files import made as small_loras
from .parts.common import ROOT, log, write
from .parts.filter_speed import own_folders, seconds
from .parts.growth_plot import Series, growth_plot
from .parts.meter import peak_bytes
from .parts.synthetic_base import Base

SIDE, BASE_RANK, SOME_LAYERS = 640, 16, 32
"""Of the synthetic base's square layers."""
STEPS = 6
ROUNDS = 3
SIZES: dict[str, tuple[int, ...]] = {
    "layers": (16, 32, 64, 128, 256), "rank": (8, 16, 32, 64, 128), "latent side": (8, 16, 32, 48), "batch": (1, 2, 4, 8, 16),
    "prompts": (1, 2, 4, 8), "files": (4, 8, 16, 32, 64),
}  # fmt: skip
TITLES = {
    "layers": "LoRA filter (base known): layers", "rank": "LoRA filter (base known): rank", "latent side": "map: side of the latent",
    "batch": "guard detecting: pictures of a batch", "prompts": "recording neurons: prompts", "files": "LoRA folder: files",
}  # fmt: skip
IN_PROPORTION = {"latent side": 2.0}
"""Powers of what else than 1 is in proportion: a latent's places are its side squared."""
BAF = Settings(score="mean")


def square_base(layers: int) -> Base:
    """A base of square layers whose spectrum falls."""
    falling = torch.arange(1, SIDE + 1) ** -0.35
    draw = lambda k: torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(k)) * falling  # noqa: E731
    return Base({f"diffusion_model.blocks.{k}.attn1.to_q.weight": draw(k) for k in range(layers)}, {}, {})


def write_lora(base: Base, path: Path, rank: int) -> None:
    """A random LoRA of all layers."""
    tensors = {}
    for k, key in enumerate(base.weights):
        random = torch.Generator().manual_seed(k)
        tensors[f"{key.removesuffix('.weight')}.lora_B.weight"] = torch.randn(SIDE, rank, generator=random).half()
        tensors[f"{key.removesuffix('.weight')}.lora_A.weight"] = torch.randn(rank, SIDE, generator=random).half()
    save_file(tensors, path)


def filtering(home: Path, sizes: list[tuple[int, int]]) -> list[Callable[[], Any]]:
    """Filtering a LoRA of so many layers and such a rank, its base known."""
    base = square_base(max(layers for layers, _ in sizes))

    def work(name: str, part: Base) -> None:
        filter_file.filter_lora(lora_files.read(name).tensors, filter_file.Job(part, None, BAF), both=False)

    found: list[Callable[[], Any]] = []
    for layers, rank in sizes:
        part, name = Base(dict(list(base.weights.items())[:layers]), {}, {}), f"{layers}-{rank}.safetensors"
        write_lora(part, home / "loras" / name, rank)
        found.append(partial(work, name, part))
    found[max(range(len(sizes)), key=lambda k: sizes[k][0])]()  # the base becomes known
    return found


def sampling_work(lab: Path) -> dict[str, list[Callable[[], Any]]]:
    """Maps, guarded runs and recordings of the demo model."""
    generator = Generator(lab / "checkpoint.safetensors")
    words = [f"a {colour} circle on a gray background" for colour in ("red", "blue", "green", "yellow", "orange", "teal", "pink", "white")]
    prompts, empty = [generator.condition(w) for w in words], generator.condition("")
    use = {"seed": 1, "steps": STEPS, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}

    def noise(n: int, side: int) -> dict[str, Any]:
        return {"samples": torch.randn(n, 8, side, side, generator=torch.Generator().manual_seed(0))}

    clone, _ = guarded(generator.model, Guard(calibrate(generator.model, prompts[:5], empty, noise(1, 16), 1, use), "detect"))

    def guarded_run(n: int) -> None:
        generator_of = generator.model
        generator.model = clone
        try:
            generator.latents(words[0], list(range(n)), steps=STEPS)
        finally:
            generator.model = generator_of

    return {
        "latent side": [
            partial(measure_map, generator.model, prompts[0], empty, noise(1, side), RECOMMENDED, 0) for side in SIZES["latent side"]
        ],
        "batch": [partial(guarded_run, n) for n in SIZES["batch"]],
        "prompts": [partial(record, generator.model, prompts[:n], empty, noise(1, 16), 1, use, "feed-forward") for n in SIZES["prompts"]],
    }


def folder_work(home: Path) -> list[Callable[[], Any]]:
    """Folders of small LoRAs; a folder is filtered into another one each time."""
    base, count = _demo_base(), 0

    def work(name: str) -> None:
        nonlocal count
        count += 1
        filter_folder(name, f"out-{count}", base, None, Settings(), False)

    found: list[Callable[[], Any]] = []
    for n in SIZES["files"]:
        folder = home / "loras" / f"many-{n}"
        folder.mkdir()
        small_loras(folder, n)
        found.append(partial(work, f"many-{n}"))
    return found


def _demo_base() -> Any:
    return Generator(ROOT / "demo" / "lab" / "checkpoint.safetensors").model


def measured(works: list[Callable[[], Any]], sizes: tuple[int, ...]) -> Series:
    """Fastest of some rounds, and the peak, of each size."""
    found = []
    with torch.inference_mode():
        for size, work in zip(sizes, works, strict=True):
            work()
            found.append((float(size), min(seconds(work) for _ in range(ROUNDS)), float(peak_bytes(work))))
    return found


def exponent(sizes: list[float], values: list[float]) -> float:
    """p of values ~ sizes^p, by least squares of the logarithms."""
    x, y = ([math.log(v) for v in several] for several in (sizes, values))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def metrics_of(panels: dict[str, Series]) -> tuple[dict[str, float], dict[str, str]]:
    """Numbers, and what they mean."""
    metrics: dict[str, float] = {}
    about: dict[str, str] = {}
    for name, series in panels.items():
        key = name.replace(" ", "_")
        for which, k, words in (("time", 1, "time"), ("memory", 2, "most memory")):
            metrics[f"{key}_{which}_exponent"] = exponent([s[0] for s in series], [s[k] for s in series])
            about[f"{key}_{which}_exponent"] = f"{TITLES[name]}: {words} ~ size ^ this (in proportion: {IN_PROPORTION.get(name, 1.0):g})"
        for size, spent, held in series:
            metrics[f"{key}_{size:g}_ms"], metrics[f"{key}_{size:g}_mib"] = 1000 * spent, held / 2**20
            about[f"{key}_{size:g}_ms"], about[f"{key}_{size:g}_mib"] = f"{TITLES[name]} {size:g}: ms", f"{TITLES[name]} {size:g}: MiB"
    return metrics, about


def main() -> None:
    """`nox -s benchmark -- growth`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="growth", help="of the result file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lab = ROOT / "demo" / "lab"
    with tempfile.TemporaryDirectory() as name, own_folders(Path(name)):
        home = Path(name)
        works = {
            "layers": filtering(home, [(layers, BASE_RANK) for layers in SIZES["layers"]]),
            "rank": filtering(home, [(SOME_LAYERS, rank) for rank in SIZES["rank"]]),
            **sampling_work(lab),
            "files": folder_work(home),
        }
        panels = {}
        for what, several in works.items():
            panels[what] = measured(several, SIZES[what])
            log.info("%s: %s", what, [(s, round(t, 3), round(b / 2**20, 1)) for s, t, b in panels[what]])
    log.info("%s", growth_plot(options.name, {TITLES[what]: (series, IN_PROPORTION.get(what, 1.0)) for what, series in panels.items()}))
    metrics, about = metrics_of(panels)
    write(options.name, metrics, {"steps": STEPS, "side of a layer": SIDE, "rounds": ROUNDS}, about, lab)
