"""Noise levels of every family of models, in one notation.

    x = a x0 + b eps,   sigma = b / a

VP: a^2 + b^2 = 1. VE (ComfyUI's eps and v models): a = 1. Flow: a = 1 - b.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class NoiseLevel:
    """One level: how much of a state is picture, how much noise."""

    a: float
    b: float

    @property
    def sigma(self) -> float:
        """Noise over signal."""
        return self.b / self.a
