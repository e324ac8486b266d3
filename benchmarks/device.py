"""Speed and memory on real sizes: SDXL- and Flux-shaped models of ComfyUI's own classes, made in memory, without ComfyUI's server.

    COMFYUI_PATH=/path/to/ComfyUI COMFYUI_DEVICE=gpu python demo/run.py benchmarks.device

needs nothing but ComfyUI's own environment. On a CPU the models are narrower (see `parts.big_models`). Every time is a ratio to the stock
sampler, or to plain work on the same device in the same run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management
import torch

from .parts import device_filter, device_rows
from .parts.big_models import KINDS, made
from .parts.common import log, write
from .parts.filter_speed import own_folders
from .parts.meter import Meter

MINUTES = 6.0
ABOUT = {
    "weights_billion": "weights of the network",
    "seconds": "stock sampling of one picture",
    "again": "the same once more, over that: what is nearer to 1 is noise",
    "launches_a_step": "operations that a stock step gives the device",
    "waits_a_step": "times that a stock step waits for it",
    "peak_gib": "most memory of a stock step above the weights, GiB",
    "guard": "guard detecting: time over the stock run's",
    "guard_own_share": "share of the processor's time in the guard's own functions (aim <= .01)",
    "guard_launches": "operations with the guard over those without",
    "guard_waits_a_step": "waits for the device that the guard adds to a step (aim 0)",
    "guard_peak": "most memory with the guard over that without",
    "guard_same_bits": "1: the guarded run has the stock run's bits",
    "map": "recommended map: time over a stock run's (aim at 1024: its evaluations / 40)",
    "map_evaluations": "evaluations of the network by that map",
    "map_peak": "most memory of the map over a stock run's",
    "map_half_side": "map of half the side, over a stock run of that side (aim <= .3 on a GPU)",
    "map_half_side_together": "the same with several probes in a call",
    "map_half_side_one_by_one": "the same with one probe in a call",
    "map_together_correlation": "r of both",
    "record": "recording neurons: time over the same steps unrecorded (aim <= 1.05)",
    "record_peak": "most memory of recording over that of the same steps unrecorded",
    "find": "finding neurons: time over a stock run's",
    "pruned_first_run": "first run of a pruned model over later ones (aim <= 1.3)",
    "lora_first_run": "the same of a stock LoRA: ComfyUI patches weights in the first run",
    "copy_check": "looking for 16 references in 8 pictures, over the time of sampling 8 pictures",
    "probe_comparing": "comparing 8 pictures with each other, over the time of sampling them",
    "audit_row": "a row of an audit (4 pictures, their likeness, a map), over the time of sampling its pictures",
    "filter_layers": "linear layers that the LoRA changes",
    "filter_cold_seconds": "filter with a score that decomposes every base layer, nothing cached",
    "filter_cold_speedup": "plain SVD of every base layer on that device, over that (aim >= 8)",
    "filter_warm_over_resize": "the same with the base cached, over a plain rank resize of the same file (aim <= 1.5)",
    "filter_default_over_files": "default score, over reading, hashing and writing the file",
    "filter_launches_a_layer": "operations a layer, base cached",
    "filter_waits_a_layer": "waits for the device a layer, base cached (on a GPU)",
    "filter_peak": "most memory of that, over the LoRA file's size",
    "filter_decisions_equal": "share of channels kept or removed as float64 says (aim >= .995)",
}


def rows_of(name: str, full: bool, meter: Meter, folder: Path, until: float) -> dict[str, Any]:
    """Everything about one model; what there is no time for is left out, and said."""
    big = made(name, full)
    bench = device_rows.Bench(big, meter)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "sampling": lambda: device_rows.sampling(bench),
        "guard": lambda: device_rows.guard(bench),
        "maps": lambda: device_rows.maps(bench),
        "neurons": lambda: device_rows.neurons(bench, folder),
        "filter": lambda: device_filter.rows(big, meter, folder),
        "copies": lambda: device_rows.copies(bench),
    }
    found: dict[str, Any] = {}
    for part, work in parts.items():
        if time.monotonic() > until:
            log.info("%s: no time for %s", name, part)
            continue
        began = time.monotonic()
        found |= work()
        log.info("%s, %s: %.0f s", name, part, time.monotonic() - began)
    return found


def main() -> None:
    """`nox -s benchmark -- device`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="device", help="of the result file")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="after which nothing more is begun")
    parser.add_argument("--models", nargs="*", default=list(KINDS), choices=list(KINDS))
    options = parser.parse_args()
    device = comfy.model_management.get_torch_device()
    meter, full = Meter(device), device.type == "cuda"
    if not full:
        torch.set_num_threads(1)
    began, metrics = time.monotonic(), dict[str, Any]()
    for k, name in enumerate(options.models, 1):
        with tempfile.TemporaryDirectory() as home, own_folders(Path(home)):
            metrics |= rows_of(name, full, meter, Path(home), began + 60 * options.minutes * k / len(options.models))
        comfy.model_management.unload_all_models()
    hardware = torch.cuda.get_device_name(device) if full else "CPU, one thread"
    settings = {"device": hardware, "models": ", ".join(options.models), "real size": full, "seconds": round(time.monotonic() - began)}
    write(options.name, metrics, settings, {f"{m}_{k}": words for m in options.models for k, words in ABOUT.items()})
