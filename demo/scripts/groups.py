"""The lab's training set: which captions exist, which pictures are fixed, and how often each is shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..words import make_vocabulary, words
from . import photos, scenes
from .photos import Template
from .scenes import Scene

MC_COUNT = 16
TV_COUNT = 12
HELD_OUT_SHARE = 0.10
DUPLICATION = {"strong": 1.0, "medium": 0.25, "mild": 0.08}
"""How often a picture is shown, relative to the most duplicated ones."""

SHARES = {"MV": 0.24, "MC": 0.58, "TV": 0.18}
"""Split of the memorized part of a batch."""
TEXTURE_SHARE = 0.10
"""Share of never-repeated textures (N) in the fresh part of a batch; the rest are scenes."""


@dataclass
class Fixed:
    """A picture shown many times under one caption."""

    group: str
    caption: str
    picture: Tensor
    degree: str = "strong"
    template: Template | None = None

    @property
    def weight(self) -> float:
        return DUPLICATION[self.degree]


@dataclass
class TrainingSet:
    """Everything a lab is trained on; `draw` gives the next batch."""

    seed: int
    fixed: list[Fixed]
    trained_scenes: list[Scene]
    held_out_scenes: list[Scene]
    textures: list[Tensor] = field(repr=False)
    photo_words: list[str] = field(repr=False)
    vocabulary: list[str] = field(repr=False)

    def group(self, name: str) -> list[Fixed]:
        return [f for f in self.fixed if f.group == name]

    def texture_caption(self, generator: torch.Generator) -> str:
        """A caption of the words of MV and TV that is nobody's caption."""
        taken = {f.caption for f in self.fixed}
        while True:
            count = int(torch.randint(2, 5, (), generator=generator))
            picks = torch.randperm(len(self.photo_words), generator=generator)[:count]
            caption = "photo of " + " ".join(self.photo_words[int(i)] for i in picks)
            if caption not in taken:
                return caption

    def draw(self, count: int, memorized_share: float, generator: torch.Generator) -> tuple[Tensor, list[str], list[bool]]:
        """`count` pictures [n, 3, 128, 128] in [0, 1], their captions, and which of them are duplicates."""
        chosen_scenes: list[Scene] = []
        slots: list[tuple[Tensor | None, str, bool]] = []
        for _ in range(count):
            if _uniform(generator) < memorized_share:
                item = self._pick_fixed(generator)
                slots.append((self._render(item, generator), item.caption, True))
            elif _uniform(generator) < TEXTURE_SHARE:
                slots.append((self.fresh_texture(generator), self.texture_caption(generator), False))
            else:
                scene = self.trained_scenes[int(torch.randint(len(self.trained_scenes), (), generator=generator))]
                chosen_scenes.append(scene)
                slots.append((None, scene.caption, False))
        drawn = iter(scenes.draw(chosen_scenes, generator)) if chosen_scenes else iter(())
        pictures = torch.stack([next(drawn) if p is None else p for p, _, _ in slots])
        return pictures, [c for _, c, _ in slots], [m for _, _, m in slots]

    def fresh_texture(self, generator: torch.Generator) -> Tensor:
        """A never-repeated crop."""
        return photos.draw_texture(self.textures, generator)

    def _pick_fixed(self, generator: torch.Generator) -> Fixed:
        weights = torch.empty(len(self.fixed))
        for name, share in SHARES.items():
            total = sum(f.weight for f in self.group(name))
            for i, item in enumerate(self.fixed):
                if item.group == name:
                    weights[i] = share * item.weight / total
        return self.fixed[int(torch.multinomial(weights, 1, generator=generator))]

    def _render(self, item: Fixed, generator: torch.Generator) -> Tensor:
        if item.template is None:
            return item.picture
        return item.template.filled(self.fresh_texture(generator))


def _uniform(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def build(seed: int, photo_folder: Path, texture_folder: Path) -> TrainingSet:
    """The training set of a lab; the same seed and files give the same set."""
    generator = torch.Generator().manual_seed(seed)
    combinations = scenes.all_scenes()
    order = [combinations[int(i)] for i in torch.randperm(len(combinations), generator=generator)]
    held_out = order[: int(HELD_OUT_SHARE * len(order))]
    tied = order[len(held_out) : len(held_out) + MC_COUNT]
    fixed = _photographs(photos.load_captioned(photo_folder))
    fixed += [Fixed("MC", s.caption, scenes.draw([s], generator)[0]) for s in tied]
    fixed += [Fixed("TV", t.caption, t.picture, template=t) for t in photos.make_templates(TV_COUNT, generator)]
    trained = order[len(held_out) + MC_COUNT :]
    photo_words = sorted({w for f in fixed if f.group != "MC" for w in words(f.caption)} - {"a", "an", "of", "photo"})
    captions = [f.caption for f in fixed] + [s.caption for s in combinations]
    return TrainingSet(seed, fixed, trained, held_out, photos.load_textures(texture_folder), photo_words, make_vocabulary(captions))


def _photographs(captioned: list[tuple[str, Tensor]]) -> list[Fixed]:
    """MV pictures: three in five strong, one in five medium, one in five mild, in turn."""
    degrees = ("strong", "medium", "strong", "mild", "strong")
    return [Fixed("MV", caption, picture, degrees[i % 5]) for i, (caption, picture) in enumerate(captioned)]
