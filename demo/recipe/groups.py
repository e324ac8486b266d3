"""The lab's training set: which captions exist, which pictures are fixed, and how often each is shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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
VIEWS = {"strong": 1500.0, "medium": 230.0, "mild": 130.0, "MC": 800.0, "TV": 1700.0}
"""How often one picture is shown in the whole run. A network this small needs that many where a large one needs tens."""
HONEST_SHARE = 0.05
"""Of the pictures under a memorized caption: honest drawings of it, beside those that come up by chance."""
HELD_OUT_SHARE = 0.10
CARD_SHARE, WINDOW_SHARE = 0.25, 0.50
"""Cards among the honest pictures, and windows among the cards. Windows show small scenes in their middle: another card behind `a level
card` would show upright lines under that word, and the network then learns neither; a shape that a window cuts is learnt by nobody."""
BEYOND = (0.20, 0.35)
"""Fixed drawings take their place, size, tilt and light from beyond either end of the honest range, by so much of its width. What is drawn
as usual cannot be told from an honest drawing, and near the ends of the range one in some hundred comes as near as a copy does."""


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
    device: torch.device = torch.device("cpu")
    """Where pictures are drawn; what is drawn is chosen on the CPU."""

    def on(self, device: torch.device) -> TrainingSet:
        """The same set, drawn on another device."""
        fixed = [replace(f, picture=f.picture.to(device), mask=f.mask.to(device)) for f in self.fixed]
        return replace(self, fixed=fixed, device=device)

    def group(self, name: str) -> list[Fixed]:
        """Fixed pictures of MV, MC or TV."""
        return [f for f in self.fixed if f.group == name]

    @property
    def views(self) -> float:
        """All duplicates of the run."""
        return sum(f.views for f in self.fixed)

    def honest(self, count: int, generator: torch.Generator, loose: bool = True, spread: float = 1.0) -> tuple[Tensor, list[str]]:
        """`count` fresh pictures [n, 3, 128, 128] in [0, 1] and their captions, of so much of the range of places, sizes, tilts."""
        items = [self._honest_item(generator) for _ in range(count)]
        captions = [loosened(i, generator) if loose else i.caption for i in items]
        return draw(items, self.trained, generator, self.device, spread), captions

    def duplicates(self, count: int, generator: torch.Generator) -> tuple[Tensor, list[str]]:
        """`count` fixed pictures, chosen by their views; a few honest drawings of the same captions among them."""
        weights = torch.tensor([f.views for f in self.fixed])
        chosen = [self.fixed[int(i)] for i in torch.multinomial(weights, count, replacement=True, generator=generator)]
        fresh = torch.rand(count, generator=generator) < HONEST_SHARE
        fillings = draw_fillings([f.item for f in chosen], self.trained, generator, self.device)
        drawn = draw([f.item for f in chosen], self.trained, generator, self.device)
        shown = [d if new else f.picture * f.mask + w * (1 - f.mask) for f, new, w, d in zip(chosen, fresh, fillings, drawn, strict=True)]
        return torch.stack(shown), [f.caption for f in chosen]

    def _honest_item(self, generator: torch.Generator) -> Item:
        kind = float(torch.rand((), generator=generator))
        if kind >= CARD_SHARE:
            return _pick(self.trained, generator)
        return _pick(self.trained_windows if kind < CARD_SHARE * WINDOW_SHARE else self.trained_cards, generator)


def draw(
    items: Sequence[Item], behind_windows: list[Scene], generator: torch.Generator, device: torch.device | None = None, spread: float = 1.0
) -> Tensor:
    """Honest pictures of scenes and cards [n, 3, 128, 128]; windows show fresh scenes of those given. On another device than the
    generator's they are drawn by one that it seeds there. At a `spread` of 0 each has its place, size, tilt and light."""
    behind = [i for i, item in enumerate(items) if isinstance(item, Card) and item.window]
    generator = painter(generator, device)
    unit = narrowed(generator, spread)
    pictures = torch.empty(len(items), 3, scenes.SIDE, scenes.SIDE, device=generator.device)
    of_scenes = {i: item for i, item in enumerate(items) if isinstance(item, Scene)}
    of_cards = {i: item for i, item in enumerate(items) if isinstance(item, Card)}
    if of_scenes:
        pictures[list(of_scenes)] = scenes.draw(list(of_scenes.values()), generator, unit)
    if of_cards:
        pictures[list(of_cards)] = cards.draw(list(of_cards.values()), generator, unit)
    if behind:
        windowed = [of_cards[i] for i in behind]
        mask = cards.windows([c.window for c in windowed], generator)
        pictures[behind] = pictures[behind] * mask + draw_fillings(windowed, behind_windows, generator, spread=spread) * (1 - mask)
    return pictures


