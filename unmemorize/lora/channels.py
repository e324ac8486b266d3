"""The spectral channels of a LoRA's update dW = sum_i sigma_i u_i v_i^T, from its factors; dW itself is formed only where it must be.

    linear, conv     dW = c B A               B [m, r], A [r, n], c = alpha / r
    Tucker           A = mid x down           (lora_mid): the rank stays r
    LoHa             dW = c (B1 A1) * (B2 A2) elementwise, a product of factors of rank r1 r2 (`khatri_rao`)
    LoKr             dW = c W1 kron W2        channels are products: (u1 kron u2, s1 s2, v1 kron v2)
    full difference  dW                       by the eigenvectors of its Gram matrix

B = Q_B R_B, A^T = Q_A R_A and the SVD of the small R_B R_A^T give the channels. They depend on dW alone, not on how it was split into B
and A. Factors may have any float type; the work is done in float32 or better.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEGLIGIBLE = 1e-6
"""Channels below this share of the largest singular value are rounding errors of the factorisation."""

ORTHONORMAL = 1e-4
"""Singular vectors are so near to orthonormal where Q is not formed."""


@dataclass(frozen=True)
class Channels:
    """dW = sum_i sigma_i u_i v_i^T; the scale alpha / r is in sigma, the user's strength is not."""

    u: Tensor
    """[m, c], orthonormal columns."""
    sigma: Tensor
    """[c], descending, positive."""
    v: Tensor
    """[n, c], orthonormal columns."""

    def __len__(self) -> int:
        return len(self.sigma)

    @property
    def energy(self) -> float:
        """||dW||_F^2."""
        return float(self.sigma.square().sum())


def precise(values: Tensor) -> Tensor:
    """In float32 or better."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def of_factors(b: Tensor, a: Tensor, scale: float) -> Channels:
    """Channels of `scale` B A, B [m, r], A [r, n]; at most min(m, n, r). A negative scale goes into u."""
    b, a = precise(b), precise(a).T
    r_b, r_a = (torch.linalg.qr(factor, mode="r").R for factor in (b, a))
    u, sigma, vt = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    sign = -1.0 if scale < 0 else 1.0
    return _significant(Channels(_turned(b, r_b, sign * u), abs(scale) * sigma, _turned(a, r_a, vt.T)))


def norm_of_product(b: Tensor, a: Tensor) -> Tensor:
    """||B A||_F of B [m, r], A [r, n], [1]: from the Gram matrices of both, since ||B A||^2 = <B^T B, A A^T>."""
    b, a = precise(b), precise(a)
    return ((b.T @ b) * (a @ a.T)).sum().clamp_min(0).sqrt().reshape(1)


def _turned(factor: Tensor, r: Tensor, turn: Tensor) -> Tensor:
    """Q `turn` of a factor Q R as factor R^-1 `turn`: forming Q is most of the work. Where R is too near to singular for that, by Q."""
    if r.shape[0] == r.shape[1]:
        solved = torch.linalg.solve_triangular(r, turn, upper=True)
        norm = torch.linalg.vector_norm
        if float(norm(r) * norm(solved)) * torch.finfo(r.dtype).eps < ORTHONORMAL:
            return factor @ solved
    return torch.linalg.qr(factor).Q @ turn


def of_matrix(dw: Tensor) -> Channels:
    """Channels of a whole dW [m, n] by the Gram matrix of its smaller side.

    They add up to dW whatever the rounding, but the u of those below a thousandth of the largest are only nearly orthogonal.
    """
    dw = precise(dw)
    if dw.shape[0] < dw.shape[1]:
        flipped = of_matrix(dw.T)
        return Channels(flipped.v, flipped.sigma, flipped.u)
    v = torch.linalg.eigh(dw.T @ dw).eigenvectors.flip(1)
    image = dw @ v
    sigma = image.norm(dim=0)
    order = sigma.argsort(descending=True)
    sigma, v, image = sigma[order], v[:, order], image[:, order]
    return _significant(Channels(image / sigma.clamp_min(torch.finfo(sigma.dtype).tiny), sigma, v))


def of_kronecker(w1: Tensor, w2: Tensor, scale: float) -> Channels:
    """Channels of `scale` W1 kron W2, W1 [m1, n1], W2 [m2, n2]: every pair of theirs."""
    u1, s1, v1t = torch.linalg.svd(precise(w1), full_matrices=False)
    u2, s2, v2t = torch.linalg.svd(precise(w2), full_matrices=False)
    sigma = abs(scale) * torch.outer(s1, s2).flatten()
    order = sigma.argsort(descending=True)
    order = order[sigma[order] > NEGLIGIBLE * sigma.max()]
    i, j = order // len(s2), order % len(s2)
    sign = -1.0 if scale < 0 else 1.0
    return Channels(sign * _column_products(u1, u2, i, j), sigma[order], _column_products(v1t.T, v2t.T, i, j))


def _column_products(x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Columns x_i kron y_j of the chosen pairs, [len(x) * len(y), c]."""
    return (x[:, None, i] * y[None, :, j]).reshape(len(x) * len(y), len(i))


def khatri_rao(b1: Tensor, a1: Tensor, b2: Tensor, a2: Tensor) -> tuple[Tensor, Tensor]:
    """Factors B [m, r1 r2], A [r1 r2, n] with B A = (B1 A1) * (B2 A2) elementwise (LoHa)."""
    b = (precise(b1)[:, :, None] * precise(b2)[:, None, :]).flatten(1)
    a = (precise(a1)[:, None, :] * precise(a2)[None, :, :]).flatten(0, 1)
    return b, a


def tucker_down(down: Tensor, mid: Tensor) -> Tensor:
    """The second factor A [r, in * kernel] of a conv LoRA with a core: down [r, in], mid [r, r, *kernel]."""
    return torch.einsum("ab...,bi->ai...", precise(mid), precise(down).flatten(1)).flatten(1)


def refactored(channels: Channels, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Factors B' = U sqrt(sigma'), A' = sqrt(sigma') V^T of new singular values [c]; channels that became zero are dropped.

    The root is shared out evenly, so that half precision overflows in neither. Negative values put their sign into B'.
    """
    kept = sigma.nonzero().flatten()
    new = sigma[kept]
    root = new.abs().sqrt()
    return channels.u.index_select(1, kept) * (root * new.sign()), (channels.v.index_select(1, kept) * root).T.contiguous()


def _significant(channels: Channels) -> Channels:
    if not len(channels):
        return channels
    kept = channels.sigma > NEGLIGIBLE * channels.sigma.max()
    if bool(kept.all()):
        return channels
    return Channels(channels.u[:, kept], channels.sigma[kept], channels.v[:, kept])
