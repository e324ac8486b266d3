"""Curvature differences against closed forms (METHODS: analytic tests of the curvature method)."""

from __future__ import annotations

import math

import pytest
import torch
from unmemorize_pack.unmemorize.core.noise import NoiseLevel
from unmemorize_pack.unmemorize.curvature import diagonal, differences

VP = NoiseLevel(0.8, 0.6)
VE = NoiseLevel(1.0, 0.75)
FLOW = NoiseLevel(1 / 1.75, 0.75 / 1.75)
"""One noise level, sigma = 0.75, in three families."""

DIM = 16


def hadamard(n: int) -> list[torch.Tensor]:
    """All rows of a Hadamard matrix as probes [1, n, 1, 1]: their mean of v v^T is exactly the identity."""
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)], 0)
    return [row.reshape(1, n, 1, 1) for row in h]


class Mixture:
    """A Gaussian mixture with diagonal components: exact score, Hessian and denoiser."""

    def __init__(self, means: torch.Tensor, variances: torch.Tensor, weights: torch.Tensor) -> None:
        self.means, self.variances, self.weights = means, variances, weights

    def parts(self, x: torch.Tensor, level: NoiseLevel) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        v = level.a**2 * self.variances + level.b**2
        g = -(x[None] - level.a * self.means) / v
        log_r = self.weights.log() - 0.5 * ((x[None] - level.a * self.means) ** 2 / v + v.log()).sum(1)
        return g, v, log_r.softmax(0)

    def score(self, x: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
        g, _, r = self.parts(x, level)
        return (r[:, None] * g).sum(0)

    def hessian_diagonal(self, x: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
        g, v, r = self.parts(x, level)
        return (r[:, None] * (g - (r[:, None] * g).sum(0)) ** 2).sum(0) - (r[:, None] / v).sum(0)

    def denoise(self, x: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
        return (x + level.b**2 * self.score(x, level)) / level.a

    def posterior_variance(self, x: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
        """Var[x0 | x] by the law of total variance, without any derivative."""
        _, v, r = self.parts(x, level)
        gain = level.a * self.variances / v
        mean_k = self.means + gain * (x[None] - level.a * self.means)
        var_k = self.variances * level.b**2 / v
        mean = (r[:, None] * mean_k).sum(0)
        return (r[:, None] * (var_k + (mean_k - mean) ** 2)).sum(0)

    def component(self, k: int) -> Mixture:
        return Mixture(self.means[k : k + 1], self.variances[k : k + 1], torch.ones(1, dtype=torch.float64))


@pytest.fixture
def mixture() -> Mixture:
    g = torch.Generator().manual_seed(0)
    means = torch.randn(3, DIM, generator=g, dtype=torch.float64)
    variances = 0.1 + torch.rand(3, DIM, generator=g, dtype=torch.float64)
    return Mixture(means, variances, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))


@pytest.fixture
def state() -> torch.Tensor:
    return 0.3 * torch.randn(DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def measured(f, x: torch.Tensor, level: NoiseLevel) -> torch.Tensor:
    """b^2 dh of a difference of denoisers of flat vectors, with an exact set of probes and a small step."""

    def difference(batch: torch.Tensor) -> torch.Tensor:
        return torch.stack([f(row.flatten()) for row in batch]).reshape(batch.shape)

    found = diagonal.central_difference(difference, x.reshape(1, -1, 1, 1), hadamard(len(x)), 1e-4 * level.b)
    return differences.retained_variance(found, level).flatten()


@pytest.mark.parametrize("level", [VP, VE, FLOW])
def test_denoiser_hessian_and_posterior_variance_agree(mixture, state, level):
    """Test 1: three independent closed forms of the mixture are one, to 1e-12."""
    jacobian = torch.autograd.functional.jacobian(lambda x: mixture.denoise(x, level), state)
    hessian = (level.a * jacobian.diagonal() - 1) / level.b**2
    assert torch.allclose(hessian, mixture.hessian_diagonal(state, level), atol=1e-12, rtol=0)
    variance = (level.b**4 * hessian + level.b**2) / level.a**2
    assert torch.allclose(variance, mixture.posterior_variance(state, level), atol=1e-12, rtol=0)


@pytest.mark.parametrize("level", [VP, VE, FLOW])
def test_map_is_the_difference_of_hessians(mixture, state, level):
    """b^2 dh by central differences = b^2 (diag H_u - diag H_c) of the closed form."""
    part = mixture.component(0)
    got = measured(lambda x: mixture.denoise(x, level) - part.denoise(x, level), state, level)
    want = level.b**2 * (mixture.hessian_diagonal(state, level) - part.hessian_diagonal(state, level))
    assert torch.allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("level", [VP, FLOW])
def test_families_agree_on_unitless_maps(mixture, state, level):
    """Test 6: x_VE = x / a gives the same b^2 dh and b^2 ds in every family; dh itself differs by a^2."""
    part = mixture.component(0)

    def both(x, at):
        return mixture.denoise(x, at), part.denoise(x, at)

    ve = measured(lambda x: both(x, VE)[0] - both(x, VE)[1], state, VE)
    other = measured(lambda x: both(x, level)[0] - both(x, level)[1], level.a * state, level)
    assert torch.allclose(ve, other, atol=1e-6)
    ds_ve, ds = (differences.score_difference(torch.sub(*both(a * state, at)), at) for a, at in ((1.0, VE), (level.a, level)))
    assert torch.allclose(ds_ve, ds, rtol=1e-10)
    assert torch.allclose(ve / VE.b**2, level.a**2 * other / level.b**2, atol=1e-6)


def test_fisher_identity(mixture, state):
    """Test 2 (Prop. 4.2): mean over labels of the curvature difference = mean squared score difference."""
    _, _, r = mixture.parts(state, VP)
    labels = [mixture.component(k) for k in range(3)]
    left = sum(p * (mixture.hessian_diagonal(state, VP) - c.hessian_diagonal(state, VP)) for p, c in zip(r, labels, strict=True))
    right = sum(
        p * differences.score_difference(c.denoise(state, VP) - mixture.denoise(state, VP), VP) / VP.b**2
        for p, c in zip(r, labels, strict=True)
    )
    assert torch.allclose(left, right, atol=1e-12)


def test_concentric_gaussians_localise_exactly(state):
    """Test 3: on the memorized set dh = 1/v_c - 1/v_u, exactly nothing elsewhere; E[ds] = dh (1 - v_c/v_u)."""
    mean = torch.zeros(1, DIM, dtype=torch.float64)
    wide, narrow = torch.ones(1, DIM, dtype=torch.float64), torch.ones(1, DIM, dtype=torch.float64)
    narrow[:, :6] = 0.01
    one = torch.ones(1, dtype=torch.float64)
    u, c = Mixture(mean, wide, one), Mixture(mean, narrow, one)
    dh = measured(lambda x: u.denoise(x, VP) - c.denoise(x, VP), state, VP) / VP.b**2
    v_u, v_c = VP.a**2 + VP.b**2, VP.a**2 * 0.01 + VP.b**2
    assert torch.allclose(dh[:6], torch.full((6,), 1 / v_c - 1 / v_u, dtype=torch.float64), rtol=1e-8)
    assert dh[6:].abs().max() < 1e-10
    x = math.sqrt(v_c) * torch.randn(200_000, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ds = ((-x / v_c) - (-x / v_u)).square().mean()
    assert ds.item() == pytest.approx((1 / v_c - 1 / v_u) * (1 - v_c / v_u), rel=0.02)


def test_equal_variances_never_negative(state):
    """Test 4: equal variances and one label as condition: dh_i = (a/v)^2 Var_r(m_ki) >= 0."""
    means = torch.randn(4, DIM, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mixed = Mixture(means, torch.full((4, DIM), 0.5, dtype=torch.float64), torch.full((4,), 0.25, dtype=torch.float64))
    part = mixed.component(1)
    dh = measured(lambda x: mixed.denoise(x, VP) - part.denoise(x, VP), state, VP) / VP.b**2
    _, v, r = mixed.parts(state, VP)
    spread = (r[:, None] * means**2).sum(0) - (r[:, None] * means).sum(0) ** 2
    assert torch.allclose(dh, (VP.a / v[0]) ** 2 * spread, atol=1e-6)
    assert dh.min() > -1e-7