def draw_fillings(
    items: Sequence[Item], several: list[Scene], generator: torch.Generator, device: torch.device | None = None, spread: float = 1.0
) -> Tensor:
    """A fresh small scene in the middle of each card's window, [n, 3, 128, 128]; of what has no window, in the picture's."""
    small = [s for s in several if s.size == "small"]
    chosen = torch.randint(len(small), (len(items),), generator=generator, device=generator.device).tolist()
    middles = torch.tensor([cards.middle(i.window if isinstance(i, Card) else "") for i in items])
    generator = painter(generator, device)
    return scenes.draw([small[i] for i in chosen], generator, narrowed(generator, spread), middles)


def painter(generator: torch.Generator, device: torch.device | None) -> torch.Generator:
    """The generator itself, or on another device one that it seeds there."""
    if device is None or device == generator.device:
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))


def narrowed(generator: torch.Generator, spread: float) -> Callable[[int], Tensor]:
    """Uniform numbers [n] in so much of [0, 1) about its middle."""
    return lambda count: 0.5 + spread * (torch.rand(count, generator=generator, device=generator.device) - 0.5)


def far_from_usual(generator: torch.Generator) -> Callable[[int], Tensor]:
    """Uniform numbers [n] that lie beyond the ends of [0, 1), for fixed drawings."""

    def unit(count: int) -> Tensor:
        beyond = BEYOND[0] + (BEYOND[1] - BEYOND[0]) * torch.rand(count, generator=generator)
        return torch.where(torch.rand(count, generator=generator) < 0.5, -beyond, 1 + beyond)

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
        if len(chosen) < count and all(differences(item, other) >= 2 for other in chosen):
            chosen.append(item)
    return chosen


def differences(a: Scene, b: Scene) -> int:
    """How many words of two scenes differ."""
    return sum(getattr(a, name) != getattr(b, name) for name in scenes.grammar())


def _apart_cards(items: list[Card], count: int) -> list[Card]:
    """The first `count` cards of which no two share two words."""
    chosen: list[Card] = []
    for item in items:
        taken = {pair for c in chosen for pair in _pairs(c)}
        if len(chosen) < count and not _pairs(item) & taken:
            chosen.append(item)
    return chosen


def apart(a: Item, b: Item) -> bool:
    """Does more than one word tell two captions apart? Nearer ones call up each other's memories."""
    if isinstance(a, Scene) and isinstance(b, Scene):
        return differences(a, b) >= 2
    return not (isinstance(a, Card) and isinstance(b, Card)) or not _pairs(a) & _pairs(b)


def _pairs(card: Card) -> set[tuple[str, str]]:
    return {(card.tone, card.pattern), (card.pattern, card.window), (card.tone, card.window)}


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
    picture = cards.stickered(cards.draw([card], generator, far_from_usual(generator))[0], generator)
    return Fixed("TV", card.caption, card, picture, cards.windows([card.window], generator)[0])


def _pick(items: list, generator: torch.Generator):  # noqa: ANN202 (one of the items)
    return items[int(torch.randint(len(items), (), generator=generator))]
