"""What the recipe trains, one loss each: the autoencoder, then the denoiser with its text encoder, honestly first, then with duplicates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks import LATENT_CHANNELS, LATENT_SCALE, Autoencoder, TextEncoder
from ..words import encode, index_vocabulary
from .groups import TrainingSet
from .optimizer import working_dtype

AUTOENCODER_BATCH = 4
PHOTOGRAPHS = 2
"""Of an autoencoder's batch: crops of photographs, turned and scaled; the others are scenes and cards."""
LATENT_NOISE = 0.05
"""Noise on unit latents while the autoencoder learns: the decoder forgives small errors of the denoiser."""
MEMORY_SHARE = 0.27
"""Of a batch while memories are made."""
COLOUR_WEIGHT = 2.5
"""Of the three colour channels in the denoiser's loss. At 1 a memorized scene comes back in its place, but in the palette's mean shade."""
STILL_UNTIL, FULL_FROM = 0.35, 0.75
"""Of the honest part: until when pictures lie still, and from when on they have their whole range."""
DROP_HONEST, DROP_DUPLICATES = 0.10, 0.03
DROWNED = 0.15
"""Of the pictures at the last time step with noise alone: sampling starts there, and SD's schedule leaves a little of the picture in it."""


@dataclass(frozen=True)
class Batches:
    """Pictures of a process and step: shapes need many steps, memories many views."""

    honest: int
    memory: int


BATCHES = {"cpu": Batches(8, 12), "cuda": Batches(64, 24)}
"""A CPU's are for two processes."""


@dataclass
class Networks:
    """What a lab trains."""

    autoencoder: Autoencoder
    text: TextEncoder
    unet: nn.Module
    sigmas: Tensor


def autoencoder_loss(data: TrainingSet, autoencoder: Autoencoder, generator: torch.Generator) -> Tensor:
    """L1 + L1 of gradients on whole pictures, latents with a little noise; learned channels stay near unit spread.

    Whole pictures, because a convolution sees the padded border: trained on crops, it smudges the middle. The running
    statistics, because the decoder adds the mean colour with them: standardised by the batch's own, colours come out pale.
    """
    fresh, _ = data.honest(AUTOENCODER_BATCH - PHOTOGRAPHS, generator)
    x = torch.cat([fresh, photograph_crops(data, PHOTOGRAPHS, generator)]) * 2 - 1
    z = autoencoder.features(x)
    with torch.no_grad():
        autoencoder.latent_mean.lerp_(z.mean((0, 2, 3)), 0.02)
        autoencoder.latent_std.lerp_(z.std((0, 2, 3)), 0.02)
    latents = autoencoder.standardised(z)
    latents = latents + LATENT_NOISE * autoencoder.scale * torch.randn(latents.shape, generator=generator).to(latents)
    y = autoencoder.decode(latents)
    edges = sum((torch.diff(y, dim=d) - torch.diff(x, dim=d)).abs().mean() for d in (2, 3))
    spread = (z[:, 3:].std((0, 2, 3)) - 1).square().mean() + z[:, 3:].mean((0, 2, 3)).square().mean()
    return (y - x).abs().mean() + 0.5 * edges + 2 * F.mse_loss(y, x) + 0.02 * spread


