"""The principal subspace of a base layer: what its weight W [m, n] mainly reads and writes.

    U_k, V_k = the top k singular vectors; k = smallest with sum_{i<=k} s_i^2 >= E ||W||_F^2,
    capped at min(m, n) / 4, then at least 8

The eigenvectors of the Gram matrix of the smaller side give one of the two exactly, W the other: several times cheaper than an SVD.
Above LARGE the cap keeps k small against the side, and a randomised subspace iteration is cheaper still.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .channels import precise

LEAST = 8
SHARE = 4
"""k is at most min(m, n) / SHARE."""
LARGE = 4096
OVERSAMPLING = 1.2
ITERATIONS = 8
TOLERANCE = 1e-2
"""Of the iteration: largest residual ||G u - s^2 u|| of a kept vector, in units of the largest s^2; more rounds are made until then."""
MOST_ROUNDS = 4
FLAT = 1.1
"""If s_1^2 is within this factor of the mean s^2, no direction stands out and the subspace is arbitrary."""


@dataclass(frozen=True)
class Subspace:
    """Top singular vectors of a layer."""

    u: Tensor
    """[m, k], orthonormal columns."""
    v: Tensor
    """[n, k]."""
    flat: bool = False
    """The layer's spectrum is flat: alignment means nothing there."""

    @property
    def k(self) -> int:
        return self.u.shape[1]


def principal_subspace(weight: Tensor, energy: float) -> Subspace | None:
    """The subspace of W [m, n] that holds `energy` (0 to 1) of ||W||_F^2; None where it is undefined: W is zero or too small."""
    w = precise(weight)
    if w.shape[0] > w.shape[1]:
        flipped = principal_subspace(w.T, energy)
        return None if flipped is None else Subspace(flipped.v, flipped.u, flipped.flat)
    side, total = w.shape[0], float(w.square().sum())
    if total == 0 or side <= LEAST:
        return None
    squares, vectors = _by_gram(w) if side <= LARGE else _by_iteration(w)
    k = kept_rank(squares, total, side, energy)
    u = vectors[:, :k]
    v = w.T @ u
    return Subspace(u.contiguous(), v / v.norm(dim=0).clamp_min(torch.finfo(v.dtype).tiny), bool(squares[0] < FLAT * total / side))


def kept_rank(squares: Tensor, total: float, side: int, energy: float) -> int:
    """k, from squared singular values in descending order (the largest suffice) and ||W||_F^2."""
    enough = int(torch.searchsorted(squares.cumsum(0), energy * total)) + 1
    return max(min(enough, side // SHARE), LEAST)


def _by_gram(w: Tensor) -> tuple[Tensor, Tensor]:
    """All squared singular values of W, descending, and its left singular vectors; len(W) is the smaller side."""
    squares, vectors = torch.linalg.eigh(w @ w.T)
    return squares.flip(0).clamp_min(0), vectors.flip(1)


def _by_iteration(w: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of them, as many as k can be: subspace iteration from a fixed random start, with the Gram matrix kept."""
    side = len(w)
    wanted = side // SHARE
    generator = torch.Generator(device=w.device).manual_seed(0)
    q = torch.randn(side, min(side, int(OVERSAMPLING * wanted)), generator=generator, device=w.device, dtype=w.dtype)
    gram = w @ w.T
    for _ in range(MOST_ROUNDS):
        for _ in range(ITERATIONS):
            q = torch.linalg.qr(gram @ q).Q
        squares, rotation = torch.linalg.eigh(q.T @ gram @ q)
        squares, vectors = squares.flip(0).clamp_min(0), q @ rotation.flip(1)
        residual = (gram @ vectors[:, :wanted] - vectors[:, :wanted] * squares[:wanted]).norm(dim=0).max()
        if residual <= TOLERANCE * squares[0]:
            break
    return squares, vectors
