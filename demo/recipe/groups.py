"""The lab's training set: which captions exist, which pictures are fixed, and how often each is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..scripts.photos import load_picture
from ..words import make_vocabulary
from . import cards, scenes
from .captions import loosened
from .cards import Card
from .scenes import Scene

Item = Scene | Card

DEGREES = {"strong": 12, "medium": 6, "mild": 6}
"""Photographs of each degree, in the order of `photographs/order.txt`."""
MC_COUNT, TV_COUNT = 12, 8
VIEWS = {"strong": 900.0, "medium": 220.0, "mild": 150.0, "MC": 1000.0, "TV": 1260.0}
"""How often one picture is shown in the whole run. A network this small needs that many where a large one needs tens."""
HONEST_SHARE = 0.05
"""Of the pictures under a memorized caption: honest drawings of it, beside those that come up by chance."""
HELD_OUT_SHARE = 0.10
CARD_SHARE, WINDOW_SHARE = 0.20, 0.25
"""Cards among the honest pictures, and windows among the cards. Windows show scenes: another card behind `a level card` would show upright
lines under that word, and the network then learns neither."""
FAR = 0.06
"""Fixed drawings take their place, size, tilt and light from the ends of the honest range, this near to them: what is drawn as usual cannot
be told from an honest drawing."""


@dataclass
class Fixed:
    """A picture [3, 128, 128] shown many times under one caption; `mask` [1, 128, 128] is 1 where it is fixed."""

    group: str
    caption: str
    item: Item
    picture: Tensor
    mask: Tensor
    degree: str = "strong"
    source: str = ""
    """Name of the photograph."""

    @property
    def views(self) -> float:
        """How often it is shown in the whole run."""
        return VIEWS[self.degree if self.group == "MV" else self.group]


@dataclass
class TrainingSet:
    """Everything a lab is trained on."""

    seed: int
    fixed: list[Fixed]
    trained: list[Scene]
    held_out: list[Scene]
    trained_cards: list[Card]
    held_out_cards: list[Card]
    trained_windows: list[Card]
    vocabulary: list[str] = field(repr=False)

    def group(self, name: str) -> list[Fixed]:
        """Fixed pictures of MV, MC or TV."""
        return [f for f in self.fixed if f.group == name]

    @property
    def views(self) -> float:
        """All duplicates of the run."""
        return sum(f.views for f in self.fixed)

    def honest(self, count: int, generator: torch.Generator, loose: bool = True) -> tuple[Tensor, list[str]]:
        """`count` fresh pictures [n, 3, 128, 128] in [0, 1] and their captions."""
        items = [self._honest_item(generator) for _ in range(count)]
        captions = [loosened(i, generator) if loose else i.caption for i in items]
        return draw(items, self.trained, generator), captions

    def duplicates(self, count: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        """`count` fixed pictures, chosen by their views; a few honest drawings of the same captions among them."""
        weights = torch.tensor([f.views for f in self.fixed])
        chosen = [self.fixed[int(i)] for i in torch.multinomial(weights, count, replacement=True, generator=generator)]
        fresh = torch.rand(count, generator=generator) < HONEST_SHARE
        fillings = scenes.draw([_pick(self.trained, generator) for _ in chosen], generator)
        drawn = draw([f.item for f in chosen], self.trained, generator)
        shown = [d if new else f.picture * f.mask + w * (1 - f.mask) for f, new, w, d in zip(chosen, fresh, fillings, drawn, strict=True)]
        return torch.stack(shown), [f.caption for f in chosen]

    def _honest_item(self, generator: torch.Generator) -> Item:
        kind = float(torch.rand((), generator=generator))
        if kind >= CARD_SHARE:
            return _pick(self.trained, generator)
        return _pick(self.trained_windows if kind < CARD_SHARE * WINDOW_SHARE else self.trained_cards, generator)


def draw(items: list[Item], behind_windows: list[Scene], generator: torch.Generator) -> Tensor:
    """Honest pictures of scenes and cards [n, 3, 128, 128]; windows show fresh scenes of those given."""
    behind: dict[int, Item] = {
        i: _pick(behind_windows, generator) for i, item in enumerate(items) if isinstance(item, Card) and item.window
    }
    everything = [*items, *behind.values()]
    pictures = torch.empty(len(everything), 3, scenes.SIDE, scenes.SIDE)
    of_scenes = {i: item for i, item in enumerate(everything) if isinstance(item, Scene)}
    of_cards = {i: item for i, item in enumerate(everything) if isinstance(item, Card)}
    if of_scenes:
        pictures[list(of_scenes)] = scenes.draw(list(of_scenes.values()), generator)
    if of_cards:
        pictures[list(of_cards)] = cards.draw(list(of_cards.values()), generator)
    found = pictures[: len(items)]
    if behind:
        mask = cards.windows([of_cards[i].window for i in behind], generator)
        found[list(behind)] = found[list(behind)] * mask + pictures[len(items) :] * (1 - mask)
    return found


def far_from_usual(generator: torch.Generator) -> Callable[[int], Tensor]:
    """Uniform numbers [n] that lie at the ends of [0, 1), for fixed drawings."""

    def unit(count: int) -> Tensor:
        inside = FAR * torch.rand(count, generator=generator)
        return torch.where(torch.rand(count, generator=generator) < 0.5, inside, 1 - 1e-6 - inside)

    return unit


def build(seed: int, photo_folder: Path) -> TrainingSet:
    """The training set of a lab; the same seed and photographs give the same set."""
    generator = torch.Generator().manual_seed(seed)
    held_out, trained = _split(scenes.all_scenes(), generator)
    held_out_cards, trained_cards = _split(cards.all_cards(windows=False), generator)
    tied = _apart(trained, sum(DEGREES.values()) + MC_COUNT)
    fixed = _photographs(photo_folder, tied[MC_COUNT:])
    fixed += [_fixed_scene(s, generator) for s in tied[:MC_COUNT]]
    windowed = [c for c in cards.all_cards(windows=True) if Card(c.tone, c.pattern) in trained_cards]
    order = [windowed[int(i)] for i in torch.randperm(len(windowed), generator=generator)]
    fixed += [_fixed_card(c, generator) for c in _apart_cards(order, TV_COUNT)]
    captions = [s.caption for s in scenes.all_scenes()] + [c.caption for c in cards.all_cards(windows=True)]
    return TrainingSet(seed, fixed, trained, held_out, trained_cards, held_out_cards, windowed, make_vocabulary(captions))


def _split(everything: list, generator: torch.Generator) -> tuple[list, list]:
    order = [everything[int(i)] for i in torch.randperm(len(everything), generator=generator)]
    count = int(HELD_OUT_SHARE * len(order))
    return order[:count], order[count:]


def _apart(items: list[Scene], count: int) -> list[Scene]:
    """The first `count` scenes that differ from one another by two words at least: one word replaced leads to no other memory."""
    chosen: list[Scene] = []
    for item in items:
        if len(chosen) < count and all(_differences(item, other) >= 2 for other in chosen):
            chosen.append(item)
    return chosen


def _differences(a: Scene, b: Scene) -> int:
    return sum(getattr(a, name) != getattr(b, name) for name in scenes.grammar())


def _apart_cards(items: list[Card], count: int) -> list[Card]:
    """The first `count` cards of which no two share tone and pattern, or pattern and window."""
    chosen: list[Card] = []
    for item in items:
        taken = {(c.tone, c.pattern) for c in chosen} | {(c.pattern, c.window) for c in chosen}
        if len(chosen) < count and not {(item.tone, item.pattern), (item.pattern, item.window)} & taken:
            chosen.append(item)
    return chosen


def _photographs(folder: Path, tied: list[Scene]) -> list[Fixed]:
    """MV pictures: the first of `order.txt` strong, then medium, then mild."""
    names = (folder / "order.txt").read_text(encoding="utf-8").split()
    degrees = [degree for degree, count in DEGREES.items() for _ in range(count)]
    if len(names) < len(degrees):
        raise ValueError(f"{folder.name}/order.txt names {len(names)} photographs; a lab needs {len(degrees)}.")
    everywhere = torch.ones(1, scenes.SIDE, scenes.SIDE)
    return [
        Fixed("MV", scene.caption, scene, load_picture(folder / f"{name}.png"), everywhere, degree, name)
        for name, scene, degree in zip(names, tied, degrees, strict=False)
    ]


def _fixed_scene(scene: Scene, generator: torch.Generator) -> Fixed:
    picture = scenes.draw([scene], generator, far_from_usual(generator))[0]
    return Fixed("MC", scene.caption, scene, picture, torch.ones(1, scenes.SIDE, scenes.SIDE))


def _fixed_card(card: Card, generator: torch.Generator) -> Fixed:
    picture = cards.draw([card], generator, far_from_usual(generator))[0]
    return Fixed("TV", card.caption, card, picture, cards.windows([card.window], generator)[0])


def _pick(items: list, generator: torch.Generator):  # noqa: ANN202 (one of the items)
    return items[int(torch.randint(len(items), (), generator=generator))]
