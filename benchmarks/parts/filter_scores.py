"""Ways to rank a LoRA's channels, for the sweep: what the pack offers, and more that looks at the base. All of them high = keep.

subspaces            alignment with the base's principal subspace, left, right or both, at several energies E
input statistics     a channel's answer to what the layer sees on ordinary prompts: M = E[x x^T] of its inputs x
shared response      the part of it that is the same for every prompt, S = E[x y^T], x and y of two prompts at one place and step
curvature            how much the channel adds to what the base does in its directions
layers               whole kinds of layers go first
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ...demo.scripts.generate import Generator
from ...unmemorize.lora.alignment import lift, lifts
from ...unmemorize.lora.channels import Channels
from ...unmemorize.lora.scores import SCORES
from .lora_layers import Layer, Score, root

ENERGIES, FEW_ENERGIES = (0.1, 0.3, 0.5, 0.7, 0.9), (0.3, 0.5)
SIDES = ("mean", "min", "left", "right", "product", "mean x singular value")
KINDS = {
    "self-attention": r"attn1", "cross-attention": r"attn2", "text keys and values": r"attn2\.to_[kv]", "feed-forward": r"\.ff\.",
    "encoder": r"input_blocks", "decoder": r"output_blocks",
}  # fmt: skip
"""Kinds of layers, by their weights' keys."""
GONE = KINDS | {
    "cross-attention queries": r"attn2\.to_q", "cross-attention queries and keys": r"attn2\.to_[qk]",
    "cross-attention queries and values": r"attn2\.to_[qv]", "cross-attention queries, keys and values": r"attn2\.to_[qkv]",
    "cross-attention outputs": r"attn2\.to_out", "self-attention queries, keys and values": r"attn1\.to_[qkv]",
    "projections in and out": r"proj_(in|out)", "middle": r"middle_block",
}  # fmt: skip
"""Kinds whose change is taken out as a whole, nothing else with it."""
Metrics = dict[str, Tensor]
"""Weight key -> M [n, n]."""


@dataclass(frozen=True)
class Moments:
    """Of the inputs of linear layers on ordinary captions."""

    own: Metrics
    """M = E[x x^T]."""
    shared: Metrics
    """S = E[x y^T], x and y of two captions at the same place and step: what does not depend on the caption."""


class Inputs:
    """Second moments of the inputs of linear layers while the base draws some captions."""

    def __init__(self, generator: Generator, keys: list[str]) -> None:
        self._generator = generator
        modules = dict(generator.model.model.named_modules())
        self._modules = {k: modules[k.removesuffix(".weight")] for k in keys}

    @torch.inference_mode()
    def of(self, captions: list[str], seed: int) -> Moments:
        """Over all tokens, steps and captions; every caption with a seed of its own."""
        own: Metrics = {}
        sums: dict[str, list[Tensor]] = {k: [] for k in self._modules}
        calls: dict[str, int] = {}

        def listener(key: str) -> Callable[..., None]:
            def listen(_module: Any, given: tuple[Tensor, ...]) -> None:
                x = given[0].detach().flatten(0, -2).float()
                own[key] = own.get(key, 0) + x.T @ x / len(x)
                call = calls[key]
                calls[key] += 1
                if call == len(sums[key]):
                    sums[key].append(x.clone())
                else:
                    sums[key][call] += x

            return listen

        hooks = [m.register_forward_pre_hook(listener(k)) for k, m in self._modules.items()]
        try:
            for number, caption in enumerate(captions):
                calls.update(dict.fromkeys(self._modules, 0))
                self._generator.latents(caption, [seed + number])
        finally:
            for hook in hooks:
                hook.remove()
        count = len(captions)
        means = {k: sum(t.T @ t / len(t) for t in several) / len(several) for k, several in sums.items()}
        own = {k: m / (count * len(sums[k])) for k, m in own.items()}
        # |sum of x|^2 holds every caption with itself, which is own
        shared = {k: (means[k] / count - own[k]) / (count - 1) for k in means}
        return Moments(own, shared)


