"""How far a channel lies inside the principal subspace of its base layer.

    alignment  qL_i = ||U_k^T u_i||^2,  qR_i = ||V_k^T v_i||^2
    null       a random direction has qL ~ Beta(k/2, (m-k)/2): mean k/m, variance 2 k (m-k) / (m^2 (m+2)); qR with n for m
    lift       lL = (qL - k/m) / (1 - k/m),  lR likewise

Not |u^T W v|: it is near 0 for a channel that joins two modes of W which W itself does not join.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .channels import Channels
from .subspace import Subspace

DEGENERATE = 1e-3
"""Neighbouring singular values nearer than this (relative) leave their vectors undetermined: such channels share their mean q."""


def shares(vectors: Tensor, basis: Tensor) -> Tensor:
    """||basis^T x||^2 of unit columns x: [m, c], [m, k] -> [c] in [0, 1]; the product is taken in the basis's type."""
    return (basis.T @ vectors.to(basis)).to(vectors).square().sum(0).clamp(max=1.0)


def alignments(channels: Channels, base: Subspace) -> tuple[Tensor, Tensor]:
    """qL and qR of every channel, [c] each; equal within a block of equal singular values. Nothing is waited for."""
    apart = (channels.sigma[:-1] - channels.sigma[1:]) > DEGENERATE * channels.sigma[:-1]
    blocks = torch.cat([apart.new_zeros(min(1, len(channels)), dtype=torch.long), apart.long().cumsum(0)])
    both = torch.stack([shares(channels.u, base.u), shares(channels.v, base.v)])
    sums = torch.zeros_like(both).index_add_(1, blocks, both)
    counts = torch.zeros_like(channels.sigma).index_add_(0, blocks, torch.ones_like(channels.sigma))
    left, right = (sums / counts.clamp_min_(1))[:, blocks]
    return left, right


def null_deviation(m: int, n: int, k: int) -> float:
    """Standard deviation of the score of a random channel."""
    return 0.5 * math.hypot(_lift_deviation(m, k), _lift_deviation(n, k))


def _lift_deviation(m: int, k: int) -> float:
    return math.sqrt(2 * k * (m - k) / (m * m * (m + 2))) / (1 - k / m)


def lift(q: Tensor, expected: float) -> Tensor:
    """q above what a random direction has: 1 inside, 0 random."""
    return (q - expected) / (1 - expected)


def lifts(c: Channels, b: Subspace) -> tuple[Tensor, Tensor]:
    """lL and lR of every channel, [c] each."""
    left, right = alignments(c, b)
    return lift(left, b.k / b.u.shape[0]), lift(right, b.k / b.v.shape[0])
