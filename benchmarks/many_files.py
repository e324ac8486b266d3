"""Many small LoRAs through the command line's engines and through the folder node: throughput, and memory that must not grow.

Each way filters the same files with the same settings into a folder of its own. Starting a process, or Ray, is not counted: what is
measured begins with the first row.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import psutil
import torch
from safetensors.torch import save_file

from ..batch import engines, jobs
from ..batch.tools import DEMO, Base, Options
from ..host.lora.folder import filter_folder
from ..unmemorize.lora.gates import Settings
from .parts.common import ROOT, log, write

COUNT, RANK = 1000, 2
WORKERS = 2
SETTINGS = Settings()
ABOUT = {
    "files": "LoRAs of a small model, a few layers each",
    "files_a_second": "by one process of the command line",
    "over_folder_node": "that, over the files a second of Filter LoRA Folder on the same files",
    "ray_over_one": "files a second of a local Ray cluster with two workers, over one process's (two cores, if they are free: at most 2)",
    "memory_growth": "resident memory after the last file over that after a tenth of them, one process (flat: 1)",
    "same_results": "share of the files whose rows are the same by all ways (energy removed, ranks)",
}


def made(folder: Path, count: int) -> None:
    """LoRAs of the demo model's cross-attention and feed-forward layers, random."""
    weights = Base(DEMO).model.model.state_dict()
    names = [k for k in weights if k.startswith("diffusion_model.") and k.endswith(("attn2.to_k.weight", "ff.net.2.weight"))]
    for i in range(count):
        random, tensors = torch.Generator().manual_seed(i), {}
        for name in names:
            key = "lora_unet_" + name.removeprefix("diffusion_model.").removesuffix(".weight").replace(".", "_")
            out, inner = weights[name].shape
            tensors[f"{key}.lora_up.weight"] = torch.randn(out, RANK, generator=random)
            tensors[f"{key}.lora_down.weight"] = torch.randn(RANK, inner, generator=random)
            tensors[f"{key}.alpha"] = torch.tensor(float(RANK))
        save_file(tensors, folder / f"{i:05d}.safetensors")


def timed(rows: Iterable[dict[str, Any]], count: int) -> tuple[dict[str, tuple[Any, ...]], float, float]:
    """What the rows say by file; files a second after the first; growth of this process's memory after a tenth of them."""
    process, said = psutil.Process(), {}
    began, early = 0.0, 1
    for k, row in enumerate(rows, 1):
        if "error" in row:
            raise RuntimeError(f"{row['name']}: {row['error']}")
        said[row["name"]] = facts_of(row)
        began = time.monotonic() if k == 1 else began
        early = process.memory_info().rss if k == max(1, count // 10) else early
    return said, (count - 1) / (time.monotonic() - began), process.memory_info().rss / early


def facts_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a file became, in a row of the command line or of the folder node's table."""
    return int(row["rank_before"]), int(row["rank_after"]), round(float(row["energy_removed"]), 3)


def by_node(folder: Path, count: int) -> tuple[dict[str, tuple[Any, ...]], float]:
    """The same through the folder node's function; files a second."""
    base = Base(DEMO)
    folder_paths.add_model_folder_path("loras", str(folder.parent), is_default=True)  # written into the first one
    began = time.monotonic()
    table, written = filter_folder(folder.name, "filtered-by-node", base.model, None, SETTINGS, False)
    seconds = time.monotonic() - began
    if written != count:
        raise RuntimeError(f"the folder node wrote {written} of {count} files")
    return {Path(r["file"]).name: facts_of(r) for r in csv.DictReader(io.StringIO(table))}, count / seconds


def main() -> None:
    """`nox -s benchmark -- many-files`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--name", default="many_files")
    o = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "loras" / "many"
        folder.mkdir(parents=True)
        made(folder, o.count)
        units = jobs.units_of("filter", sorted(str(p) for p in folder.glob("*.safetensors")), [DEMO], dict(vars(SETTINGS)))
        log.info("%d files", len(units))
        one, speed, growth = timed(engines.local(units, Options(f"{home}/one", dict(vars(SETTINGS)))), o.count)
        several = {"one": one}
        several["node"], node_speed = by_node(folder, o.count)
        ray_speed = None
        if importlib.util.find_spec("ray"):
            own = ["--cpu"] if comfy.model_management.cpu_state == comfy.model_management.CPUState.CPU else []
            rows = engines.ray(units, Options(f"{home}/ray", dict(vars(SETTINGS)), comfyui=own), WORKERS)
            several["ray"], ray_speed, _ = timed(rows, o.count)
    same = sum(all(found.get(name) == facts for found in several.values()) for name, facts in one.items())
    metrics = {
        "files": o.count, "files_a_second": speed, "over_folder_node": speed / node_speed,
        "ray_over_one": None if ray_speed is None else ray_speed / speed, "memory_growth": growth, "same_results": same / o.count,
    }  # fmt: skip
    write(o.name, metrics, {"count": o.count, "rank": RANK, "workers": WORKERS}, ABOUT, ROOT / "demo" / "lab")
