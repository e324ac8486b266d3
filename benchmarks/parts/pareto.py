"""Filters with a knob against each other: wanted effect at the same rate of copies, with an interval; and the plot."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .common import RESAMPLES, ROOT

WIDTH, HEIGHT, MARGIN, LEGEND = 960, 620, 70, 250
INK, PAGE, LINE = "#e8eaee", "#1d2026", "#4a505c"
COLOURS = ("#7fb2dc", "#f2c14e", "#8fd694", "#c39be0", "#ff8f85", "#62d6d1", "#d6a77a", "#b7bcc6", "#e887c4", "#f7f3d6")


@dataclass(frozen=True)
class Outcome:
    """Of one version of several LoRAs: rates over seeds."""

    copied: list[list[float]]
    """By leaking LoRA, by photograph."""
    styled: list[list[float]]
    """By LoRA, by held-out caption."""
    removed: float
    """Mean share of the energy taken out."""
    second: list[list[float]] = field(default_factory=list)
    obeyed: list[list[float]] = field(default_factory=list)
    """By leaking LoRA, by photograph: copies to the second judge; pictures of the scene that its caption asks for."""

    @property
    def memorized(self) -> float:
        return mean(self.copied)

    @property
    def wanted(self) -> float:
        return mean(self.styled)


def mean(rates: list[list[float]]) -> float:
    """Over LoRAs of the mean over captions."""
    return sum(sum(r) / len(r) for r in rates) / len(rates)


def best_wanted(memorized: Tensor, wanted: Tensor, at: Tensor, between: bool = False) -> Tensor:
    """The most wanted effect of a control at a rate of copies no higher than `at`; [knobs, ...], [...] -> [...].

    Among the settings of its knob that were measured, or with `between` on the straight line from one to the next too, in its favour.
    """
    best = torch.where(memorized <= at, wanted, -torch.inf).amax(0)
    for i in range(len(memorized) - 1 if between else 0):
        (low, of_low), (high, of_high) = ((memorized[j], wanted[j]) for j in (i, i + 1))
        swap = low > high
        low, high = torch.where(swap, high, low), torch.where(swap, low, high)
        of_low, of_high = torch.where(swap, of_high, of_low), torch.where(swap, of_low, of_high)
        inside = (low <= at) & (high > at)
        span = (high - low).where(inside, torch.ones_like(low))
        best = torch.where(inside, torch.maximum(best, of_low + (of_high - of_low) * (at - low) / span), best)
    return best


def margin(ours: Outcome, controls: dict[str, list[Outcome]], between: bool = False) -> tuple[dict[str, Any], dict[str, float]]:
    """`pareto_margin` with its interval, and the margin over each control, whose settings come in the order of its knob.

    The interval resamples LoRAs and, within them, captions: the same draw for every filter.
    """
    draws = Draws(ours)
    rate, effect = draws.of(ours)
    margins = {}
    for name, several in controls.items():
        rates, effects = (torch.stack(values) for values in zip(*(draws.of(o) for o in several), strict=True))
        margins[name] = effect - best_wanted(rates, effects, rate, between)
    least = torch.stack(list(margins.values())).amin(0)
    ends = least[1:].quantile(torch.tensor([0.025, 0.975], dtype=least.dtype)).tolist()
    return {"value": float(least[0]), "interval": ends}, {name: float(m[0]) for name, m in margins.items()}


class Draws:
    """RESAMPLES draws of LoRAs and captions; the first is everything once."""

    def __init__(self, like: Outcome) -> None:
        generator = torch.Generator().manual_seed(0)
        self._copied = [_weights(like.copied, generator) for _ in range(RESAMPLES)]
        self._styled = [_weights(like.styled, generator) for _ in range(RESAMPLES)]

    def of(self, outcome: Outcome) -> tuple[Tensor, Tensor]:
        """Rate of copies and wanted effect in every draw, [1 + RESAMPLES] each."""
        copied, styled = _flat(outcome.copied), _flat(outcome.styled)
        first = torch.tensor([outcome.memorized]), torch.tensor([outcome.wanted])
        return (
            torch.cat([first[0].double(), torch.stack(self._copied) @ copied]),
            torch.cat([first[1].double(), torch.stack(self._styled) @ styled]),
        )


def _flat(rates: list[list[float]]) -> Tensor:
    return torch.tensor([r for several in rates for r in several], dtype=torch.float64)


def _weights(rates: list[list[float]], generator: torch.Generator) -> Tensor:
    """Weights of all captions in one draw, adding up to 1."""
    chosen = torch.randint(len(rates), (len(rates),), generator=generator).tolist()
    weights = [torch.zeros(len(several), dtype=torch.float64) for several in rates]
    for i in chosen:
        picks = torch.randint(len(rates[i]), (len(rates[i]),), generator=generator)
        weights[i] += torch.bincount(picks, minlength=len(rates[i])) / len(rates[i]) / len(rates)
    return torch.cat(weights)


def plot(name: str, curves: dict[str, list[tuple[str, Outcome]]]) -> Path:
    """benchmarks/out/NAME.jpg: style left against copies left, a line a filter; up and to the left is better."""
    picture = Image.new("RGB", (WIDTH + LEGEND, HEIGHT), PAGE)
    draw = ImageDraw.Draw(picture)
    small, large = ImageFont.load_default(13), ImageFont.load_default(15)

    def at(outcome: Outcome) -> tuple[float, float]:
        return MARGIN + (WIDTH - 2 * MARGIN) * outcome.memorized, HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * outcome.wanted

    for tick in range(6):
        x, y = MARGIN + (WIDTH - 2 * MARGIN) * tick / 5, HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * tick / 5
        draw.line([(x, MARGIN), (x, HEIGHT - MARGIN)], fill=LINE)
        draw.line([(MARGIN, y), (WIDTH - MARGIN, y)], fill=LINE)
        draw.text((x - 8, HEIGHT - MARGIN + 8), f"{tick / 5:.1f}", fill=INK, font=small)
        draw.text((MARGIN - 30, y - 8), f"{tick / 5:.1f}", fill=INK, font=small)
    draw.text((WIDTH / 2 - 120, HEIGHT - 34), "photographs copied (left is better)", fill=INK, font=large)
    draw.text((MARGIN, 24), "style on held-out captions (up is better)", fill=INK, font=large)
    for row, (curve, points) in enumerate(curves.items()):
        colour = COLOURS[row % len(COLOURS)]
        spots = sorted(((at(o), label) for label, o in points), key=lambda s: s[0])
        draw.line([spot for spot, _ in spots], fill=colour, width=2)
        for (x, y), label in spots:
            draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=colour)
            draw.text((x + 7, y - 16), label, fill=colour, font=small)
        y = MARGIN + 26 * row
        draw.rectangle((WIDTH, y, WIDTH + 14, y + 14), fill=colour)
        draw.text((WIDTH + 22, y - 2), curve, fill=INK, font=large)
    path = ROOT / "benchmarks" / "out" / f"{name}.jpg"
    path.parent.mkdir(exist_ok=True)
    picture.save(path, quality=92)
    return path
