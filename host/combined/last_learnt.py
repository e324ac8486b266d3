"""The LoRA that was learnt anew last, kept while ComfyUI runs: another strength, or another node that asks for the same, learns nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import torch
from torch import Tensor

from ..core.identity import identity, shown
from ..core.prompts import digest_of, encoded
from .audit_extras import extras
from .measured_filter import Measured, MeasuredJob, filter_by_measuring

PROBE = "a photo of a cat on a mat"
"""What text encoders are told apart by."""

_last: dict[str, Measured] = {}
"""Digest of a job -> what was found; one at most, for its tensors are as large as the LoRA."""


def filter_once(job: MeasuredJob) -> Measured:
    """`filter_by_measuring`, or what the same job found last time. ValueError as there."""
    key = _digest(job)
    found = None if key is None else _last.get(key)
    if found is None:
        _last.clear()
        found = filter_by_measuring(job)
        if key is not None:
            _last[key] = found
    return dataclasses.replace(found, kept=dict(found.kept), removed=dict(found.removed))


def _digest(job: MeasuredJob) -> str | None:
    """Of all that a job depends on; None if a node has put something on the model that cannot be looked into."""
    beside = extras(job.model)
    if beside.unseen or not identity(job.model)["values"]:
        return None
    facts = {f.name: getattr(job, f.name) for f in dataclasses.fields(job) if f.name not in ("tensors", "model", "clip", "latent")}
    facts |= {
        "lora": _content_of(job.tensors), "model": shown(identity(job.model)), "extras": beside.digests,
        "clip": digest_of(encoded(job.clip, [PROBE])[0]), "size": list(job.latent["samples"].shape),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _content_of(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
