"""The diagonal of a Jacobian J = df/dx from a few products with probes v: the mean of v * (J v).

Hutchinson's random probes (Rademacher +-1) leave at coordinate i the noise sum_{j != i} v_i v_j J_ij, of variance
sum_{j != i} J_ij^2 / K after K probes. The Jacobian of a denoiser is strongly local: its large off-diagonal entries belong
to the other channels of the same latent pixel and to the next pixels. `structured` probes therefore share out K classes
among near coordinates and give class k the k-th column of a Hadamard matrix: all products between different classes cancel
exactly, and only coordinates of one class, which lie far apart, still disturb each other.

`f` maps x [n, c, ...] to the same shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]

AGREEMENT = 0.25
"""Largest difference of v^T J v by autograd and by differences, in units of ||J v||; the demo model stays below .01 at a step of .02 b."""

RELATIVE_STEP = 0.1
"""Central-difference step in units of the noise b."""
ROUNDING_STEPS = 4
"""A step is at least this many roundings of the network's own precision, or it would be lost in them."""


def rademacher(shape: torch.Size | tuple[int, ...], count: int, seed: int) -> Iterator[Tensor]:
    """`count` probes of independent +-1, drawn on the CPU: the same for a seed on every device."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randint(0, 2, shape, generator=generator) * 2 - 1


def structured_count(count: int) -> int:
    """The power of two that `structured` rounds a number of probes up to."""
    return 1 << max(count - 1, 0).bit_length()


def structured(shape: torch.Size | tuple[int, ...], count: int, seed: int) -> Iterator[Tensor]:
    """`structured_count(count)` probes [1, c, ..., h, w] that cancel exactly between near coordinates.

    Each coordinate keeps one random sign of its own; its class says which Hadamard column multiplies it.
    """
    order = structured_count(count)
    signs = next(rademacher((1, *shape[1:]), 1, seed))
    classes = coordinate_classes(shape, order)
    for row in hadamard(order):
        yield signs * row[classes]


def coordinate_classes(shape: torch.Size | tuple[int, ...], order: int) -> Tensor:
    """Class 0 .. order-1 of every coordinate, [1, c, ..., h, w]: channels first, then pixels on ever wider lattices."""
    channels, height, width = shape[1], shape[-2], shape[-1]
    per_pixel = min(1 << (channels - 1).bit_length(), order)
    pixel = lattice(height, width, order // per_pixel)
    channel = torch.arange(channels).reshape(-1, *[1] * (len(shape) - 2)) % per_pixel
    return (channel + per_pixel * pixel).expand(1, *shape[1:])


def lattice(height: int, width: int, count: int) -> Tensor:
    """Class 0 .. count-1 (a power of two) of each pixel [h, w]; equal classes lie sqrt(count) or more apart.

    1: all alike; 2: checkerboard; 4: one of each 2 x 2 block; 8: checkerboard of such blocks; and so on.
    """
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    classes = torch.zeros(height, width, dtype=torch.long)
    weight = 1
    while weight < count:
        classes = classes + weight * ((x + y) % 2)
        weight *= 2
        if weight < count:
            classes = classes + weight * (x % 2)
            weight *= 2
        y, x = y // 2, x // 2
    return classes


def hadamard(order: int) -> Tensor:
    """Sylvester's Hadamard matrix [order, order] of +-1; order is a power of two."""
    matrix = torch.ones(1, 1, dtype=torch.long)
    while len(matrix) < order:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)], 0)
    return matrix


def probe_step(x: Tensor, b: float, compute_dtype: torch.dtype, relative: float = RELATIVE_STEP) -> Tensor:
    """Difference step [n, 1, ...] for states like x of noise b in a network that computes in `compute_dtype`; by sample."""
    size = x.float().flatten(1).square().mean(1).sqrt().reshape(-1, *[1] * (x.ndim - 1))
    return (ROUNDING_STEPS * torch.finfo(compute_dtype).eps * size).clamp_min(relative * b)


def central_difference(f: Function, x: Tensor, probes: Iterable[Tensor], step: float | Tensor) -> Tensor:
    """diag(df/dx), mean over probes of v * (f(x + h v) - f(x - h v)) / (2 h): two evaluations a probe, no gradient.

    Probes broadcast against x; the sum is kept in float32 or better. Raises ValueError without a probe.
    """
    return _mean(x, probes, lambda v: (_precise(f(x + step * v)) - _precise(f(x - step * v))) / (2 * step))


def forward_difference(f: Function, x: Tensor, probes: Iterable[Tensor], step: float | Tensor) -> Tensor:
    """diag(df/dx), mean over probes of v * (f(x + h v) - f(x)) / h: one evaluation a probe and one more.

    Half the cost of central differences. The curvature of f adds noise of order h, which has no preferred sign because v
    has none; float16 rounding forbids a small h. Raises ValueError without a probe.
    """
    middle = _precise(f(x))
    return _mean(x, probes, lambda v: (_precise(f(x + step * v)) - middle) / step)


def reverse_mode(f: Function, x: Tensor, probes: Iterable[Tensor]) -> Tensor:
    """diag(df/dx), mean over probes of v * (J^T v) by autograd: exact products, one evaluation and one backward pass a probe.

    Gradients must be enabled and f differentiable; weights need no gradient. Raises ValueError without a probe.
    """
    leaf = x.detach().clone().requires_grad_(True)
    out = f(leaf)
    return _mean(x, probes, lambda v: _precise(torch.autograd.grad((out * v).sum(), leaf, retain_graph=True)[0]))


def gradients_hold(f: Function, x: Tensor, step: float | Tensor) -> bool:
    """Does v^T (J^T v) by autograd agree with v^T (J v) by central differences, for one random v?

    A kernel without a backward pass can drop its part of the gradient silently. Gradients must be enabled.
    """
    (v,) = (p.to(x) for p in rademacher(x.shape, 1, 0))
    leaf = x.detach().clone().requires_grad_(True)
    (backward,) = torch.autograd.grad((f(leaf) * v).sum(), leaf)
    with torch.no_grad():
        forward = (_precise(f(x + step * v)) - _precise(f(x - step * v))) / (2 * step)
    difference = ((_precise(backward) - forward) * v).flatten(1).sum(1).abs()
    return bool((difference <= AGREEMENT * forward.flatten(1).norm(dim=1)).all())


def _mean(x: Tensor, probes: Iterable[Tensor], products: Callable[[Tensor], Tensor]) -> Tensor:
    total: Tensor | None = None
    count = 0
    for probe in probes:
        v = probe.to(x)
        term = _precise(v) * products(v)
        total = term if total is None else total.add_(term)
        count += 1
    if total is None:
        raise ValueError("at least one probe is needed")
    return total / count


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
