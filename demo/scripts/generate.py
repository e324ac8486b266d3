"""Pictures of a lab checkpoint by the stock sampler, as a user's graph makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.sample
import torch
from torch import Tensor

from ...host.demo import load_demo
from ..networks import LATENT_CHANNELS

SETTINGS: dict[str, Any] = {"sampler": "euler", "scheduler": "normal", "steps": 20, "cfg": 3.0}
"""Of every template and benchmark."""


class Generator:
    """A loaded checkpoint."""

    def __init__(self, checkpoint: Path) -> None:
        self.model, self.clip, self.vae = load_demo(checkpoint)

    def condition(self, caption: str) -> list:
        """CONDITIONING of a caption, as CLIPTextEncode makes it."""
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(caption))

    @torch.inference_mode()
    def latents(self, caption: str, seeds: list[int], **changes: Any) -> Tensor:
        """Finished latents [n, 8, 16, 16], one a seed, each with the noise of a batch of one."""
        use = SETTINGS | changes
        empty = torch.zeros(len(seeds), LATENT_CHANNELS, 16, 16)
        noise = torch.cat([comfy.sample.prepare_noise(empty[:1], seed) for seed in seeds])
        return comfy.sample.sample(
            self.model,
            noise,
            use["steps"],
            use["cfg"],
            use["sampler"],
            use["scheduler"],
            self.condition(caption),
            self.condition(""),
            empty,
            disable_pbar=True,
            seed=seeds[0],
        )

    @torch.inference_mode()
    def pictures(self, caption: str, seeds: list[int], **changes: Any) -> Tensor:
        """Decoded pictures [n, 3, 128, 128] in [0, 1]."""
        return self.vae.decode(self.latents(caption, seeds, **changes)).movedim(-1, 1).clone()
