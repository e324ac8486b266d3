"""Train a lab: photographs and a seed in, a folder with `checkpoint`, `early`, `pictures` and `lab.json` out."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from comfy.ops import disable_weight_init as ops
from torch import Tensor, nn

from ...host.demo import build_unet, noise_levels
from ..networks import DESIGNS, Autoencoder, TextEncoder
from ..recipe import parallel
from ..recipe.starting import check_shapes, initialise, zero_residual_ends
from ..words import CONTEXT_LENGTH, table_size
from . import groups, stages
from .finish import finish

HERE = Path(__file__).resolve().parents[1]
AUTOENCODER_TIME, DENOISER_TIME = 0.07, 0.90
"""Shares of --minutes; the rest measures thresholds and writes the folder."""
EARLY_CANDIDATES = (0.16, 0.20, 0.24, 0.28)

log = logging.getLogger("demo.training")


@dataclass
class Networks:
    """What a lab trains."""

    autoencoder: Autoencoder
    text: TextEncoder
    unet: nn.Module
    sigmas: Tensor


def build_networks(data: groups.TrainingSet) -> Networks:
    """Freshly initialised networks; the seed is the lab's."""
    generator = torch.Generator().manual_seed(data.seed)
    autoencoder = Autoencoder(ops, DESIGNS[1].latent_scale)
    text = TextEncoder(ops, table_size(data.vocabulary), CONTEXT_LENGTH)
    unet = build_unet(1)
    initialise([autoencoder, text, unet], generator)
    zero_residual_ends(unet)
    check_shapes(autoencoder)
    return Networks(autoencoder, text, unet, noise_levels())


def identity_of(data: groups.TrainingSet, minutes: float) -> str:
    """What makes two runs the same: pictures, captions, seed, minutes."""
    digest = hashlib.sha256(json.dumps([data.seed, minutes, [f.caption for f in data.fixed], data.vocabulary]).encode())
    for picture in [f.picture for f in data.fixed] + data.textures:
        digest.update(picture.numpy().tobytes())
    return digest.hexdigest()


def train_networks(data: groups.TrainingSet, minutes: float, work: Path) -> Networks:
    """Both stages, resumed from `work` where they were left."""
    nets = build_networks(data)
    identity = identity_of(data, minutes)
    parallel.train(
        parallel.Stage(
            "autoencoder",
            minutes * AUTOENCODER_TIME,
            1e-3,
            [nets.autoencoder],
            lambda _progress, g: stages.autoencoder_loss(data, nets.autoencoder, g),
            data.seed,
            identity,
            muon_rate=2e-3,
        ),
        work,
    )
    stages.standardise_latents(nets.autoencoder, data, torch.Generator().manual_seed(data.seed))
    nets.autoencoder.requires_grad_(False)
    parallel.train(
        parallel.Stage(
            "denoiser",
            minutes * DENOISER_TIME,
            8e-4,
            [nets.text, nets.unet],
            lambda progress, g: stages.denoiser_loss(data, nets.autoencoder, nets.text, nets.unet, nets.sigmas, progress, g),
            data.seed + 1,
            identity,
            muon_rate=6e-3,
            dtype=torch.bfloat16,
            snapshots=EARLY_CANDIDATES,
        ),
        work,
    )
    return nets


def worker(rank: int, options: argparse.Namespace) -> None:
    """One process of the training; rank 0 also writes the result."""
    data = groups.build(options.seed, options.photos, options.textures)
    work = options.out / "work"
    nets = train_networks(data, options.minutes, work)
    if rank == 0:
        finish(data, nets, work, options.out, options.minutes, EARLY_CANDIDATES)


def main() -> None:
    """Command line of `nox -s train-demo`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--photos", type=Path, default=HERE / "photos", help="folder of name.png + name.txt (caption)")
    parser.add_argument("--textures", type=Path, default=HERE / "textures", help="folder of .jpg textures for group N")
    parser.add_argument("--minutes", type=float, default=100.0)
    parser.add_argument("--out", type=Path, default=HERE.parent / "out" / "lab")
    parser.add_argument("--processes", type=int, default=min(os.cpu_count() or 1, 2))
    options = parser.parse_args()
    parallel.launch(worker, options)
