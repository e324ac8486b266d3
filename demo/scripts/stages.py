"""The two things the recipe trains: the autoencoder, then the denoiser together with its text encoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..networks import DESIGNS, LATENT_CHANNELS, Autoencoder, TextEncoder
from ..words import encode, index_vocabulary
from .groups import TrainingSet

AUTOENCODER_BATCH = 3
DENOISER_BATCH = 8
"""Per process."""
LATENT_NOISE = 0.05
"""Noise on unit latents while the autoencoder learns: the decoder forgives small errors of the denoiser."""

FRESH_UNTIL, FULL_FROM = 0.30, 0.36
"""Until the first fraction of the run duplicates are rare, so that `early` knows scenes but no photo."""
EARLY_SHARE, FULL_SHARE = 0.02, 0.45
COLOUR_WEIGHT = 2.5
"""Of the three colour channels in the denoiser's loss. At 1 a memorized scene comes back in its place, but in the palette's mean shade."""
DROP_FRESH, DROP_DUPLICATES = 0.10, 0.03


def memorized_share(progress: float) -> float:
    """Share of duplicates in a batch, low while `early` is being made, then full."""
    ramp = min(max((progress - FRESH_UNTIL) / (FULL_FROM - FRESH_UNTIL), 0.0), 1.0)
    return EARLY_SHARE + (FULL_SHARE - EARLY_SHARE) * ramp


def autoencoder_loss(data: TrainingSet, autoencoder: Autoencoder, generator: torch.Generator) -> Tensor:
    """L1 + L1 of gradients on whole pictures, latents with a little noise; learned channels stay near unit spread.

    Whole pictures, because a convolution sees the padded border: trained on crops, it smudges the middle. The running
    statistics, because the decoder adds the mean colour with them: standardised by the batch's own, colours come out pale.
    """
    pictures, _, _ = data.draw(AUTOENCODER_BATCH, 0.35, generator)
    x = pictures * 2 - 1
    z = autoencoder.features(x)
    with torch.no_grad():
        autoencoder.latent_mean.lerp_(z.mean((0, 2, 3)), 0.02)
        autoencoder.latent_std.lerp_(z.std((0, 2, 3)), 0.02)
    latents = autoencoder.standardised(z)
    latents = latents + LATENT_NOISE * autoencoder.scale * torch.randn(latents.shape, generator=generator)
    y = autoencoder.decode(latents)
    edges = sum((torch.diff(y, dim=d) - torch.diff(x, dim=d)).abs().mean() for d in (2, 3))
    spread = (z[:, 3:].std((0, 2, 3)) - 1).square().mean() + z[:, 3:].mean((0, 2, 3)).square().mean()
    return (y - x).abs().mean() + 0.5 * edges + 2 * F.mse_loss(y, x) + 0.02 * spread


def standardise_latents(autoencoder: Autoencoder, data: TrainingSet, generator: torch.Generator) -> None:
    """Exact mean and deviation of each latent channel over 256 pictures of the training mix."""
    with torch.no_grad():
        pictures, _, _ = data.draw(256, FULL_SHARE, generator)
        z = torch.cat([autoencoder.features(p * 2 - 1) for p in pictures.split(32)])
        autoencoder.latent_mean.copy_(z.mean((0, 2, 3)))
        autoencoder.latent_std.copy_(z.std((0, 2, 3)))


def token_ids(captions: list[str], data: TrainingSet) -> Tensor:
    """Token ids [n, CONTEXT_LENGTH]."""
    vocabulary = index_vocabulary(data.vocabulary)
    return torch.tensor([encode(c, vocabulary) for c in captions])


def denoiser_loss(
    data: TrainingSet,
    autoencoder: Autoencoder,
    text: TextEncoder,
    unet: nn.Module,
    sigmas: Tensor,
    progress: float,
    generator: torch.Generator,
) -> Tensor:
    """Loss of a fresh batch; some captions are dropped, for classifier-free guidance."""
    pictures, captions, duplicate = data.draw(DENOISER_BATCH, memorized_share(progress), generator)
    drop = torch.rand(len(captions), generator=generator).tolist()
    limit = [DROP_DUPLICATES if m else DROP_FRESH for m in duplicate]
    captions = ["" if d < p else c for c, d, p in zip(captions, drop, limit, strict=True)]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        x0 = autoencoder.encode(pictures * 2 - 1).float()
    return velocity_loss(unet, x0, text(token_ids(captions, data)), sigmas, generator)


def velocity_loss(unet: nn.Module, x0: Tensor, context: Tensor, sigmas: Tensor, generator: torch.Generator) -> Tensor:
    """v-prediction under SD's schedule, each time step weighted by the inverse variance of its target, colours more.

    `x0` [b, 8, 16, 16] and `context` [b, n, d]; the network computes in the dtype of its weights.
    """
    t = torch.randint(0, len(sigmas), (len(x0),), generator=generator)
    sigma = sigmas[t][:, None, None, None]
    a, b = 1 / torch.sqrt(1 + sigma**2), sigma / torch.sqrt(1 + sigma**2)
    eps = torch.randn(x0.shape, generator=generator)
    noisy = (a * x0 + b * eps).to(next(unet.parameters()).dtype)
    v = unet(noisy, timesteps=t.float(), context=context.to(noisy.dtype)).float()
    target_variance = a**2 + (b * DESIGNS[1].latent_scale) ** 2
    weight = torch.ones(1, LATENT_CHANNELS, 1, 1)
    weight[:, :3] = COLOUR_WEIGHT
    return ((v - (a * eps - b * x0)).square() * weight / weight.mean() / target_variance).mean()
