"""What Filter LoRA by Measuring says of its work: in words, in numbers, and in the file's metadata."""

from __future__ import annotations

import math
from typing import Any

from ..core.identity import identity, shown
from ..lora.report import TOOL, earlier
from .measured_filter import Measured, MeasuredJob

METHOD = "learnt anew (ours)"


def report(found: Measured, job: MeasuredJob) -> dict[str, Any]:
    """What was done and what it cost; JSON-able."""
    return {
        "method": METHOD,
        "verdict": _in_words(found),
        "leak_left": round(found.leak_left, 4) if found.leaks else None,
        "prompts_kept": round(found.prompts_kept, 4),
        "prompts_not_kept": found.odd_prompts,
        "agreement": [_number(value) for value in found.agreements],
        "agreement_limit": round(found.limit, 4),
        "groups": found.groups,
        "evaluations": found.evaluations,
        "settings": job.use
        | {"keep": job.keep, "learning_steps": job.learning_steps, "captions": len(job.captions), "prompts": len(job.kept_prompts()),
           "everyday": not job.prompts},
        "passed_through": found.passed,
    }  # fmt: skip


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _in_words(found: Measured) -> str:
    several, leaking = len(found.agreements), sum(value < found.limit for value in found.agreements)
    if several and all(math.isnan(value) for value in found.agreements):
        return "The LoRA changes nothing in the runs of these captions: there was nothing to judge."
    if several and not leaking:
        return "None of these captions moves the LoRA in a way of its own: nothing was removed. It may still remember others."
    if found.reached is None:
        return (
            "Nothing was removed: under this LoRA every prompt asks for something else than without it, so that what to keep cannot be "
            "told from what leaks. For a trigger word write it alone as reference; or give other prompts."
        )
    if not found.learnt:
        return (
            f"Nothing was removed: what was learnt anew keeps {found.reached:.0%} of what the LoRA changes for the prompts, which is too "
            "little. More learning steps or more prompts keep more."
        )
    said = [f"Of what it changes for the prompts {found.prompts_kept:.0%} is left."]
    if found.odd_prompts:
        said.append(f"{found.odd_prompts} of the prompts are drawn towards something of their own, and are not kept.")
    stayed = sum(len(keys) for keys in found.passed.values())
    if stayed:
        said.append(f"{stayed} keys of the file stay as they were (passed_through).")
    said.append("Whether no copy comes any more only pictures show: draw them, or use LoRA Leak Probe.")
    if not several:
        return " ".join(["Learnt anew from the prompts alone.", *said])
    return " ".join([f"{leaking} of {several} captions leak. Of what the LoRA does for them alone {found.leak_left:.0%} is left.", *said])


def provenance(info: dict[str, Any] | None, job: MeasuredJob, found: Measured) -> dict[str, Any]:
    """Settings, source and base model, for the metadata of a filtered file; no caption."""
    info = info or {}
    return {
        "tool": TOOL, "method": METHOD, "keep": job.keep, "learning_steps": job.learning_steps,
        "source": {k: info.get(k, "") for k in ("name", "sha256")}, "base": shown(identity(job.model)) | {"patches": ""},
        **earlier(info),
    }  # fmt: skip
