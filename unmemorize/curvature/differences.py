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
A derivative is linear, so b^2 dh is a times the diagonal of one difference of denoisers (CONTRASTS): all its terms come
from the same probes. Diagonals that were probed differently would lose their difference in noise.
"""

from __future__ import annotations

from torch import Tensor

from ..core.noise import NoiseLevel

CONTRASTS: dict[str, tuple[tuple[float, ...], float]] = {
    "dh_0": ((-1.0, 1.0), 0.0),
    "dh_~": ((-1.0,), 1.0),
    "dh_0 + dh_~": ((-2.0, 1.0), 1.0),
}
"""b^2 dh as a sum of retained variances: weights of (rho_c, rho_u) of the model, and of rho~ of the baseline."""


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


def score_difference(denoised_c: Tensor, denoised_baseline: Tensor, level: NoiseLevel) -> Tensor:
    """b^2 ds = a^2 (D_c - D~)^2 / b^2 per coordinate (Eq. 5, 6 times b^2), without unit as above."""
    gap = denoised_c - denoised_baseline
    return (level.a * gap / level.b).square()


def channel_sum(per_coordinate: Tensor) -> Tensor:
    """[n, c, ...] -> [n, ...], the paper's reduction. relu comes later, once, when a map is read."""
    return per_coordinate.sum(dim=1)
