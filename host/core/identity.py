"""Which model is this? Profiles, masks and calibrations carry the answer, so that they are not used with another."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

TENSORS, VALUES = 16, 64
"""How many weights are looked at, and how many numbers of each."""


def identity(model: Any) -> dict[str, str]:
    """Architecture, kind of prediction, a fingerprint of the unpatched weights, and one of the applied patches ("" = none)."""
    weights = model.get_key_patches("diffusion_model.")
    names = sorted(weights)
    chosen = names[:: max(1, len(names) // TENSORS)]
    return {
        "architecture": type(model.model).__name__,
        "prediction": model.model.model_type.name,
        "weights": _digest([(name, weights[name][0][0]) for name in chosen]),
        "patches": _digest(_patch_tensors(model.patches)) if model.patches else "",
    }


def differences(there: dict[str, str], here: dict[str, str]) -> list[str]:
    """What of two identities differs, in words; applied patches (LoRAs) do not count."""
    words = {"architecture": "architecture", "prediction": "kind of prediction", "weights": "weights"}
    return [
        name if key == "weights" else f"{name} ({there.get(key)} there, {here.get(key)} here)"
        for key, name in words.items()
        if there.get(key) != here.get(key)
    ]


def _patch_tensors(patches: dict[str, list]) -> list[tuple[str, Any]]:
    """A few patched keys with the tensors and strengths of their patches."""
    names = sorted(patches, key=str)
    found: list[tuple[str, Any]] = []
    for name in names[:: max(1, len(names) // TENSORS)]:
        for strength, values, strength_model, *_ in patches[name]:
            weights = getattr(values, "weights", values)
            parts = weights if isinstance(weights, list | tuple) else (weights,)
            found.append((f"{name}/{strength}/{strength_model}/{type(values).__name__}", None))
            found += [(str(name), part) for part in _flat(parts) if isinstance(part, Tensor)]
    return found


def _flat(parts: Any) -> list[Any]:
    return [leaf for part in parts for leaf in (_flat(part) if isinstance(part, list | tuple) else [part])]


def _digest(named: list[tuple[str, Tensor | None]]) -> str:
    """16 hex digits of names, shapes and a few values; the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(name.encode())
        if tensor is not None:
            flat = tensor.detach().flatten()
            picked = flat[:: max(1, len(flat) // VALUES)][:VALUES].to("cpu", torch.float32)
            digest.update(str(tuple(tensor.shape)).encode() + picked.numpy().tobytes())
    return digest.hexdigest()[:16]
