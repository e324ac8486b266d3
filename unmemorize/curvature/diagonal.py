"""The diagonal of a Jacobian J = df/dx from a few products with probes v: the mean of v * (J v).

Hutchinson's random probes (Rademacher +-1) leave at coordinate i the noise sum_{j != i} v_i v_j J_ij, of variance
sum_{j != i} J_ij^2 / K after K probes. The Jacobian of a denoiser is strongly local: its large off-diagonal entries belong
to the other channels of the same latent pixel and to the next pixels. `structured` probes are a colouring of the coordinates:
each probe moves one colour alone, so that products between different colours never arise, and only coordinates of one colour
still disturb each other: the sum of J_ij^2 over the others of i's colour. The colouring keeps them apart. Measured on the
demo model, K colours are about as good as two K random probes.

`f` maps x [n, c, ...] to the same shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]

AGREEMENT = 0.25
"""Largest difference of v^T J v by autograd and by differences, in units of ||J v||; the demo model stays below .01 at a step of .02 b."""

ROUNDED = 0.02
"""Of ||J v|| of one prompt's prediction: what half precision makes of a difference at such a step."""

RELATIVE_STEP = 0.1
"""Difference step in units of the noise b, for probes whose mean square is 1, in float16 or better."""
FINE_EPS = torch.finfo(torch.float16).eps
"""A coarser network needs a longer step: the error of a forward difference, rounding / h + curvature h, is least at a step that grows as
the root of the rounding, .28 b in bfloat16. Measured on the demo model, weights and activations rounded: correlation with the float32 map
of a photograph, a template, a scene and a memorized scene .985, .999, .973, .989 at .3 b; .936, .997, .915, .969 at .15 b; .980, .999,
.931, .987 at .8 b."""
NEARNESS, SAME_CHANNEL, REACH = 0.27, 2.0, 3
"""Squared coupling falls to NEARNESS at the next pixel (and as its square at the diagonal one); pixels beyond REACH do not count. Read off
exact Jacobians of the demo model at sigma .2: .28, .11 at the diagonal, .04 two pixels away; within a channel twice the mean."""
ROUNDING_STEPS = 4
"""A step is at least this many roundings of the network's own precision, or it would be lost in them."""


