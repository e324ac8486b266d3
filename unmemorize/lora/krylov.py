"""The leading eigenvectors of a Gram matrix by block Lanczos: work in proportion to how many are wanted, not to the layer's whole side.

A random block Q_1 and its images under G = W W^T span a space that soon holds the leading eigenvectors; there G is a small block
tridiagonal matrix T. Each new block is made orthogonal to all before it twice, since once is not enough in single precision.

Products with G may be taken in a shorter float type where that is much faster (`fast`): its rounding is random, so what it mixes are
neighbours that hardly differ. The basis is kept in single precision and the result is certified against W itself, by the caller.

`torch.svd_lowrank` and `torch.lobpcg` find the same, several times slower at the same exactness: benchmarks/eigensolvers.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCKS = 80
"""A block has side / BLOCKS columns, between 16 and 64: narrow ones need a smaller space, wide ones multiply faster."""


class Krylov:
    """A growing orthonormal basis [side, size] and what G is within it."""

    def __init__(self, w: Tensor, fast: torch.dtype) -> None:
        side = len(w)
        self.block = max(16, min(64, side // BLOCKS // 8 * 8))
        self._fast = fast
        self._w = w.to(fast)
        self._gram = gram(self._w)
        self._basis = w.new_empty(0, side)
        self._t = w.new_zeros(0, 0)
        generator = torch.Generator(device=w.device).manual_seed(0)
        start = torch.randn(side, self.block, generator=generator, device=w.device, dtype=w.dtype)
        self._next, self._coupling = torch.linalg.qr(start)

    @property
    def size(self) -> int:
        """Dimension of the space so far."""
        return len(self._basis)

    def extend(self, size: int) -> None:
        """Grow to at least `size` dimensions."""
        blocks = -(-(size - self.size) // self.block)
        if blocks <= 0:
            return
        old, side = self.size, self._basis.shape[1]
        new = old + blocks * self.block
        basis, t = self._basis.new_empty(new, side), self._t.new_zeros(new, new)
        basis[:old], t[:old, :old] = self._basis, self._t
        short = basis if self._fast == basis.dtype else basis.to(self._fast)
        for start in range(old, new, self.block):
            end = start + self.block
            basis[start:end] = short[start:end] = self._next.T
            if start:
                t[start:end, start - self.block : start] = self._coupling
                t[start - self.block : start, start:end] = self._coupling.T
            image = (self._gram @ self._next.to(self._fast)).to(basis.dtype)
            inside = basis[start:end] @ image
            for known in (short[:end], basis[:end]):
                image -= (known.T @ (known @ image.to(known.dtype))).to(image.dtype)
            t[start:end, start:end] = 0.5 * (inside + inside.T)
            self._next, self._coupling = torch.linalg.qr(image)
        self._basis, self._t = basis, t

    def ritz(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues of T, descending, [size], and their vectors in the basis's coordinates, [size, size]."""
        values, vectors = torch.linalg.eigh(self._t)
        return values.flip(0).clamp_min(0), vectors.flip(1)

    def lifted(self, coordinates: Tensor) -> Tensor:
        """[size, c] -> orthonormal columns [side, c]."""
        return self._basis.T @ coordinates

    def image(self, basis: Tensor) -> Tensor:
        """W^T basis, [side, c] -> [n, c]."""
        return (self._w.T @ basis.to(self._fast)).to(basis.dtype)

    def expected_rank(self, energy: float) -> float:
        """How many eigenvalues add up to `energy`, estimated long before they are known.

        The random start makes the squared first coordinates of T's eigenvectors a quadrature: weights of so many eigenvalues each.
        """
        values, vectors = self.ritz()
        counts = vectors[: self.block].square().sum(0) * self._basis.shape[1] / self.block
        held = (counts * values).cumsum(0)
        full = int(torch.searchsorted(held, energy))
        before = float(held[full - 1]) if full else 0.0
        rest = (energy - before) / float(values[full]) if full < len(values) else 0.0
        return float(counts[:full].sum()) + rest


def gram(x: Tensor) -> Tensor:
    """x x^T of [m, n]: the lower triangle by blocks, mirrored."""
    side = len(x)
    step = max(1, -(-side // 4))
    found = x.new_empty(side, side)
    for start in range(0, side, step):
        end = min(start + step, side)
        found[start:end, :end] = x[start:end] @ x[:end].T
        found[:start, start:end] = found[start:end, :start].T
    return found
