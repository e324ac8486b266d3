"""Bright Ending, the published baseline for localisation (arXiv 2410.21665): attention to the end token at the last step.

In the blocks of the down path with the finest cross-attention, memorized places look at the prompt's end token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...unmemorize.curvature.maps import make_map
from ..core.denoiser import Denoiser, with_denoiser
from ..core.latents import check_channels, check_picture, generated
from ..core.seeds import derived_seed, unit_noise

LAST_SIGMA = 0.0413
"""Noise over signal at the last step of DDIM-50, where the authors look."""


def bright_ending(model: Any, clip: Any, text: str, latent: dict[str, Any], seed: int) -> dict[str, Any]:
    """Mean attention probability of every latent pixel to the end token: a map between 0 and 1. One model evaluation."""
    samples = latent["samples"]
    check_picture(samples)
    check_channels(model, samples)
    down_attention(model.model.diffusion_model)  # before any work: its ValueError
    tokens = clip.tokenize(text)
    position = end_position(tokens, clip.tokenize(""))
    positive = clip.encode_from_tokens_scheduled(tokens)
    found: list[Tensor] = []

    def work(denoiser: Denoiser) -> None:
        layers = down_attention(denoiser.network)
        x = denoiser.noised(unit_noise(samples, derived_seed("noise", seed, 0)))
        with _listening(layers) as heard:
            denoiser.branches(x)
        finest = max(q.shape[1] for q, _ in heard.values())
        maps = [_attention_to(q, k, position, layers[name].heads) for name, (q, k) in heard.items() if q.shape[1] == finest]
        found.append(torch.stack(maps).mean(0).float().cpu())

    with_denoiser(model, positive, None, latent, LAST_SIGMA, seed, work)
    (flat,) = found
    height, width = samples.shape[-2:]
    factor = next((f for f in (1, 2, 4, 8) if -(-height // f) * -(-width // f) == flat.shape[1]), 0)
    if flat.shape[0] != samples.shape[0] or not factor:
        raise ValueError("Bright Ending needs one plain prompt for the whole picture: regional prompts split the attention.")
    coarse = flat.reshape(-1, 1, -(-height // factor), -(-width // factor))
    values = F.interpolate(coarse, scale_factor=factor, mode="nearest")[:, 0, :height, :width]
    settings = {"method": "bright ending", "estimator": "attention", "sigma": LAST_SIGMA, "seed": seed, "evaluations": 1}
    return make_map(values, 1, settings, generated(latent, values.shape))


def end_position(tokens: dict[str, Any], empty: dict[str, Any]) -> int:
    """Index of the prompt's first end token among all tokens of the encoder that the cross-attention sees.

    The end token is the one after the start token of an empty prompt; of a long prompt the last window that holds words counts.
    """
    name = next(iter(tokens))
    windows = [[_id(entry) for entry in window] for window in tokens[name]]
    end = _id(empty[name][0][1])
    last = max((i for i, window in enumerate(windows) if window[1] != end), default=0)
    return sum(len(w) for w in windows[:last]) + windows[last].index(end, 1)


def _id(entry: tuple) -> int:
    """Token id; -1 for the vector of a textual-inversion embedding, which is a word like others."""
    return entry[0] if isinstance(entry[0], int) else -1


def down_attention(network: torch.nn.Module) -> dict[str, Any]:
    """Cross-attention modules of a U-Net's down path. ValueError for networks that have none."""
    blocks = getattr(network, "input_blocks", None)
    found = {} if blocks is None else {n: m for n, m in blocks.named_modules() if n.endswith("attn2") and hasattr(m, "to_q")}
    if not found:
        raise ValueError(
            "Bright Ending is defined for U-Nets with cross-attention (SD1.x, SD2, SDXL); this model has none. "
            "Use Curvature Difference Map, which works on every model."
        )
    return found


@contextlib.contextmanager
def _listening(layers: dict[str, Any]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """While it lasts, queries and keys of each layer are noted down; nothing is changed."""
    queries: dict[str, Tensor] = {}
    heard: dict[str, tuple[Tensor, Tensor]] = {}
    hooks = []
    try:
        for name, layer in layers.items():
            hooks.append(layer.to_q.register_forward_hook(lambda _m, _i, out, name=name: queries.update({name: out})))
            hooks.append(layer.to_k.register_forward_hook(lambda _m, _i, out, name=name: heard.update({name: (queries[name], out)})))
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _attention_to(q: Tensor, k: Tensor, position: int, heads: int) -> Tensor:
    """Probability of every query [n, pixels, heads * d] on one key, mean over heads, [n, pixels]."""
    n, pixels, width = q.shape
    split_q = q.reshape(n, pixels, heads, width // heads).transpose(1, 2).float()
    split_k = k.reshape(n, k.shape[1], heads, width // heads).transpose(1, 2).float()
    weights = (split_q @ split_k.transpose(2, 3) * (width // heads) ** -0.5).softmax(-1)
    return weights[..., position].mean(1)
