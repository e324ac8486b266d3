"""Coordinate-wise curvature differences: where in a latent the model memorized (arXiv 2605.26756).

Notation: state x = a x0 + b eps with noise level sigma = b / a, denoiser D(x) = E[x0 | x]. The condition
c is the prompt, u the empty prompt, ~ a less-trained baseline model under the same prompt. All formulas are
written on D, so noise, v and flow prediction need no special case; only (a, b) differs:

    retained variance   rho_i      = a dD_ii
    curvature           diag(-H)_i = (1 - rho_i) / b^2
    dh_0 (Eq. 1)        diag(-H_c) - diag(-H_u) = (rho_u - rho_c) / b^2
    dh_~ (Eq. 2)        diag(-H_c) - diag(-H~)  = (rho~  - rho_c) / b^2
    ds_0 (Eq. 5)        (s_c - s_u)^2           = a^2 (D_c - D_u)^2 / b^4
    ds_~ (Eq. 6)        (s_c - s~)^2            = a^2 (D_c - D~)^2 / b^4

Maps here hold `b^2 dh` and `b^2 ds`: they have no unit and are the same in every family of models.
Both come from one weighted sum of denoisers (METHODS): dh is a times the diagonal of its derivative, ds its scaled square. A derivative
is linear, so that all terms of a dh come from the same probes; diagonals that were probed differently would lose their difference in noise.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..core.noise import NoiseLevel


@dataclass(frozen=True)
class Method:
    """What a map compares: a weighted sum of denoisers, and what is taken of it."""

    weights: tuple[float, ...]
    """Of D_c and, where there are two, of D_u of the model."""
    baseline: float = 0.0
    """Of D~, the baseline model under the prompt."""
    squared: bool = False
    """ds, the square of the sum; else dh, the diagonal of its derivative."""

    @property
    def needs_negative(self) -> bool:
        """Is the empty prompt asked for?"""
        return len(self.weights) > 1

    @property
    def needs_baseline(self) -> bool:
        """Is another model asked for?"""
        return self.baseline != 0


METHODS: dict[str, Method] = {
    "dh_0": Method((-1.0, 1.0)),
    "dh_~": Method((-1.0,), 1.0),
    "dh_0 + dh_~": Method((-2.0, 1.0), 1.0),
    "ds_0": Method((-1.0, 1.0), squared=True),
    "ds_~": Method((-1.0,), 1.0, squared=True),
}


def contrast(denoised: Tensor, weights: tuple[float, ...]) -> Tensor:
    """sum_k weights_k D_k of the same x under several prompts [prompts, n, c, ...] -> [n, c, ...]."""
    w = denoised.new_tensor(weights).reshape(-1, *[1] * (denoised.ndim - 1))
    return (w * denoised).sum(0)


def retained_variance(denoiser_diagonal: Tensor, level: NoiseLevel) -> Tensor:
    """rho = a dD_ii of diag(dD/dx), any shape. 1: the state decides this coordinate; 0: it is pinned down."""
    return level.a * denoiser_diagonal


def raw_curvature(rho_c: Tensor) -> Tensor:
    """b^2 diag(-H_c) = 1 - rho_c: no detector (flat backgrounds have it too), kept for comparison."""
    return 1 - rho_c


def score_difference(gap: Tensor, level: NoiseLevel) -> Tensor:
    """b^2 ds = a^2 gap^2 / b^2 per coordinate of a difference of denoisers, D_c - D_u or D_c - D~ (Eq. 5, 6 times b^2)."""
    return (level.a * gap / level.b).square()


def channel_sum(per_coordinate: Tensor) -> Tensor:
    """[n, c, ...] -> [n, ...], the paper's reduction. relu comes later, once, when a map is read."""
    return per_coordinate.sum(dim=1)
