"""The demo checkpoint's autoencoder and text encoder, pure torch.

`ops` supplies the layers (`Linear`, `Conv2d`, ...): ComfyUI's `comfy.ops` classes in the pack and
in the recipe alike, so that weights are cast and offloaded as in any other ComfyUI model.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENT_CHANNELS = 8
DOWNSCALE = 8
CONTEXT_DIM = 128

LATENT_SCALE = 2.0
"""Standard deviation of a latent channel. At .5 hardly any of the picture's mean colour is left at the first step of SD's schedule, but
layouts are lost at an eighth of SD's noise levels; at 2 they are lost at half of them."""

UNET: dict[str, Any] = {
    "image_size": 16,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "num_heads": 2,
    "context_dim": CONTEXT_DIM,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "legacy": False,
    "transformer_depth": [0, 1],
    "transformer_depth_output": [1, 0, 1, 1],
    "transformer_depth_middle": 1,
}
"""SD1.x in miniature: GEGLU transformer blocks with cross-attention, none at the latent's own resolution but in the last block: a picture
is learned in two thirds of the time."""


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))), without normalisation: crops and whole pictures agree."""

    def __init__(self, ops: Any, channels: int) -> None:
        super().__init__()
        self.conv1 = ops.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = ops.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 convolution: no checkerboard."""

    def __init__(self, ops: Any, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = ops.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Autoencoder(nn.Module):
    """Pictures [b, 3, 8h, 8w] in [-1, 1] <-> latents [b, 8, h, w] of standard deviation `scale`.

    The first three latent channels are the mean colour of each 8x8 block, the others are learned: colours are
    linear in the latent (an exact live preview), and only detail has to be learned.
    """

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, ops: Any, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.encoder = nn.Sequential(
            ops.Conv2d(3, 32, 4, stride=2, padding=1),
            nn.SiLU(),
            ops.Conv2d(32, 64, 4, stride=2, padding=1),
            ResidualBlock(ops, 64),
            ops.Conv2d(64, 96, 4, stride=2, padding=1),
            ResidualBlock(ops, 96),
            ops.Conv2d(96, LATENT_CHANNELS - 3, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            ops.Conv2d(LATENT_CHANNELS, 96, 3, padding=1),
            ResidualBlock(ops, 96),
            ResidualBlock(ops, 96),
            Upsample(ops, 96, 64),
            ResidualBlock(ops, 64),
            Upsample(ops, 64, 32),
            ResidualBlock(ops, 32),
            Upsample(ops, 32, 16),
            nn.SiLU(),
            ops.Conv2d(16, 3, 3, padding=1),
        )
        self.register_buffer("latent_mean", torch.zeros(LATENT_CHANNELS))
        self.register_buffer("latent_std", torch.ones(LATENT_CHANNELS))

    def features(self, pictures: Tensor) -> Tensor:
        """Latents before standardisation: mean colour of each block, then learned detail."""
        return torch.cat([F.avg_pool2d(pictures, DOWNSCALE), self.encoder(pictures)], 1)

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents of pictures in [-1, 1]."""
        return self.standardised(self.features(pictures))

    def standardised(self, features: Tensor) -> Tensor:
        """Features at mean 0 and standard deviation `scale`."""
        mean, std = (_per_channel(b, features) for b in (self.latent_mean, self.latent_std))
        return (features - mean) / std * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures, about in [-1, 1] (not clamped), of latents."""
        unit = latents / self.scale
        mean, std = (_per_channel(b, latents)[:, :3] for b in (self.latent_mean, self.latent_std))
        colour = F.interpolate(unit[:, :3] * std + mean, scale_factor=float(DOWNSCALE), mode="bilinear")
        return colour + self.decoder(unit)


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like)[None, :, None, None]


class TextBlock(nn.Module):
    """Pre-norm causal transformer block, as in CLIP's text tower."""

    def __init__(self, ops: Any, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = ops.LayerNorm(dim)
        self.qkv = ops.Linear(dim, 3 * dim)
        self.out = ops.Linear(dim, dim)
        self.norm2 = ops.LayerNorm(dim)
        self.fc1 = ops.Linear(dim, 4 * dim)
        self.fc2 = ops.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(b, n, d))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class TextEncoder(nn.Module):
    """Token ids [b, n] (windows of `words.CONTEXT_LENGTH`) -> last hidden state [b, n, CONTEXT_DIM]."""

    def __init__(self, ops: Any, table_size: int, context_length: int, dim: int = CONTEXT_DIM, layers: int = 2) -> None:
        super().__init__()
        self.token_embedding = ops.Embedding(table_size, dim)
        self.position_embedding = ops.Embedding(context_length, dim)
        self.blocks = nn.ModuleList(TextBlock(ops, dim, heads=4) for _ in range(layers))
        self.final_norm = ops.LayerNorm(dim)

    def forward(self, ids: Tensor) -> Tensor:
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.token_embedding(ids) + self.position_embedding(positions)
        for block in self.blocks:
            x = block(x)
        return self.final_norm(x)
