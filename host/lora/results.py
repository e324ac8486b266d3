"""What a filter leaves: both parts of a LoRA, a verdict on every layer, and what passed through."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ...unmemorize.lora.filtering import Verdict
from ...unmemorize.lora.gates import Settings
from ...unmemorize.lora.scores import SCORES
from ...unmemorize.pictures.pages import counted

NOTHING_JUDGED = "No layer could be judged, so that nothing is removed and all of it stays as it is: see passed_through."
NOTHING_REMOVED = "With these settings nothing is removed: lower the threshold or keep, or choose another score or gate."
FLAT_BASE = "the base's spectrum is flat there: alignment means nothing"


@dataclass(frozen=True)
class LayerResult:
    """One layer of the report and the plot."""

    target: str
    block: str
    text_encoder: bool
    verdict: Verdict


@dataclass
class Filtered:
    """A LoRA in two parts that add up to it."""

    kept: dict[str, Tensor]
    """Under the file's key names, in their order; tensors that did not change are the very same objects."""
    removed: dict[str, Tensor]
    layers: list[LayerResult]
    passed: dict[str, list[str]]
    """Why keys pass through -> the keys."""
    warnings: list[str] = field(default_factory=list)
    subspaces_cached: int = 0


def warnings_of(layers: list[LayerResult], settings: Settings) -> list[str]:
    """What a user should know of the verdicts."""
    if not layers:
        return [NOTHING_JUDGED]
    found = []
    flat = [layer.target for layer in layers if layer.verdict.flat]
    if flat:
        found.append(f"{counted(len(flat), 'layer')}, {flat[0]} the first: {FLAT_BASE}.")
    useless = SCORES[settings.score].useless
    if useless and not any(bool((layer.verdict.scores < 0).any()) for layer in layers):
        found.append(useless)
    elif settings.strength > 0 and not any(layer.verdict.changed for layer in layers):
        found.append(NOTHING_REMOVED)
    return found
