"""From a likeness to an answer: what share of honest pictures is as much like its best match as this one is?

An honest picture's score is its best match over *all* references, as that of a picture in question is: the more references, the better the
best match that chance finds. Split conformal prediction: with k honest scores the rate of false alarms is at most `rate`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Calibration:
    """Best matches of honest pictures, ascending [k]."""

    honest: Tensor

    def percentile(self, score: float) -> float:
        """Share of honest pictures whose best match is less than a score, 0 to 1."""
        return float((self.honest < score).double().mean())

    def threshold(self, rate: float) -> float:
        """Scores above it are called copies: at most `rate` of honest pictures are. ValueError if there are too few to say so."""
        k = len(self.honest)
        rank = math.ceil((k + 1) * (1 - rate))
        if rank > k:
            raise ValueError(
                f"{k} honest pictures cannot tell a false-alarm rate of {rate:g}: at least {least(rate)} are needed, or a rate of "
                f"{1 / (k + 1):.3g} or more."
            )
        return float(self.honest[rank - 1])


def least(rate: float) -> int:
    """How many honest pictures a rate of false alarms needs."""
    return max(1, math.ceil(1 / rate - 1 - 1e-9))


def calibration(best_matches: Tensor) -> Calibration:
    """Of honest pictures' best matches [k], which are numbers. ValueError if there are none."""
    known = best_matches[best_matches.isfinite()].double()
    if not len(known):
        raise ValueError("There is no honest picture to compare with: to this detector all of them are copies. Connect other pictures.")
    return Calibration(known.sort().values)


def best_of_others(similarity: Tensor, same: float, columns: Tensor | None = None) -> Tensor:
    """Each reference's best match among the others, of a [n, m] whose row i stands for column `columns[i]`, or i; NaN where none is left.

    Pairs that are as alike as `same` are copies of each other, no honest pair, and do not count.
    """
    n = len(similarity)
    honest = similarity.masked_fill(similarity >= same, -math.inf)
    honest[torch.arange(n), torch.arange(n) if columns is None else columns] = -math.inf
    best = honest.max(1).values
    return best.masked_fill(best.isinf(), math.nan)
