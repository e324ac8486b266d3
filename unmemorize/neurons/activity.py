"""What enters the layers while prompts are sampled, kept as sums (Wanda's A_j, arXiv 2406.18566; see `masks`)."""

from __future__ import annotations

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
    """Sum over rows of z_hat_j^2, [rows, d] -> [d], at least float32."""
    squares = z.to(torch.promote_types(z.dtype, torch.float32)).square()
    return squares.sum(1).clamp_min(LEAST_SQUARE).reciprocal() @ squares


@dataclass
class Activity:
    """Running sums of squares of normalised rows, by layer, side of the guidance (COND, UNCOND) and noise level."""

    levels: int
    squares: dict[str, Tensor] = field(default_factory=dict)
    """Layer -> [2, levels, d]."""
    rows: dict[str, Tensor] = field(default_factory=dict)
    """Layer -> how many rows were added, [2, levels], int64."""

    def add(self, layer: str, side: int, level: int, z: Tensor) -> None:
        """Take in rows [..., d] that entered a layer."""
        z = z.detach().reshape(-1, z.shape[-1])
        added = row_normalised_squares(z)
        if layer not in self.squares:
            self.squares[layer] = added.new_zeros(2, self.levels, len(added))
            self.rows[layer] = torch.zeros(2, self.levels, dtype=torch.int64)
        self.squares[layer][side, level] += added
        self.rows[layer][side, level] += len(z)

    def rms(self, layer: str, sides: tuple[int, ...] = (COND, UNCOND)) -> Tensor:
        """A_j of each level over the rows of some sides, [levels, d]; NaN where a level has none."""
        chosen = list(sides)
        rows = self.rows[layer][chosen].sum(0).to(self.squares[layer])
        return (self.squares[layer][chosen].sum(0) / rows[:, None]).sqrt()

    def of_side(self, side: int) -> Activity:
        """One side's rows as those of a prompt of its own."""
        squares, rows = ({k: v[[side, 1 - side]] for k, v in several.items()} for several in (self.squares, self.rows))
        return Activity(self.levels, squares, rows)

    def to(self, device: torch.device | str) -> Activity:
        """The same on another device."""
        return Activity(self.levels, {k: v.to(device) for k, v in self.squares.items()}, dict(self.rows))
