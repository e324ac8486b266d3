"""Train a lab: photographs and a seed in, a folder with `checkpoint`, `early`, `pictures` and `lab.json` out."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
from functools import partial
from pathlib import Path

import torch
from comfy.ops import disable_weight_init as ops
from safetensors.torch import save_file

from ...host.demo import build_unet, noise_levels
from ..networks import LATENT_SCALE, Autoencoder, TextEncoder
from ..words import CONTEXT_LENGTH, table_size
from . import groups, parallel, stages
from .finish import finish, half_precision
from .optimizer import working_dtype
from .stages import BATCHES, MEMORY_SHARE, Networks
from .starting import check_shapes, initialise, zero_residual_ends

HERE = Path(__file__).resolve().parents[1]
MINUTES = {"cpu": 100.0, "cuda": 7.0}
AUTOENCODER_TIME, HONEST_TIME = 0.07, 0.40
"""Shares of --minutes. The memories take as many steps as their views need, 43 minutes on two cores with bfloat16 arithmetic; three in four
pictures of that part are honest too. Then what counts as a copy is measured, and the sheet drawn: 8 minutes."""

log = logging.getLogger("demo.training")


def build_networks(data: groups.TrainingSet) -> Networks:
    """Freshly initialised networks; the seed is the lab's."""
    generator = torch.Generator().manual_seed(data.seed)
    autoencoder = Autoencoder(ops, LATENT_SCALE)
    text = TextEncoder(ops, table_size(data.vocabulary), CONTEXT_LENGTH)
    unet = build_unet()
    initialise([autoencoder, text, unet], generator)
    zero_residual_ends(unet)
    check_shapes(autoencoder)
    return Networks(autoencoder, text, unet, noise_levels())


def identity_of(data: groups.TrainingSet, options: argparse.Namespace) -> str:
    """What makes two runs the same: pictures, captions, seed, minutes, device, processes. The memories' views are the memory stage's alone:
    from one honest state several sets of them can be tried."""
    facts = [data.seed, options.minutes, options.device, options.processes, [f.caption for f in data.fixed], data.vocabulary]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for item in data.fixed:
        digest.update(item.picture.cpu().numpy().tobytes())
    return digest.hexdigest()


def memory_steps(data: groups.TrainingSet, batch: int) -> int:
    """Steps of so many pictures in which all memories get their views."""
    return round(data.views / (1 - groups.HONEST_SHARE) / MEMORY_SHARE / batch)


def train_networks(data: groups.TrainingSet, options: argparse.Namespace, work: Path) -> Networks:
    """All stages, resumed from `work` where they were left; the honest state is kept there as `early`."""
    nets, batches = build_networks(data), BATCHES[data.device.type]
    for module in (nets.autoencoder, nets.text, nets.unet):
        module.to(data.device)
    identity = identity_of(data, options)
    stage = partial(parallel.Stage, identity=identity)
    learn = partial(stages.autoencoder_loss, data, nets.autoencoder)
    time = options.minutes * AUTOENCODER_TIME
    parallel.train(stage("autoencoder", time, 1e-3, [nets.autoencoder], lambda _progress, g: learn(g), data.seed, muon_rate=2e-3), work)
    stages.standardise_latents(nets.autoencoder, data, torch.Generator().manual_seed(data.seed))
    nets.autoencoder.requires_grad_(False)
    dtype = working_dtype(data.device.type)
    remembering = partial(parallel.Stage, identity=f"{identity} {groups.VIEWS}", modules=[nets.text, nets.unet], dtype=dtype)
    both = partial(stage, modules=[nets.text, nets.unet], dtype=dtype)
    honest = partial(stages.honest_loss, data, nets, batches.honest)
    memory = partial(stages.memory_loss, data, nets, batches.memory)
    time = options.minutes * HONEST_TIME
    parallel.train(both("honest", time, 8e-4, loss=honest, seed=data.seed + 1, muon_rate=6e-3), work)
    if torch.distributed.get_rank() == 0:
        save_file(half_precision(nets), work / "early.safetensors")
    steps = memory_steps(data, batches.memory * options.processes)
    parallel.train(remembering("memory", 0.0, 6e-4, loss=lambda _p, g: memory(g), seed=data.seed + 2, muon_rate=4e-3, steps=steps), work)
    return nets


def worker(rank: int, options: argparse.Namespace) -> None:
    """One process of the training; rank 0 also writes the result."""
    data = groups.build(options.seed, options.photos).on(torch.device(options.device))
    work = options.out / "work"
    nets = train_networks(data, options, work)
    finish(data, nets, work, options.out)


def main() -> None:
    """Command line of `nox -s train-demo`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--photos", type=Path, default=HERE / "photographs", help="folder of name.png and order.txt (names, most views first)"
    )
    parser.add_argument("--device", choices=BATCHES, default="cpu", help="cuda: one GPU draws and trains")
    parser.add_argument("--minutes", type=float, help="100 on a CPU, 7 on a GPU")
    parser.add_argument("--out", type=Path, default=HERE.parent / "out" / "lab")
    parser.add_argument("--processes", type=int, help="of a CPU; two if it has as many cores")
    options = parser.parse_args()
    options.minutes = options.minutes or MINUTES[options.device]
    options.processes = 1 if options.device == "cuda" else options.processes or min(os.cpu_count() or 1, 2)
    parallel.launch(worker, options)