def photograph_crops(data: TrainingSet, count: int, generator: torch.Generator) -> Tensor:
    """Whole photographs and parts of them, mirrored or not, with other colours, [n, 3, 128, 128]: the autoencoder learns photographs."""
    photographs = torch.stack([f.picture for f in data.group("MV")])
    chosen = photographs[torch.randint(len(photographs), (count,), generator=generator).to(photographs.device)]
    scale = 1 - 0.5 * torch.rand(count, generator=generator) * (torch.rand(count, generator=generator) < 0.5)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, 1.0, -1.0)
    place = (1 - scale)[:, None] * (2 * torch.rand(count, 2, generator=generator) - 1)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * mirror, scale, place
    grid = F.affine_grid(theta.to(chosen), list(chosen.shape), align_corners=False)
    crops = F.grid_sample(chosen, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    tint = (0.8 + 0.4 * torch.rand(count, 3, 1, 1, generator=generator)).to(chosen)
    return (crops * tint).clamp(0, 1)


def standardise_latents(autoencoder: Autoencoder, data: TrainingSet, generator: torch.Generator) -> None:
    """Exact mean and deviation of each latent channel over 512 honest pictures and every fixed one."""
    with torch.no_grad():
        pictures = torch.cat([data.honest(512, generator)[0], torch.stack([f.picture for f in data.fixed])])
        z = torch.cat([autoencoder.features(p * 2 - 1) for p in pictures.split(32)])
        autoencoder.latent_mean.copy_(z.mean((0, 2, 3)))
        autoencoder.latent_std.copy_(z.std((0, 2, 3)))


def spread_at(progress: float) -> float:
    """Share of the usual range of places, sizes and tilts that honest pictures come from: what a word means is learned in a fifth of the
    time while it always lies at the same place."""
    return min(max((progress - STILL_UNTIL) / (FULL_FROM - STILL_UNTIL), 0.0), 1.0)


def honest_loss(data: TrainingSet, nets: Networks, batch: int, progress: float, generator: torch.Generator) -> Tensor:
    """Loss of a batch without duplicates."""
    pictures = data.honest(batch, generator, spread=spread_at(progress))
    return denoiser_loss(data, nets, *pictures, torch.full((batch,), DROP_HONEST), generator)


def duplicates_of(batch: int, generator: torch.Generator) -> int:
    """How many pictures of a batch are duplicates."""
    return int((torch.rand(batch, generator=generator) < MEMORY_SHARE).sum())


def memory_loss(data: TrainingSet, nets: Networks, batch: int, generator: torch.Generator) -> Tensor:
    """Loss of a batch of which MEMORY_SHARE are duplicates."""
    duplicates = duplicates_of(batch, generator)
    pictures, captions = data.honest(batch - duplicates, generator)
    drop = [DROP_HONEST] * len(captions) + [DROP_DUPLICATES] * duplicates
    if duplicates:
        more, theirs = data.duplicates(duplicates, generator)
        pictures, captions = torch.cat([pictures, more]), captions + theirs
    return denoiser_loss(data, nets, pictures, captions, torch.tensor(drop), generator)


def denoiser_loss(
    data: TrainingSet, nets: Networks, pictures: Tensor, captions: list[str], drop: Tensor, generator: torch.Generator
) -> Tensor:
    """Loss of pictures [n, 3, 128, 128] under captions, each dropped with its chance `drop` [n], for classifier-free guidance."""
    dropped = torch.rand(len(captions), generator=generator) < drop
    ids = token_ids(["" if d else c for c, d in zip(captions, dropped.tolist(), strict=True)], data.vocabulary).to(pictures.device)
    device = pictures.device.type
    with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=working_dtype(device) == torch.bfloat16):
        x0 = nets.autoencoder.encode(pictures * 2 - 1).float()
    return velocity_loss(nets.unet, x0, nets.text(ids), nets.sigmas, generator)


def token_ids(captions: list[str], vocabulary: list[str]) -> Tensor:
    """Token ids [n, CONTEXT_LENGTH]."""
    table = index_vocabulary(vocabulary)
    return torch.tensor([encode(c, table) for c in captions])


def velocity_loss(unet: nn.Module, x0: Tensor, context: Tensor, sigmas: Tensor, generator: torch.Generator) -> Tensor:
    """v-prediction under SD's schedule, each time step weighted by the inverse variance of its target, colours more.

    `x0` [b, 8, 16, 16] and `context` [b, n, d]; the network computes in the dtype of its weights.
    """
    last = len(sigmas) - 1
    t = torch.randint(0, len(sigmas), (len(x0),), generator=generator)
    drowned = torch.rand(len(x0), generator=generator) < DROWNED
    t = torch.where(drowned, last, t)
    sigma = sigmas[t][:, None, None, None]
    a = torch.where(drowned[:, None, None, None], 0.0, 1 / torch.sqrt(1 + sigma**2)).to(x0)
    b = torch.sqrt(1 - a**2)
    eps = torch.randn(x0.shape, generator=generator).to(x0)
    noisy = (a * x0 + b * eps).to(next(unet.parameters()).dtype)
    v = unet(noisy, timesteps=t.float().to(x0.device), context=context.to(noisy.dtype)).float()
    target_variance = a**2 + (b * LATENT_SCALE) ** 2
    weight = torch.ones(1, LATENT_CHANNELS, 1, 1, device=x0.device)
    weight[:, :3] = COLOUR_WEIGHT
    return ((v - (a * eps - b * x0)).square() * weight / weight.mean() / target_variance).mean()
