"""The LoRA that was learnt anew last, kept while ComfyUI runs: another strength, or another node that asks for the same, learns nothing."""

from __future__ import annotations

import dataclasses

from ..core.identity import identity, shown
from ..core.prompts import encoded
from .audit_extras import extras, looked_into
from .measured_filter import Measured, MeasuredJob, check_settings, filter_by_measuring

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
    """Of all that a job depends on; None if something on the model or on a prompt cannot be looked into."""
    beside = extras(job.model)
    prompts = [*job.captions, *job.kept_prompts(), job.reference, ""]
    settings = {f.name: getattr(job, f.name) for f in dataclasses.fields(job) if f.name not in ("model", "clip", "latent")}
    size = tuple(job.latent["samples"].shape[1:])
    found, seen = looked_into([settings, encoded(job.clip, prompts), shown(identity(job.model)), beside.digests, size])
    return found if seen and not beside.unseen and identity(job.model)["values"] else None
