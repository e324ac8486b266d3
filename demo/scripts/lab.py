"""A trained lab's training pictures, and what counts as a copy of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..pictures import lab_pictures, read_facts
from .judge import Criterion, compare

LAB = Path(__file__).resolve().parents[1] / "lab"


@dataclass(frozen=True)
class Lab:
    """The demo checkpoint's training pictures and what counts as a copy of them."""

    facts: dict[str, Any]
    pictures: Tensor
    masks: Tensor

    def index(self, caption: str) -> int | None:
        """Which fixed picture a caption belongs to, if any."""
        captions = [f["caption"] for f in self.facts["fixed"]]
        return captions.index(caption) if caption in captions else None

    def copied(self, picture: Tensor) -> int | None:
        """Index of the training picture that a picture [3, h, w] copies, of all fixed ones; None if it copies none."""
        hits = []
        for i, fixed in enumerate(self.facts["fixed"]):
            limit = Criterion(fixed["max_distance"], fixed["min_correlation"])
            distance, correlation = compare(picture[None], self.pictures[i], self.masks[i][None])
            if limit.holds(distance, correlation):
                hits.append((float(distance), i))
        return min(hits)[1] if hits else None


def load_lab(folder: Path = LAB) -> Lab:
    """Read a lab folder's facts and pictures."""
    return Lab(read_facts(folder / "lab.json"), *lab_pictures(folder))