def scores(inputs: Moments, without_words: Moments) -> dict[str, Score]:
    """Everything tried, by name; `inputs` are the base's on ordinary captions, `without_words` those on the empty one."""
    ordinary, shared, empty = inputs.own, inputs.shared, without_words.own
    found: dict[str, Score] = {"singular value": lambda la: la.channels.sigma, "random": _random}
    for energy in ENERGIES:
        for side in SIDES if energy in FEW_ENERGIES else SIDES[:1]:
            found[f"{side} E {energy:g}"] = _aligned(side, energy)
    found["inverted E 0.5"] = _aligned("inverted", 0.5)
    for energy in (0.3, 0.5, 0.7):
        found[f"weighted base E {energy:g}"] = _weighted_base(ordinary, energy)
        found[f"input subspace E {energy:g}"] = _input_subspace(ordinary, energy)
    found |= {
        "response": lambda la: response(la.channels, ordinary[la.target]),
        "response without size": lambda la: response(la.channels, ordinary[la.target]) / la.channels.sigma.square(),
        "response of its layer": lambda la: response(la.channels, ordinary[la.target]) / answer(la, ordinary),
        "shared response": lambda la: response(la.channels, shared[la.target]),
        "shared response of its layer": lambda la: response(la.channels, shared[la.target]) / answer(la, ordinary),
        "response without words": lambda la: response(la.channels, empty[la.target]),
        "response of its layer without words": lambda la: response(la.channels, empty[la.target]) / answer(la, empty),
        "shared part": lambda la: response(la.channels, shared[la.target]) / response(la.channels, ordinary[la.target]),
        "gain left": lambda la: gains(la)[0], "gain right": lambda la: gains(la)[1], "gain": lambda la: torch.minimum(*gains(la)),
        "against gain": lambda la: -torch.minimum(*gains(la)), "joined modes": joined, "against joined modes": lambda la: -joined(la),
        "size against the base": lambda la: la.channels.sigma / torch.linalg.matrix_norm(la.weight, 2),
        "small channels": lambda la: -la.channels.sigma,
    }  # fmt: skip
    for name, pattern in KINDS.items():
        found[f"without {name} first"] = _by_kind(pattern, -1.0)
        found[f"only {name} last"] = _by_kind(pattern, 1.0)
    return found


def _random(layer: Layer) -> Tensor:
    generator = torch.Generator().manual_seed(sum(layer.target.encode()))
    return torch.rand(len(layer.channels), generator=generator)


def _aligned(side: str, energy: float) -> Score:
    return lambda layer: SCORES[side].of(SimpleNamespace(channels=layer.channels, base=layer.subspace(energy)), 0)  # type: ignore[arg-type]


def _weighted_base(metrics: Metrics, energy: float) -> Score:
    """Alignment with the principal subspace of W M^(1/2): what the base does with inputs that occur; v is measured there too."""

    def score(layer: Layer) -> Tensor:
        metric = metrics[layer.target]
        turned = root(metric) @ layer.channels.v
        channels = Channels(layer.channels.u, layer.channels.sigma, turned / turned.norm(dim=0).clamp_min(1e-12))
        left, right = lifts(channels, layer.subspace(energy, metric))
        return 0.5 * (left + right)

    return score


def _input_subspace(metrics: Metrics, energy: float) -> Score:
    """Lift of ||P v||^2, P on the leading eigenvectors of M that hold `energy` of its trace: does the channel read what occurs?"""

    def score(layer: Layer) -> Tensor:
        values, vectors = torch.linalg.eigh(metrics[layer.target].double())
        values, vectors = values.flip(0).clamp_min(0).float(), vectors.flip(1).float()
        k = int(torch.searchsorted(values.cumsum(0), energy * values.sum())) + 1
        k = min(k, len(values) - 1)
        return lift((vectors[:, :k].T @ layer.channels.v).square().sum(0), k / len(values))

    return score


def response(channels: Channels, metric: Tensor) -> Tensor:
    """Mean squared output of each channel, sigma^2 v^T M v, [c]."""
    return channels.sigma.square() * (channels.v * (metric @ channels.v)).sum(0)


def answer(layer: Layer, metrics: Metrics) -> float:
    """Mean squared output of the base's layer, tr(W M W^T)."""
    return float((layer.weight @ metrics[layer.target] * layer.weight).sum())


def gains(layer: Layer) -> tuple[Tensor, Tensor]:
    """||W^T u|| / sigma and ||W v|| / sigma: what the base does in a channel's directions, over what the channel adds, [c] each."""
    channels, w = layer.channels, layer.weight
    return (w.T @ channels.u).norm(dim=0) / channels.sigma, (w @ channels.v).norm(dim=0) / channels.sigma


def joined(layer: Layer) -> Tensor:
    """|u^T W v| / sigma: does the base itself join the channel's two directions? (The ratio that RSZ's `subspace` recipe uses.)"""
    channels = layer.channels
    return (channels.u * (layer.weight @ channels.v)).sum(0).abs() / channels.sigma


def _by_kind(pattern: str, sign: float) -> Score:
    """Layers of a kind before (-1) or after (1) all others; within them small channels go first."""

    def score(layer: Layer) -> Tensor:
        size = layer.channels.sigma / (1 + layer.channels.sigma)
        return size + (sign if re.search(pattern, layer.target) else 0.0)

    return score
