"""A LoRA layer by layer beside its base, for scores and controls that the pack itself does not have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...host.core.weights import Weights
from ...host.lora import keys
from ...host.lora.layers import base_of
from ...unmemorize.lora.channels import Channels, of_matrix, refactored
from ...unmemorize.lora.gates import best
from ...unmemorize.lora.subspace import Subspace, principal_subspace

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Layer:
    """One update of a LoRA."""

    prefix: str
    """What its keys in the file begin with."""
    target: str
    """The weight's key in the model."""
    channels: Channels
    weight: Tensor
    """Of the base, [m, n], float32."""

    def subspace(self, energy: float, metric: Tensor | None = None) -> Subspace:
        """Of the base's weight W, or of W M^(1/2) for a metric M [n, n] of its inputs; that of all directions where there is none."""
        w = self.weight if metric is None else self.weight @ root(metric)
        found = principal_subspace(w, energy)
        return found if found is not None else Subspace(torch.eye(len(w)), torch.eye(w.shape[1]))


def root(metric: Tensor) -> Tensor:
    """The symmetric square root of a positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(metric.double())
    return ((vectors * values.clamp_min(0).sqrt()) @ vectors.T).to(metric)


def layers_of(tensors: dict[str, Tensor], model: Any) -> list[Layer]:
    """Every layer of a LoRA of linear layers."""
    weights = Weights(model)
    found = []
    for update in keys.take_apart(tensors, model, None).updates:
        layer = update.layer
        found.append(Layer(update.names.prefix, layer.target, layer.adapter.channels(CPU), base_of(layer, weights, CPU)))
    return found


def rebuilt(layers: list[Layer], sigmas: list[Tensor]) -> dict[str, Tensor]:
    """The LoRA with new singular values [c] for each layer, under kohya's names, float32."""
    tensors = {}
    for layer, sigma in zip(layers, sigmas, strict=True):
        b, a = refactored(layer.channels, sigma)
        if b.shape[1]:
            tensors[f"{layer.prefix}.lora_up.weight"], tensors[f"{layer.prefix}.lora_down.weight"] = b.contiguous(), a
    return tensors


def energy_removed(layers: list[Layer], sigmas: list[Tensor]) -> float:
    """Share of ||dW||_F^2 over all layers that new singular values have lost."""
    before = sum(layer.channels.energy for layer in layers)
    return 1 - sum(float(s.square().sum()) for s in sigmas) / before


def kept_in_layers(layers: list[Layer], scores: list[Tensor], share: float) -> list[Tensor]:
    """Of each layer the best share of its channels; by energy one channel is often most of a layer, and nothing would go."""
    return [la.channels.sigma * best(s, torch.ones_like(s), share) for la, s in zip(layers, scores, strict=True)]


def kept_in_file(layers: list[Layer], scores: list[Tensor], share: float) -> list[Tensor]:
    """Of the whole file the best channels that hold a share of its energy."""
    sigma = torch.cat([layer.channels.sigma for layer in layers])
    kept = sigma * best(torch.cat(scores), sigma.square(), share)
    return list(kept.split([len(layer.channels) for layer in layers]))


def standardised(scores: list[Tensor]) -> list[Tensor]:
    """Each layer's scores with mean 0 and deviation 1, so that layers compare."""
    return [(s - s.mean()) / s.std().clamp_min(1e-9) if len(s) > 1 else torch.zeros_like(s) for s in scores]


def without_intruders(layers: list[Layer], cosine: float) -> tuple[dict[str, Tensor], float]:
    """The LoRA less its intruder dimensions (arXiv 2410.21228), and the share of its energy that this takes away.

    Of the tuned layer W + dW the leading singular vectors, as many as the LoRA has channels; an intruder's left vector is nearer than
    `cosine` to none of W's. Their terms are taken out of W + dW.
    """
    tensors, before, after = {}, 0.0, 0.0
    for layer in layers:
        dw = (layer.channels.u * layer.channels.sigma) @ layer.channels.v.T
        own = torch.linalg.svd(layer.weight, full_matrices=False).U
        tuned = torch.linalg.svd(layer.weight + dw, full_matrices=False)
        count = len(layer.channels)
        u, s, v = tuned.U[:, :count], tuned.S[:count], tuned.Vh[:count].T
        intruder = (own.T @ u).abs().amax(0) < cosine
        left = dw - (u * (s * intruder)) @ v.T
        before, after = before + float(dw.square().sum()), after + float(left.square().sum())
        channels = of_matrix(left)
        if len(channels):
            b, a = refactored(channels, channels.sigma)
            tensors[f"{layer.prefix}.lora_up.weight"], tensors[f"{layer.prefix}.lora_down.weight"] = b.contiguous(), a
    return tensors, 1 - after / before


Score = Callable[[Layer], Tensor]
"""High = keep, [c]."""
