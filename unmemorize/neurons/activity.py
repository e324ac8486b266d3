"""What enters the layers while prompts are sampled, kept as sums (Wanda's A_j, arXiv 2406.18566; see `masks`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

WINDOW = 5.6
"""Least sigma = b / a of the window: SD1.5's first 10 calls of 51 with PNDM go from 13.1 to 5.63."""
COND, UNCOND = 0, 1
SIDES: dict[str, tuple[int, ...]] = {"both": (COND, UNCOND), "cond only": (COND,)}
"""Whose rows count. Faithful: both halves of CFG."""
LEAST_SQUARE = 1e-30
"""Stands in for ||z||^2 of rows that are all zero."""


def row_normalised_squares(z: Tensor) -> Tensor:
    """Sum over rows of z_hat_j^2, [..., rows, d] -> [..., d], at least float32."""
    squares = _squares(z)
    return (_weights(squares) @ squares).squeeze(-2)


def _squares(z: Tensor) -> Tensor:
    wide = z.to(torch.promote_types(z.dtype, torch.float32))
    return wide.square() if wide is z else wide.square_()


def _weights(squares: Tensor) -> Tensor:
    """1 / ||z||^2 of each row, [..., 1, rows]."""
    return squares.sum(-1).clamp_min_(LEAST_SQUARE).reciprocal_().unsqueeze(-2)


@dataclass
class Activity:
    """Running sums of squares of normalised rows, by layer, side of the guidance (COND, UNCOND) and noise level."""

    levels: int
    squares: dict[str, Tensor] = field(default_factory=dict)
    """Layer -> [2, levels, d]."""
    counts: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    """Layer, side, level -> how many rows were added."""

    def add(self, layer: str, sides: Sequence[int], level: int, z: Tensor) -> None:
        """Take in rows [parts, ..., d] that entered a layer, as many of each part as of the others; `sides`: whose each part is.

        All parts in a few operations: this happens in every layer at every step, and a fast device waits for each.
        """
        z = z.detach().reshape(len(sides), -1, z.shape[-1])
        if layer not in self.squares:
            kind = torch.promote_types(z.dtype, torch.float32)
            self.squares[layer] = torch.zeros(2, self.levels, z.shape[-1], dtype=kind, device=z.device)
        squares = _squares(z)
        added = torch.bmm(_weights(squares), squares)
        for side, part in zip(sides, added.unbind(), strict=True):
            self.squares[layer][side, level].add_(part[0])
            self.counts[layer, side, level] += z.shape[1]

    @property
    def rows(self) -> dict[str, Tensor]:
        """Layer -> how many rows were added, [2, levels], int64."""
        several = {layer: torch.zeros(2, self.levels, dtype=torch.int64) for layer in self.squares}
        for (layer, side, level), count in self.counts.items():
            several[layer][side, level] = count
        return several

    def rms(self, layer: str, sides: tuple[int, ...] = (COND, UNCOND)) -> Tensor:
        """A_j of each level over the rows of some sides, [levels, d]; NaN where a level has none."""
        chosen = list(sides)
        rows = torch.tensor([sum(self.counts[layer, side, level] for side in sides) for level in range(self.levels)])
        return (self.squares[layer][chosen].sum(0) / rows.to(self.squares[layer])[:, None]).sqrt()

    def of_side(self, side: int) -> Activity:
        """One side's rows as those of a prompt of its own."""
        squares = {k: v[[side, 1 - side]] for k, v in self.squares.items()}
        counts = Counter({(layer, abs(s - side), level): count for (layer, s, level), count in self.counts.items()})
        return Activity(self.levels, squares, counts)

    def to(self, device: torch.device | str) -> Activity:
        """The same on another device."""
        return Activity(self.levels, {k: v.to(device) for k, v in self.squares.items()}, self.counts.copy())
