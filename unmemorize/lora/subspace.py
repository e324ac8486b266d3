"""The principal subspace of a base layer: what its weight W [m, n] mainly reads and writes.

    U_k, V_k = the top k singular vectors; k = smallest with sum_{i<=k} s_i^2 >= E ||W||_F^2,
    capped at min(m, n) / 4, then at least 8

The eigenvectors of the Gram matrix of the smaller side give one of the two, W the other. Where k is small against the side, block Lanczos
(`krylov`) finds just those vectors, several times faster than all of them; its result is checked against W, and what is not exact enough
is decomposed whole. Above LARGE, where that takes long, a randomised subspace iteration does it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .channels import precise
from .krylov import Krylov

LEAST = 8
SHARE = 4
"""k is at most min(m, n) / SHARE."""
SMALL = 384
"""Below this side everything is decomposed."""
FIRST, ROUNDS, MOST_SHARE = 10, (2.9, 3.5), 0.6
"""Of Lanczos: blocks before k is guessed; sizes of the space, in k; its largest size, in the side."""
MARGIN = 1.03
"""So many more vectors than k are refined."""
LEAST_BLOCKS = 12
EDGE, EXACT = 4, 2e-2
"""The EDGE smallest of the kept vectors converge last: their residuals ||G u - s^2 u|| / s^2 must be below EXACT. Shares q are then right
to about 1e-4 (a random direction's vary by 1e-2)."""
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


def principal_subspace(weight: Tensor, energy: float, fast: torch.dtype = torch.float32) -> Subspace | None:
    """The subspace of W [m, n] that holds `energy` (0 to 1) of ||W||_F^2; None where it is undefined: W is zero or too small.

    `fast` is a type in which this machine multiplies much faster, if there is one; the result is certified in single precision.
    """
    w = precise(weight)
    if w.shape[0] > w.shape[1]:
        flipped = principal_subspace(w.T, energy, fast)
        return None if flipped is None else Subspace(flipped.v, flipped.u, flipped.flat)
    side, total = w.shape[0], float(w.norm()) ** 2
    if total == 0 or side <= LEAST:
        return None
    found = _by_lanczos(w, total, energy, fast) if side >= SMALL and w.dtype == torch.float32 else None
    if found is not None:
        return found
    squares, vectors = _by_gram(w) if side <= LARGE else _by_iteration(w)
    u = vectors[:, : kept_rank(squares, total, side, energy)]
    return _of(u, w.T @ u, float(squares[0]), total)


def _of(u: Tensor, image: Tensor, largest: float, total: float) -> Subspace:
    """The subspace of left vectors u [m, k]; their image W^T u gives the right ones."""
    v = image / image.norm(dim=0).clamp_min(torch.finfo(image.dtype).tiny)
    return Subspace(u.contiguous(), v, largest < FLAT * total / len(u))


def _by_lanczos(w: Tensor, total: float, energy: float, fast: torch.dtype) -> Subspace | None:
    """Only the vectors that are wanted; None where they are too many, or not exact enough."""
    side = len(w)
    space = Krylov(w, fast)
    space.extend(FIRST * space.block)
    guess = min(max(space.expected_rank(energy * total), LEAST), side // SHARE)
    for growth in ROUNDS:
        size = max(int(growth * guess), LEAST_BLOCKS * space.block)
        if size > MOST_SHARE * side:
            return None
        space.extend(size)
        squares, coordinates = space.ritz()
        k = kept_rank(squares, total, side, energy)
        found, residual = _refined(w, space, coordinates[:, : int(MARGIN * k) + LEAST], total, energy)
        if residual < EXACT:
            return found
        guess = max(guess, k)
    return None


def _refined(w: Tensor, space: Krylov, coordinates: Tensor, total: float, energy: float) -> tuple[Subspace, float]:
    """The best vectors among some of the space (Rayleigh-Ritz), and the largest residual of the last of them under W itself."""
    basis = space.lifted(coordinates)
    image = space.image(basis)
    squares, turn = torch.linalg.eigh(image.T @ image)
    k = kept_rank(squares.flip(0), total, len(w), energy)
    turn = turn.flip(1)[:, :k]
    u, image = basis @ turn, image @ turn
    return _of(u, image, float(squares[-1]), total), _residual(w, u[:, -EDGE:], image[:, -EDGE:])


def _residual(w: Tensor, u: Tensor, image: Tensor) -> float:
    """Largest ||W W^T u - s^2 u|| / s^2 of some vectors u [m, c] with their images W^T u [n, c]."""
    squares = image.square().sum(0)
    return float(((w @ image - u * squares).norm(dim=0) / squares.clamp_min(torch.finfo(w.dtype).tiny)).max())


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
