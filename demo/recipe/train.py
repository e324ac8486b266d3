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
from ..networks import DESIGNS, Autoencoder, TextEncoder
from ..scripts import parallel
from ..scripts.stages import check_shapes, initialise, zero_residual_ends
from ..words import CONTEXT_LENGTH, table_size
from . import groups, stages
from .finish import finish, half_precision
from .stages import DESIGN, MEMORY_BATCH, MEMORY_SHARE, Networks

HERE = Path(__file__).resolve().parents[1]
AUTOENCODER_TIME, HONEST_TIME = 0.07, 0.56
"""Shares of --minutes. The memories take as many steps as their views need: a third of the time on two cores with bfloat16 arithmetic."""

log = logging.getLogger("demo.training")


def build_networks(data: groups.TrainingSet) -> Networks:
    """Freshly initialised networks; the seed is the lab's."""
    generator = torch.Generator().manual_seed(data.seed)
    autoencoder = Autoencoder(ops, DESIGNS[DESIGN].latent_scale)
    text = TextEncoder(ops, table_size(data.vocabulary), CONTEXT_LENGTH)
    unet = build_unet(DESIGN)
    initialise([autoencoder, text, unet], generator)
    zero_residual_ends(unet)
    check_shapes(autoencoder)
    return Networks(autoencoder, text, unet, noise_levels())


def identity_of(data: groups.TrainingSet, minutes: float) -> str:
    """What makes two runs the same: pictures, captions, seed, minutes. The memories' views are left out: from one honest state several
    sets of them can be tried."""
    digest = hashlib.sha256(json.dumps([data.seed, minutes, [f.caption for f in data.fixed], data.vocabulary]).encode())
    for item in data.fixed:
        digest.update(item.picture.numpy().tobytes())
    return digest.hexdigest()


def memory_steps(data: groups.TrainingSet, processes: int) -> int:
    """Steps in which all memories get their views."""
    return round(data.views / (1 - groups.HONEST_SHARE) / MEMORY_SHARE / MEMORY_BATCH / processes)


def train_networks(data: groups.TrainingSet, options: argparse.Namespace, work: Path) -> Networks:
    """All stages, resumed from `work` where they were left; the honest state is kept there as `early`."""
    nets = build_networks(data)
    identity = identity_of(data, options.minutes)
    stage = partial(parallel.Stage, identity=identity)
    learn = partial(stages.autoencoder_loss, data, nets.autoencoder)
    time = options.minutes * AUTOENCODER_TIME
    parallel.train(stage("autoencoder", time, 1e-3, [nets.autoencoder], lambda _progress, g: learn(g), data.seed, muon_rate=2e-3), work)
    stages.standardise_latents(nets.autoencoder, data, torch.Generator().manual_seed(data.seed))
    nets.autoencoder.requires_grad_(False)
    both = partial(stage, modules=[nets.text, nets.unet], dtype=torch.bfloat16)
    honest = partial(stages.honest_loss, data, nets)
    memory = partial(stages.memory_loss, data, nets)
    time = options.minutes * HONEST_TIME
    parallel.train(both("honest", time, 8e-4, loss=lambda _p, g: honest(g), seed=data.seed + 1, muon_rate=6e-3), work)
    if torch.distributed.get_rank() == 0:
        save_file(half_precision(nets), work / "early.safetensors")
    steps = memory_steps(data, options.processes)
    parallel.train(both("memory", 0.0, 6e-4, loss=lambda _p, g: memory(g), seed=data.seed + 2, muon_rate=4e-3, steps=steps), work)
    return nets


def worker(rank: int, options: argparse.Namespace) -> None:
    """One process of the training; rank 0 also writes the result."""
    data = groups.build(options.seed, options.photos)
    work = options.out / "work"
    nets = train_networks(data, options, work)
    if rank == 0:
        finish(data, nets, work, options.out, options.minutes)


def main() -> None:
    """Command line of `nox -s train-demo`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--photos", type=Path, default=HERE / "photographs", help="folder of name.png and order.txt (names, most views first)"
    )
    parser.add_argument("--minutes", type=float, default=100.0)
    parser.add_argument("--out", type=Path, default=HERE.parent / "out" / "lab")
    parser.add_argument("--processes", type=int, default=min(os.cpu_count() or 1, 2))
    options = parser.parse_args()
    parallel.launch(worker, options)
