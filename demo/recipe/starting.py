"""How networks begin: fresh weights, residual branches at zero."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..networks import LATENT_CHANNELS, Autoencoder


def initialise(modules: Iterable[nn.Module], generator: torch.Generator) -> None:
    """ComfyUI's layers leave their weights unset: fan-in uniform, small embeddings, unit norms."""
    for root in modules:
        for m in root.modules():
            weight = getattr(m, "weight", None)
            if not isinstance(weight, Tensor):
                continue
            with torch.no_grad():
                if weight.ndim == 1:
                    weight.fill_(1.0)
                elif isinstance(m, nn.Embedding):
                    weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
                else:
                    bound = 1.0 / math.sqrt(weight[0].numel())
                    weight.copy_(bound * (2 * torch.rand(weight.shape, generator=generator) - 1))
                bias = getattr(m, "bias", None)
                if isinstance(bias, Tensor):
                    bias.zero_()


def zero_residual_ends(unet: nn.Module) -> None:
    """Each residual branch and the output start at zero, as in the original U-Net."""
    with torch.no_grad():
        for name, p in unet.named_parameters():
            ends = ("out_layers.3.weight", "proj_out.weight", "out.2.weight")
            if name.endswith(ends):
                p.zero_()


def check_shapes(autoencoder: Autoencoder) -> None:
    """Fail at once, not after an hour, if the latent contract is broken."""
    with torch.no_grad():
        z = autoencoder.encode(torch.zeros(1, 3, 128, 128))
        if z.shape != (1, LATENT_CHANNELS, 16, 16) or autoencoder.decode(z).shape != (1, 3, 128, 128):
            raise ValueError(f"autoencoder shapes are wrong: latent {tuple(z.shape)}")
