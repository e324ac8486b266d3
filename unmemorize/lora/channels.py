"""The spectral channels of a LoRA's update dW = sum_i sigma_i u_i v_i^T, from its factors; dW itself is formed only where it must be.

    linear, conv     dW = c B A               B [m, r], A [r, n], c = alpha / r
    Tucker           A = mid x down           (lora_mid): the rank stays r
    LoHa             dW = c (B1 A1) * (B2 A2) elementwise, a product of factors of rank r1 r2 (`khatri_rao`)
    LoKr             dW = c W1 kron W2        channels are products: (u1 kron u2, s1 s2, v1 kron v2)
    full difference  dW                       by the eigenvectors of its Gram matrix

B = Q_B R_B, A^T = Q_A R_A and the SVD of the small R_B R_A^T give the channels, of all layers of one size at once (`of_stacked`). They
depend on dW alone, not on how it was split into B and A. Factors may have any float type; the work is done in float32 or better.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEGLIGIBLE = 1e-6
"""Channels below this share of the largest singular value are rounding errors of the factorisation."""

ORTHONORMAL = 1e-4
"""Singular vectors are so near to orthonormal, where they come from Gram matrices."""


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
        return self.sigma.shape[0]

    @property
    def energy(self) -> float:
        """||dW||_F^2."""
        return float(self.sigma.square().sum())


def precise(values: Tensor) -> Tensor:
    """In float32 or better."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def of_factors(b: Tensor, a: Tensor, scale: float) -> Channels:
    """Channels of `scale` B A, B [m, r], A [r, n]; at most min(m, n, r). A negative scale goes into u."""
    return of_stacked(b[None], a[None], [scale])[0]


def of_stacked(b: Tensor, a: Tensor, scales: list[float]) -> list[Channels]:
    """Channels of several `scale` B A of one size at once, B [g, m, r], A [g, r, n].

    R_B and R_A come from the Gram matrices of the factors, a few products for all of them; that squares the factors' condition. What single
    precision cannot bear is done in double, and what that cannot either (columns that nearly depend on each other) by QR, one by one.
    """
    b, a = precise(b), precise(a)
    found: dict[int, Channels] = {}
    if b.shape[-1] <= min(b.shape[-2], a.shape[-1]):
        for gram_dtype in dict.fromkeys((b.dtype, torch.float64)):
            left = [i for i in range(len(b)) if i not in found]
            if left:
                part = (b, a) if len(left) == len(b) else (b[left], a[left])
                several = _by_grams(*part, [scales[i] for i in left], gram_dtype)
                found |= {i: one for i, one in zip(left, several, strict=True) if one is not None}
    return [found[i] if i in found else _by_qr(b[i], a[i], scales[i]) for i in range(len(b))]


def _by_grams(b: Tensor, a: Tensor, scales: list[float], gram_dtype: torch.dtype) -> list[Channels | None]:
    """The same; None for those whose condition is too bad for that precision."""
    (r_b, sound_b), (r_a, sound_a) = (_triangles(x, gram_dtype) for x in (b, a.mT))
    sound, core = sound_b & sound_a, r_b @ r_a.mT
    core = torch.where(sound[:, None, None], core, torch.eye(core.shape[-1]).to(core))  # one that is no number would spoil all
    right = torch.linalg.eigh(core.mT @ core).eigenvectors
    sigma, order = torch.linalg.vector_norm(core @ right, dim=-2).sort(dim=-1, descending=True)
    right = right.gather(-1, order[:, None, :].expand_as(right))
    left = core @ right / sigma.clamp_min(torch.finfo(sigma.dtype).tiny)[:, None, :]
    sign = torch.tensor([-1.0 if scale < 0 else 1.0 for scale in scales]).to(left)[:, None, None]
    u = b @ torch.linalg.solve_triangular(r_b, sign * left, upper=True).to(b)
    v = (torch.linalg.solve_triangular(r_a, right, upper=True).to(a).mT @ a).mT  # its rows lie as a file wants them
    scaled = (torch.tensor([abs(scale) for scale in scales]).to(sigma)[:, None] * sigma).to(b)
    counts = torch.where(sound, (scaled > NEGLIGIBLE * scaled[:, :1]).sum(-1), -1).tolist()  # the one wait for the device
    return [None if c < 0 else Channels(u[i, :, :c], scaled[i, :c], v[i, :, :c]) for i, c in enumerate(counts)]


def _triangles(x: Tensor, gram_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """R [g, r, r] in double precision with x = Q R, x [g, m, r]; and which Q = x R^-1 are orthonormal enough, [g].

    Rounding of a Gram matrix shows in Q as many times as D R^-1 is long, squared; D are the lengths of x's columns.
    """
    x_wide = x.to(gram_dtype)
    gram = (x_wide.mT @ x_wide).double()
    r, info = torch.linalg.cholesky_ex(gram, upper=True)
    lengths = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    eye = torch.eye(r.shape[-1]).to(r)
    growth = (lengths[:, :, None] * torch.linalg.solve_triangular(r, eye, upper=True)).square().sum(-2).amax(-1)
    errors = torch.finfo(gram_dtype).eps * growth + torch.finfo(x.dtype).eps * growth.sqrt()
    return r, (info == 0) & (errors < ORTHONORMAL)


def _by_qr(b: Tensor, a: Tensor, scale: float) -> Channels:
    (q_b, r_b), (q_a, r_a) = torch.linalg.qr(b), torch.linalg.qr(a.T)
    u, sigma, vt = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    return _significant(Channels(q_b @ (-u if scale < 0 else u), abs(scale) * sigma, q_a @ vt.T))


def norm_of_product(b: Tensor, a: Tensor) -> Tensor:
    """||B A||_F of B [..., m, r], A [..., r, n], one number each: from the Gram matrices, since ||B A||^2 = <B^T B, A A^T>."""
    b, a = precise(b), precise(a)
    return ((b.mT @ b) * (a @ a.mT)).sum((-2, -1)).clamp_min(0).sqrt().reshape(-1)


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

    `sigma` may lie on the CPU, wherever the channels are. The root is shared out evenly, so that half precision overflows in neither.
    Negative values put their sign into B'.
    """
    kept, u, v = sigma.nonzero().flatten(), channels.u, channels.v.T
    new = sigma[kept]
    root = new.abs().sqrt()
    if kept.shape[0] < sigma.shape[0]:
        place = kept.to(u.device)
        u, v = u.index_select(1, place), v.index_select(0, place)
    return u * (root * new.sign()).to(u), (v * root.to(v)[:, None]).contiguous()


def _significant(channels: Channels) -> Channels:
    if not len(channels):
        return channels
    kept = channels.sigma > NEGLIGIBLE * channels.sigma.max()
    if bool(kept.all()):
        return channels
    return Channels(channels.u[:, kept], channels.sigma[kept], channels.v[:, kept])
