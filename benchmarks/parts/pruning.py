"""Masks of a lab's captions, what they do to its pictures, and what other masks of the same density do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...host.core.weights import Weights
from ...host.neurons.finding import find
from ...host.neurons.masks import StoredMask, pruned
from ...host.neurons.recording import StoredActivity, record
from ...unmemorize.neurons.activity import SIDES, WINDOW
from ...unmemorize.neurons.masks import TOP_SHARE, Mask, find_mask, pack
from .common import log, shared_out
from .detecting import sampling_of
from .guarding import Bench, judged, pictures_of

RECORD_SEED = 0
BISECTIONS = 14

Runs = dict[tuple[str, str], list[dict[str, float]]]
"""(Group, caption) -> for each run: copied, second, obeys, broken, as 0 or 1."""


@dataclass(frozen=True)
class Setting:
    """How a mask is made."""

    place: str = "feed-forward"
    low: float = WINDOW
    share: float = TOP_SHARE
    select_ratio: float = 0.0
    rows: str = "both"
    score: str = "wanda"
    null: str = "empty"


class Masks:
    """Masks of a lab's captions; recordings are made once."""

    def __init__(self, bench: Bench, ordinary: list[str]) -> None:
        self.bench = bench
        self.model = bench.final.model
        self.ordinary = ordinary
        self._recorded: dict[tuple[Any, ...], StoredActivity] = {}

    @torch.inference_mode()
    def activity(self, captions: list[str], place: str, low: float) -> StoredActivity:
        """What neurons do under some captions, at the lab's settings."""
        key = (tuple(captions), place, low)
        if key not in self._recorded:
            condition = self.bench.final.condition
            use, latent = {"seed": RECORD_SEED, **sampling_of(self.bench)}, {"samples": torch.zeros(1, 8, 16, 16)}
            positives = [condition(c) for c in captions]
            self._recorded[key] = record(self.model, positives, condition(""), latent, 1, use, place, low)
        return self._recorded[key]

    def reference(self, how: Setting) -> StoredActivity:
        """The recording that a setting compares with."""
        return self.activity([""] if how.null == "empty" else self.ordinary, how.place, how.low)

    @torch.inference_mode()
    def of(self, captions: list[str], how: Setting) -> StoredMask:
        """The mask of some captions."""
        memorized = self.activity(captions, how.place, how.low)
        return find(self.model, memorized, self.reference(how), how.share, how.select_ratio, how.rows, how.score)

    def weights(self, keys: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """(Key, weight as the sampler uses it), one at a time."""
        known = Weights(self.model)
        return ((key, known.effective(key, self.model.load_device)) for key in keys)

    @torch.inference_mode()
    def without_null(self, captions: list[str], how: Setting, density: float) -> StoredMask:
        """Wanda's score alone, not compared with anything, with the share of the top that gives a density."""
        memorized = self.activity(captions, how.place, how.low)
        sides = SIDES[how.rows]
        weights = list(self.weights(memorized.activity.squares))

        def unasked(weight: Tensor, mem: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
            score = weight.abs() * mem
            return score, torch.full_like(score, -1.0)

        low, high = 0.0, 1.0
        for _ in range(BISECTIONS):
            share = (low + high) / 2
            mask = find_mask(weights, memorized.activity, memorized.activity, share, how.select_ratio, sides, unasked)
            low, high = (share, high) if mask.density() < density else (low, share)
        return StoredMask(mask, self.of(captions, how).facts)

    @torch.inference_mode()
    def control(self, like: StoredMask, choose: Callable[[Tensor, int, torch.Generator], Tensor]) -> StoredMask:
        """A mask with as many weights in each layer as another; `choose` gives each weight of [out, d] a rank."""
        generator = torch.Generator().manual_seed(7)
        bits = {}
        for key, weight in self.weights(like.mask.bits):
            share = like.mask.density_by_layer()[key]
            bits[key] = pack(choose(weight, round(share * weight.shape[1]), generator))
        return StoredMask(Mask(bits, like.mask.shapes), like.facts)


def largest(weight: Tensor, k: int, _: torch.Generator) -> Tensor:
    """The k largest weights of each row."""
    return top(weight.abs(), k)


def random_weights(weight: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k weights of each row, by chance."""
    return top(torch.rand(weight.shape, generator=generator), k)


def random_neurons(weight: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """k whole columns, by chance."""
    return top(torch.rand(1, weight.shape[1], generator=generator), k).expand(weight.shape)


def everything(weight: Tensor, _: int, __: torch.Generator) -> Tensor:
    """All of them."""
    return torch.ones_like(weight, dtype=torch.bool)


def top(score: Tensor, k: int) -> Tensor:
    """The k highest of each row, boolean; none for k = 0."""
    chosen = torch.zeros(score.shape, dtype=torch.bool)
    return chosen.scatter_(1, score.topk(k, dim=1).indices, True) if k else chosen


CONTROLS = {"magnitude": largest, "random_weights": random_weights, "random_neurons": random_neurons, "all_zeroed": everything}


def runs_of(bench: Bench, mask: StoredMask | None, groups: dict[str, list[str]], seeds: list[int], what: str) -> Runs:
    """Copies, adherence and broken pictures of the groups' captions, with a mask over the model or without one."""
    model = bench.final.model if mask is None else pruned(bench.final.model, mask, 1.0)

    def work(part: list[tuple[str, str]]) -> Runs:
        found = {}
        for group, caption in part:
            with torch.inference_mode():
                pictures = pictures_of(bench.final, model, caption, seeds)
            found[group, caption] = [{k: float(v) for k, v in judged(bench, p, caption).items()} for p in pictures]
        log.info("%s: done", what)
        return found

    return shared_out(work, [(g, c) for g, several in groups.items() for c in several])


def column(runs: Runs, key: str, groups: tuple[str, ...], captions: list[str] | None = None) -> list[list[float]]:
    """By caption: one fact of each run."""
    return [[r[key] for r in several] for (g, c), several in runs.items() if g in groups and (captions is None or c in captions)]
