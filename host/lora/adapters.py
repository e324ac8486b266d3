"""What ComfyUI's weight adapters add to a layer, as spectral channels. Read from the running core's own loaders, so that every spelling
of keys that it knows is known here."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...unmemorize.lora import channels
from ...unmemorize.lora.channels import Channels


class Unsupported(Exception):
    """This adapter passes through unfiltered; the text says why."""


def kind_of(adapter: Any) -> str:
    """lora, loha, lokr, diff, or another name."""
    return adapter[0] if isinstance(adapter, tuple) else str(getattr(adapter, "name", type(adapter).__name__))


def tensors_of(adapter: Any) -> list[Tensor]:
    """Every tensor of an adapter."""
    parts = adapter[1] if isinstance(adapter, tuple) else adapter.weights
    parts = parts if isinstance(parts, list | tuple) else (parts,)
    return [p for p in parts if isinstance(p, Tensor)]


def numbers_of(adapter: Any) -> list[float]:
    """Its alpha, if it has one."""
    return [] if isinstance(adapter, tuple) else [float(w) for w in adapter.weights if isinstance(w, int | float)]


def check_supported(adapter: Any) -> None:
    """Unsupported, with the reason, for what is passed through."""
    kind = kind_of(adapter)
    if kind not in ("lora", "loha", "lokr", "diff"):
        raise Unsupported(f"adapters of the kind {kind} are not filtered")
    if kind == "diff" and (len(adapter[1]) > 1 or adapter[1][0].ndim < 2):
        raise Unsupported("differences of biases and norms, and padded ones, are not filtered")
    if kind != "diff":
        position = {"lora": 4, "loha": 7, "lokr": 8}[kind]
        if adapter.weights[position] is not None:
            raise Unsupported("DoRA: its magnitudes belong to the unfiltered update")
        if kind == "lora" and adapter.weights[5] is not None:
            raise Unsupported("it changes the layer's shape")


def size_of(adapter: Any) -> tuple[int, int]:
    """(m, n) of the dW [m, n] that a supported adapter adds; ValueError if its parts do not fit together."""
    kind, w = kind_of(adapter), adapter[1] if isinstance(adapter, tuple) else adapter.weights
    if kind == "diff":
        return len(w[0]), w[0][0].numel()
    if kind == "lora":
        up, down, mid = w[0].flatten(1), w[1].flatten(1), w[3]
        if up.shape[1] != len(down) or (mid is not None and (mid.ndim < 3 or mid.shape[:2] != (len(down), len(down)))):
            raise ValueError("the two factors have different ranks")
        return len(up), down.shape[1] * (mid[0, 0].numel() if mid is not None else 1)
    if kind == "loha":
        if w[5] is not None:
            return w[0].shape[1], w[1].shape[1] * w[5][0, 0].numel()
        if w[0].shape[1] != len(w[1]) or w[3].shape[1] != len(w[4]) or (len(w[0]), w[1].shape[1]) != (len(w[3]), w[4].shape[1]):
            raise ValueError("its factors do not fit together")
        return len(w[0]), w[1].shape[1]
    first, second = _kronecker_shape(w[0], w[3], w[4], None), _kronecker_shape(w[1], w[5], w[6], w[7])
    return first[0] * second[0], first[1] * second[1]


def _kronecker_shape(whole: Tensor | None, a: Tensor | None, b: Tensor | None, core: Tensor | None) -> tuple[int, int]:
    if whole is not None:
        return len(whole), whole[0].numel()
    if a is None or b is None:
        raise ValueError("a factor is missing")
    return (len(a), b[0].numel()) if core is None else (a.shape[1], b.shape[1] * core[0, 0].numel())


def rank_of(adapter: Any) -> int:
    """Rank of a supported adapter as its file says it, at least 1 if it is sound; a full difference has 0 by definition."""
    kind = kind_of(adapter)
    if kind == "lora":
        return len(adapter.weights[1])
    if kind == "loha":
        return len(adapter.weights[1]) * len(adapter.weights[4])
    return 1 if kind == "lokr" else 0


def channels_of(adapter: Any, device: torch.device) -> Channels:
    """Spectral channels of a supported adapter, alpha / rank included, float32 on a device."""
    kind = kind_of(adapter)
    w = [
        p.to(device, torch.float32) if isinstance(p, Tensor) else p for p in (adapter[1] if isinstance(adapter, tuple) else adapter.weights)
    ]
    if kind == "diff":
        return channels.of_matrix(w[0].flatten(1))
    if kind == "lokr":
        return _lokr(w)
    alpha = adapter.weights[2]
    scale = 1.0 if alpha is None else float(alpha) / len(w[1])
    if kind == "lora":
        down = w[1].flatten(1) if w[3] is None else channels.tucker_down(w[1], w[3])
        return channels.of_factors(w[0].flatten(1), down, scale)
    return _loha(w, scale)


def _loha(w: list[Any], scale: float) -> Channels:
    w1a, w1b, _, w2a, w2b, t1, t2, _ = w
    if t1 is not None:
        first, second = (torch.einsum("ij...,jr,ip->pr...", t, b, a) for t, b, a in ((t1, w1b, w1a), (t2, w2b, w2a)))
        return channels.of_matrix(scale * (first * second).flatten(1))
    if len(w1b) * len(w2b) < min(len(w1a), w1b.shape[1]):
        return channels.of_factors(*channels.khatri_rao(w1a, w1b, w2a, w2b), scale)
    return channels.of_matrix(scale * (w1a @ w1b) * (w2a @ w2b))


def _lokr(w: list[Any]) -> Channels:
    w1, w2, alpha, w1a, w1b, w2a, w2b, core, _ = w
    rank = None
    if w1 is None:
        w1, rank = w1a @ w1b, len(w1b)
    if w2 is None:
        w2, rank = (w2a @ w2b if core is None else torch.einsum("ij...,jr,ip->pr...", core, w2b, w2a)), len(w2b)
    # as in the core: alpha counts only where a factor is itself factored
    scale = 1.0 if alpha is None or rank is None else alpha / rank
    return channels.of_kronecker(w1.flatten(1), w2.flatten(1), scale)
