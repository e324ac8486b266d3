"""Coordinate-wise curvature differences: where in a latent the model memorized (arXiv 2605.26756).

Notation: state x = a x0 + b eps with noise level sigma = b / a, denoiser D(x) = E[x0 | x]. The condition
c is the prompt, ~ the baseline (the empty prompt, or a less-trained model). All formulas are written on
D, so noise, v and flow prediction need no special case; only (a, b) differs:

    curvature           diag(-H)_i = (1 - a dD_ii) / b^2
    dh (Eq. 1, 2)       diag(-H_c) - diag(-H~) = a (dD~ - dD_c)_ii / b^2
    ds (Eq. 5, 6)       (s_c - s~)^2           = a^2 (D_c - D~)^2 / b^4

`b^2 dh = rho~ - rho_c` is the difference of the retained variances rho = a dD_ii: it has no unit, is the
same in every family of models, and is what a map here stores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Difference = Callable[[Tensor], Tensor]
"""x [n, c, ...] -> D~(x) - D_c(x), both branches evaluated on the same x."""

RELATIVE_STEP = 0.1
"""Central-difference step in units of b."""
ROUNDING_STEPS = 4
"""The step is at least this many roundings of the network's own precision, or it would be lost in them."""


@dataclass(frozen=True)
class NoiseLevel:
    """x = a x0 + b eps. VP: a^2 + b^2 = 1. VE (ComfyUI's eps and v models): a = 1. Flow: a = 1 - b."""

    a: float
    b: float

    @property
    def sigma(self) -> float:
        return self.b / self.a


def rademacher(shape: torch.Size | tuple[int, ...], count: int, seed: int) -> Iterator[Tensor]:
    """`count` probes of independent +-1, drawn on the CPU: the same for a seed on every device."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randint(0, 2, shape, generator=generator) * 2 - 1


def probe_step(x: Tensor, level: NoiseLevel, compute_dtype: torch.dtype) -> float:
    """Central-difference step for states like x in a network that computes in `compute_dtype`."""
    rounding = torch.finfo(compute_dtype).eps * float(x.float().square().mean().sqrt())
    return max(RELATIVE_STEP * level.b, ROUNDING_STEPS * rounding)


def central_difference_diagonal(f: Difference, x: Tensor, probes: Iterable[Tensor], step: float) -> Tensor:
    """Hutchinson estimate of diag(df/dx), mean over probes of v * (f(x + h v) - f(x - h v)) / (2 h).

    Two evaluations of f a probe, no gradient. x [n, c, ...]; probes broadcast against x; the sum is kept in
    float32 or better. The variance of one probe at i is the sum of J_ij^2 over j != i; a diagonal J is exact
    with one probe. Raises ValueError without a probe.
    """
    precise = torch.promote_types(x.dtype, torch.float32)
    total = torch.zeros_like(x, dtype=precise)
    count = 0
    for probe in probes:
        v = probe.to(x)
        rise = f(x + step * v).to(precise) - f(x - step * v).to(precise)
        total += v.to(precise) * rise / (2 * step)
        count += 1
    if count == 0:
        raise ValueError("at least one probe is needed")
    return total / count


def retained_variance_difference(difference: Difference, x: Tensor, level: NoiseLevel, probes: Iterable[Tensor], step: float) -> Tensor:
    """b^2 dh = rho~ - rho_c per coordinate, shape of x. Positive = the prompt pins this coordinate down."""
    return level.a * central_difference_diagonal(difference, x, probes, step)


def score_difference(denoised_c: Tensor, denoised_baseline: Tensor, level: NoiseLevel) -> Tensor:
    """b^2 ds = a^2 (D_c - D~)^2 / b^2 per coordinate (Eq. 5, 6 times b^2), without unit as above."""
    gap = denoised_c - denoised_baseline
    return (level.a * gap / level.b).square()


def channel_sum(per_coordinate: Tensor) -> Tensor:
    """[n, c, h, w] -> [n, h, w], the paper's reduction. relu comes later, once, when a map is read."""
    return per_coordinate.sum(dim=1)


def coded_dh(values: Tensor, level: NoiseLevel) -> Tensor:
    """b^2 dh -> the scale of the authors' code, relu(b dh)."""
    return values.clamp_min(0) / level.b


def true_dh(values: Tensor, level: NoiseLevel) -> Tensor:
    """b^2 dh -> relu(dh), which can be compared between noise levels of one family."""
    return values.clamp_min(0) / level.b**2
