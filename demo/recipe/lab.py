"""A trained lab's training pictures, and what counts as a copy of them to either judge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..pictures import lab_pictures, read_facts
from . import card_judge, groups, scene_judge
from .cards import Card, card_of
from .judge import Criterion
from .scenes import Scene, scene_of

LAB = Path(__file__).resolve().parents[1] / "lab"
"""The bundled one."""


@dataclass(frozen=True)
class Lab:
    """Facts of lab.json, training pictures [n, 3, 128, 128] in [0, 1], masks [n, 128, 128] (1 = fixed) and criteria."""

    facts: dict[str, Any]
    pictures: Tensor
    masks: Tensor
    criteria: list[Criterion]

    def captions(self, group: str, degree: str = "strong") -> list[str]:
        """Captions of a group's fixed pictures of one degree."""
        return [f["caption"] for f in self.facts["fixed"] if f["group"] == group and f["degree"] == degree]

    @property
    def clean_cards(self) -> list[str]:
        """Captions of trained cards, with a window and without, that are near to no memory."""
        return far_from_memories(self.facts, [*self.facts["card_captions"], *self.facts["window_captions"]])

    @property
    def clean_scenes(self) -> list[str]:
        """Held-out captions of scenes that are near to no memory."""
        return far_from_memories(self.facts, self.facts["held_out_captions"])

    def index(self, caption: str) -> int | None:
        """Which fixed picture a caption belongs to, if any."""
        captions = [f["caption"] for f in self.facts["fixed"]]
        return captions.index(caption) if caption in captions else None

    def copies(self, pictures: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Which pictures [n, 3, h, w] copy one fixed picture: first judge, second judge, bool [n]."""
        limits, fixed, mask = self.criteria[index], self.pictures[index], self.masks[index][None]
        return limits.holds(pictures, fixed, mask), limits.second(pictures, fixed, mask)

    def copies_any(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Which pictures [n, 3, h, w] copy any fixed picture."""
        found = [self.copies(pictures, i) for i in range(len(self.pictures))]
        return torch.stack([f for f, _ in found]).any(0), torch.stack([s for _, s in found]).any(0)

    def copied(self, picture: Tensor) -> int | None:
        """Index of the fixed picture that a picture [3, h, w] copies, to the first judge; None if it copies none."""
        for i, limits in enumerate(self.criteria):
            if bool(limits.holds(picture[None], self.pictures[i], self.masks[i][None])):
                return i
        return None


def far_from_memories(facts: dict[str, Any], captions: list[str]) -> list[str]:
    """Those of a lab's captions that differ from every memorized one by more than a word: nearer ones call memories up."""
    memories = [item_of(f["caption"]) for f in facts["fixed"]]
    return [c for c in captions if all(groups.apart(item_of(c), m) for m in memories)]


def load_lab(folder: Path = LAB) -> Lab:
    """Read a lab folder's facts and pictures."""
    facts = read_facts(folder / "lab.json")
    criteria = [Criterion(f["max_distance"], f["min_correlation"], f["min_patches"]) for f in facts["fixed"]]
    return Lab(facts, *lab_pictures(folder), criteria)


def is_card(caption: str) -> bool:
    """Is a caption a card's?"""
    return "card" in caption.split()


def item_of(caption: str) -> Scene | Card:
    """What a whole caption asks for."""
    return card_of(caption) if is_card(caption) else scene_of(caption)


def obeys(picture: Tensor, caption: str) -> bool:
    """Does a picture [3, 128, 128] show all that the caption of a scene, or of a card without a window, asks for?"""
    item = item_of(caption)
    if isinstance(item, Scene):
        return scene_judge.read(picture).scene == item
    return not item.window and card_judge.read(picture) == (item.tone, item.pattern)
