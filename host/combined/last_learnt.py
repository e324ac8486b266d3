"""The LoRA that was learnt anew last, kept while ComfyUI runs: another strength, or another node that asks for the same, learns nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import torch
from torch import Tensor

from ..core.identity import identity, shown
from ..core.prompts import digest_of, encoded
from .audit_extras import extras
from .measured_filter import Measured, MeasuredJob, check_settings, filter_by_measuring

PLAIN = (str, int, float, bool, type(None), Tensor)
"""What a prompt may carry beside its embedding to be told from another."""

_last: dict[str, Measured] = {}
"""Digest of a job -> what was found; one at most. What is kept and what is removed are together about three times as large as the LoRA."""


def filter_once(job: MeasuredJob) -> Measured:
    """`filter_by_measuring`, or what the same job found last time. ValueError as there."""
    check_settings(job)
    key = _digest(job)
    found = None if key is None else _last.get(key)
    if found is None:
        _last.clear()
        found = filter_by_measuring(job)
        if key is not None:  # of a LoRA that stayed as it is nothing need be held
            _last[key] = found if found.learnt else dataclasses.replace(found, kept={})
    return dataclasses.replace(found, kept=dict(found.kept if found.learnt else job.tensors), removed=dict(found.removed))


def _digest(job: MeasuredJob) -> str | None:
    """Of all that a job depends on; None if something on the model or on a prompt (a hook) cannot be looked into."""
    beside = extras(job.model)
    prompts = [*job.captions, *job.kept_prompts(), job.reference, ""]
    conditionings = encoded(job.clip, prompts)
    if beside.unseen or not identity(job.model)["values"] or not all(map(_is_plain, conditionings)):
        return None
    facts = {f.name: getattr(job, f.name) for f in dataclasses.fields(job) if f.name not in ("tensors", "model", "clip", "latent")}
    facts |= {
        "lora": _content_of(job.tensors), "model": shown(identity(job.model)), "extras": beside.digests,
        "prompts": [digest_of(c) + repr(_words_beside(c)) for c in conditionings], "size": list(job.latent["samples"].shape[1:]),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _is_plain(conditioning: Any) -> bool:
    return all(isinstance(value, PLAIN) for _, facts in conditioning for value in facts.values())


def _words_beside(conditioning: Any) -> list[list[tuple[str, Any]]]:
    """What `digest_of` does not see: what is no tensor."""
    return [sorted((str(k), v) for k, v in facts.items() if not isinstance(v, Tensor)) for _, facts in conditioning]


def _content_of(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