def rademacher(shape: torch.Size | tuple[int, ...], count: int, seed: int) -> Iterator[Tensor]:
    """`count` probes of independent +-1, drawn on the CPU: the same for a seed on every device."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randint(0, 2, shape, generator=generator) * 2 - 1


def structured(shape: torch.Size | tuple[int, ...], count: int, seed: int) -> Iterator[Tensor]:
    """`count` probes [1, c, ..., h, w] with disjoint supports: the coordinates of one colour, +-sqrt(count); their mean square is 1.

    Each coordinate has one random sign, whichever its colour is.
    """
    signs = next(rademacher((1, *shape[1:]), 1, seed)).float()
    colours = colouring(shape, count)
    for k in range(count):
        yield math.sqrt(count) * signs * (colours == k)


def colouring(shape: torch.Size | tuple[int, ...], count: int) -> Tensor:
    """Colour 0 .. count-1 of every coordinate, [1, c, ..., h, w]: (channel + a x + b y) mod count.

    With as many colours as channels or more, no two channels of a pixel share one; `slopes` keeps those of near pixels apart.
    """
    channels, height, width = shape[1], shape[-2], shape[-1]
    a, b = slopes(channels, count)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    channel = torch.arange(channels).reshape(-1, *[1] * (len(shape) - 2))
    return ((channel + a * x + b * y) % count).expand(1, *shape[1:])


def slopes(channels: int, count: int) -> tuple[int, int]:
    """The (a, b) whose colouring has the least crowding: coordinates of one colour, weighted by how strongly such pairs are coupled.

    Coupling fades with the distance in pixels, and is twice as strong within a channel (NEARNESS, SAME_CHANNEL).
    """
    channel = torch.arange(channels)
    pairs = torch.bincount(((channel[:, None] - channel[None]) % count).flatten(), minlength=count).double()
    pairs[0] += (SAME_CHANNEL - 1) * channels
    slope = torch.arange(count)
    crowding = torch.zeros(count, count, dtype=torch.float64)
    for dy in range(-REACH, REACH + 1):
        for dx in range(-REACH, REACH + 1):
            if dx or dy:
                crowding += NEARNESS ** (dx * dx + dy * dy) * pairs[(dx * slope[:, None] + dy * slope[None]) % count]
    best = int(crowding.argmin())
    return best // count, best % count


def probe_step(x: Tensor, b: float, compute_dtype: torch.dtype, relative: float = RELATIVE_STEP) -> Tensor:
    """Difference step [n, 1, ...] for states like x of noise b in a network that computes in `compute_dtype`; by sample."""
    size = x.float().flatten(1).square().mean(1).sqrt().reshape(-1, *[1] * (x.ndim - 1))
    eps = torch.finfo(compute_dtype).eps
    return (ROUNDING_STEPS * eps * size).clamp_min(relative * b * math.sqrt(max(1.0, eps / FINE_EPS)))


def central_difference(f: Function, x: Tensor, probes: Iterable[Tensor], step: float | Tensor, together: int = 1) -> Tensor:
    """diag(df/dx), mean over probes of v * (f(x + h v) - f(x - h v)) / (2 h): two evaluations a probe, no gradient.

    Probes broadcast against x; the sum is kept in float32 or better. `together`: so many probes share a call of f, which is then given
    [together n, c, ...], one copy of the batch behind the other. Raises ValueError without a probe.
    """
    return _mean(x, probes, lambda v: (_at(f, x + step * v) - _at(f, x - step * v)) / (2 * step), together)


def forward_difference(f: Function, x: Tensor, probes: Iterable[Tensor], step: float | Tensor, together: int = 1) -> Tensor:
    """diag(df/dx), mean over probes of v * (f(x + h v) - f(x)) / h: one evaluation a probe and one more.

    Half the cost of central differences. The curvature of f adds noise of order h, which has no preferred sign because v
    has none; float16 rounding forbids a small h. `together` as above. Raises ValueError without a probe.
    """
    middle = _precise(f(x))
    return _mean(x, probes, lambda v: (_at(f, x + step * v) - middle) / step, together)


def reverse_mode(f: Function, x: Tensor, probes: Iterable[Tensor]) -> Tensor:
    """diag(df/dx), mean over probes of v * (J^T v) by autograd: exact products, one evaluation and one backward pass a probe.

    Gradients must be enabled and f differentiable; weights need no gradient. Raises ValueError without a probe.
    """
    leaf = x.detach().clone().requires_grad_(True)
    out = f(leaf)
    return _mean(x, probes, lambda v: _precise(torch.autograd.grad((out * v[0]).sum(), leaf, retain_graph=True)[0])[None], 1)


def gradients_hold(f: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor, step: float | Tensor) -> bool:
    """Does v^T (J^T v) by autograd agree with v^T (J v) by central differences, for one random v?

    `f` gives the function and a part of it, both shaped like x: where two parts nearly cancel, what is left is rounding, and agrees with
    nothing; the part's own ||J v|| says how much that may be. A kernel without a backward pass can drop its share of the gradient
    silently. Gradients must be enabled.
    """
    (v,) = (p.to(x) for p in rademacher(x.shape, 1, 0))
    leaf = x.detach().clone().requires_grad_(True)
    (backward,) = torch.autograd.grad((f(leaf)[0] * v).sum(), leaf)
    with torch.no_grad():
        ahead, behind = (tuple(_precise(part) for part in f(x + sign * step * v)) for sign in (1, -1))
        forward, of_part = ((p - q) / (2 * step) for p, q in zip(ahead, behind, strict=True))
    difference = ((_precise(backward) - forward) * v).flatten(1).sum(1).abs()
    allowed = AGREEMENT * forward.flatten(1).norm(dim=1) + ROUNDED * of_part.flatten(1).norm(dim=1)
    return bool((difference <= allowed).all())


def _mean(x: Tensor, probes: Iterable[Tensor], products: Callable[[Tensor], Tensor], together: int) -> Tensor:
    """Mean of v * products(v), [n, c, ...]; `products` gets some probes [k, 1 or n, c, ...] and gives [k, n, c, ...]."""
    total: Tensor | None = None
    count, remaining = 0, iter(probes)
    while several := list(islice(remaining, together)):
        v = torch.stack([probe.to(x) for probe in several])
        for term in _precise(v) * products(v):
            total = term if total is None else total.add_(term)
        count += len(several)
    if total is None:
        raise ValueError("at least one probe is needed")
    return total / count


def _at(f: Function, states: Tensor) -> Tensor:
    """f of [k, n, c, ...], as one batch."""
    return _precise(f(states.flatten(0, 1))).unflatten(0, states.shape[:2])


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
