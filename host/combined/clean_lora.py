"""A LoRA loaded without what it remembers: learnt anew where the model can be asked, else by its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.sd

from ...unmemorize.lora.gates import Settings
from ...unmemorize.pictures.pages import counted
from ..core.prompts import prompt_list
from ..lora import keys, lora_files
from ..lora.filter_file import Job, check_strengths, load_filtered
from ..lora.lora_files import LoRAFile
from ..lora.report import report_of
from .last_learnt import filter_once
from .measured_filter import MeasuredJob, learns
from .measured_report import report as measured_report

KEEP = 0.8
"""Least share of what the LoRA changes for other prompts."""


@dataclass(frozen=True)
class Cleaned:
    """MODEL and CLIP under the cleaned LoRA, the answer in words, and what was done; JSON-able."""

    model: Any
    clip: Any
    words: str
    report: dict[str, Any]


def clean(
    model: Any, clip: Any, name: str, strength: float, captions: str, prompts: str, latent: dict[str, Any] | None, use: dict[str, Any]
) -> Cleaned:  # fmt: skip
    """Load a LoRA of ComfyUI's list, cleaned. `captions` and `prompts`: text, one a line; with them, `latent` (the size) and a CLIP are
    needed."""
    check_strengths(strength, strength)
    several, others = prompt_list(captions), prompt_list(prompts)
    measures = clip is not None and latent is not None
    if (several or others) and not measures:
        missing = "the text encoder (clip)" if clip is None else "an empty latent of your pictures' size"
        raise ValueError(f"To measure what captions and prompts call up, connect {missing}; or leave both empty.")
    if strength == 0:
        return Cleaned(model, clip, "strength 0: the LoRA is off", {})
    file = lora_files.read(name, lora_files.cancelled)
    if not measures or not learns(keys.take_apart(file.tensors, model, clip), model):
        return _by_weights(
            model, clip, file, strength, "" if measures else " A connected text encoder and latent would have the model asked."
        )
    measured = MeasuredJob(file.tensors, model, clip, several, others, "", latent or {}, use, KEEP)
    found = filter_once(measured)
    facts = measured_report(found, measured)
    if not found.learnt and (found.leaks or not several):
        kept = "no prompt told what to keep" if found.reached is None else f"it kept {found.reached:.0%}"
        return _by_weights(model, clip, file, strength, f" Learning it anew failed: {kept}. More prompts like yours help.")
    patched, patched_clip = comfy.sd.load_lora_for_models(model, clip, found.kept, strength, strength)
    return Cleaned(patched, patched_clip, facts["verdict"], facts)


def _by_weights(model: Any, clip: Any, file: LoRAFile, strength: float, why: str) -> Cleaned:
    """Loaded by the default filter; `why` it is not learnt anew, in words."""
    job = Job(model, clip, Settings())
    patched, patched_clip, result = load_filtered(file, strength, strength, job)
    assert result is not None  # the default filter is on
    facts = report_of(result, job)
    stayed = sum(len(several) for several in result.passed.values())
    stays = f" Left as before: {counted(stayed, 'key')} of the file (passed_through)." if stayed else ""
    words = f"{facts['energy_removed']:.0%} of what can be filtered was removed, by its weights alone.{stays}{why}"
    return Cleaned(patched, patched_clip, words, facts | {"verdict": words})
