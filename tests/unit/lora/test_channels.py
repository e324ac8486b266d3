"""Channels of every kind of adapter against a dense SVD, and base subspaces against torch.linalg.svd."""

from __future__ import annotations

import pytest
import torch
from unmemorize_pack.unmemorize.lora import channels, krylov, subspace


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def matrix(found):
    return found.u * found.sigma @ found.v.T


def assert_channels_of(found, dw, tolerance=1e-10):
    """They add up to dW, are orthonormal, and their singular values are those of a dense SVD."""
    assert (matrix(found) - dw).norm() <= tolerance * dw.norm()
    eye = torch.eye(len(found), dtype=found.u.dtype)
    assert torch.allclose(found.u.T @ found.u, eye, atol=1e-5) and torch.allclose(found.v.T @ found.v, eye, atol=1e-5)
    assert torch.allclose(found.sigma, torch.linalg.svdvals(dw)[: len(found)], rtol=1e-5, atol=float(tolerance * dw.norm()))
    assert bool((found.sigma[:-1] >= found.sigma[1:]).all())


@pytest.mark.parametrize(("m", "n", "r"), [(40, 24, 4), (24, 40, 8), (16, 16, 1), (12, 10, 32)])
def test_linear_factors(m, n, r):
    b, a = random(m, r), random(r, n, seed=1)
    found = channels.of_factors(b, a, 0.25)
    assert len(found) == min(m, n, r)
    assert_channels_of(found, 0.25 * b @ a)
    assert found.energy == pytest.approx(float((0.25 * b @ a).square().sum()), rel=1e-6)


def test_gauge_invariance():
    """Channels belong to dW: (B G, G^-1 A) gives the same."""
    b, a, g = random(30, 5), random(5, 20, seed=1), random(5, 5, seed=2)
    one, two = channels.of_factors(b, a, 1.0), channels.of_factors(b @ g, torch.linalg.inv(g) @ a, 1.0)
    assert torch.allclose(one.sigma, two.sigma, rtol=1e-9)
    assert torch.allclose((one.u * two.u).sum(0).abs(), torch.ones(5, dtype=torch.float64), atol=1e-8)


def test_zero_and_duplicate_channels_vanish():
    b, a = random(30, 3), random(3, 20, seed=1)
    doubled = channels.of_factors(torch.cat([b, b, torch.zeros_like(b)], 1), torch.cat([a, a, a], 0), 1.0)
    assert len(doubled) == 3
    assert_channels_of(doubled, 2 * b @ a)
    assert len(channels.of_factors(torch.zeros(30, 3), a.float(), 1.0)) == 0


def test_a_negative_scale_keeps_singular_values_positive():
    b, a = random(30, 3), random(3, 20, seed=1)
    found = channels.of_factors(b, a, -0.5)
    assert bool((found.sigma > 0).all())
    assert_channels_of(found, -0.5 * b @ a)
    assert_channels_of(channels.of_kronecker(b, a, -2.0), -2.0 * torch.kron(b, a))


@pytest.mark.parametrize(("first", "second"), [((4, 3), (10, 8)), ((1, 5), (16, 4)), ((8, 8), (6, 6))])
def test_kronecker_channels_are_those_of_the_dense_matrix(first, second):
    w1, w2 = random(*first), random(*second, seed=1)
    assert_channels_of(channels.of_kronecker(w1, w2, 0.5), 0.5 * torch.kron(w1, w2))


def test_khatri_rao_factors_of_loha():
    b1, a1, b2, a2 = random(30, 3), random(3, 20, seed=1), random(30, 2, seed=2), random(2, 20, seed=3)
    b, a = channels.khatri_rao(b1, a1, b2, a2)
    assert b.shape == (30, 6) and torch.allclose(b @ a, (b1 @ a1) * (b2 @ a2), atol=1e-12)
    assert_channels_of(channels.of_factors(b, a, 1.0), (b1 @ a1) * (b2 @ a2))


def test_tucker_core():
    up, down, mid = random(12, 4), random(4, 6, seed=1), random(4, 4, 3, 3, seed=2)
    dense = torch.einsum("oa,abhw,bi->oihw", up, mid, down).flatten(1)
    assert torch.allclose(up @ channels.tucker_down(down, mid), dense, atol=1e-12)


def test_conv_flattening_round_trip():
    """A kernel [out, in, kh, kw] as [out, in kh kw], and the factors back as down and up."""
    up, down = random(12, 4, 1, 1), random(4, 6, 3, 3, seed=1)
    found = channels.of_factors(up.flatten(1), down.flatten(1), 1.0)
    b, a = channels.refactored(found, found.sigma)
    kernel = torch.einsum("or,rihw->oihw", b, a.reshape(4, 6, 3, 3))
    assert torch.allclose(kernel, torch.einsum("orxy,rihw->oihw", up, down), atol=1e-12)


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (24, 24)])
def test_a_whole_matrix(shape):
    dw = random(*shape)
    assert_channels_of(channels.of_matrix(dw), dw)


def test_refactored_factors_are_balanced_and_signed():
    b, a = random(30, 4), random(4, 20, seed=1)
    found = channels.of_factors(b, a, 1.0)
    new = found.sigma * torch.tensor([1.0, 0.0, -0.5, 1.0])
    up, down = channels.refactored(found, new)
    assert up.shape == (30, 3) and down.shape == (3, 20)
    assert torch.allclose(up @ down, found.u * new @ found.v.T, atol=1e-12)
    assert torch.allclose(up.norm(dim=0), down.norm(dim=1))
    assert float((up @ down).square().sum()) == pytest.approx(float(new.square().sum()), rel=1e-9)


def test_half_precision_factors_cost_little():
    b, a = random(64, 8, dtype=torch.float32), random(8, 48, seed=1, dtype=torch.float32)
    found = channels.of_factors(b.half(), a.half(), 1.0)
    up, down = channels.refactored(found, found.sigma)
    assert found.sigma.dtype == torch.float32
    dense = b.half().float() @ a.half().float()
    assert (up.half().float() @ down.half().float() - dense).norm() < 1e-3 * dense.norm()


# --- base subspaces -----------------------------------------------------------------------------------------


def slow_decay(m, n, power=0.35, seed=0):
    """A weight with singular values i^-power, as pretrained layers have."""
    u, _ = torch.linalg.qr(random(m, min(m, n), seed=seed))
    v, _ = torch.linalg.qr(random(n, min(m, n), seed=seed + 1))
    return u * torch.arange(1, min(m, n) + 1, dtype=torch.float64) ** -power @ v.T


def overlap(x, y):
    """Mean squared cosine between two subspaces of equal dimension."""
    return float((x.T @ y).square().sum() / x.shape[1])


@pytest.mark.parametrize("shape", [(80, 80), (120, 60), (60, 120)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_subspace_by_gram_is_that_of_the_svd(shape, dtype):
    w = slow_decay(*shape).to(dtype)
    found = subspace.principal_subspace(w, 0.3)
    u, _, vt = torch.linalg.svd(w.double(), full_matrices=False)
    assert overlap(found.u.double(), u[:, : found.k]) > 0.9999 and overlap(found.v.double(), vt[: found.k].T) > 0.9999
    assert not found.flat


def test_how_many_vectors():
    """Smallest k with the energy, capped at a quarter of the smaller side, then at least 8."""
    squares = torch.linspace(1, 0.01, 100)
    total = float(squares.sum())
    k = subspace.kept_rank(squares, total, 400, 0.3)
    assert squares[:k].sum() >= 0.3 * total > squares[: k - 1].sum()
    assert subspace.kept_rank(squares, total, 100, 0.99) == 25
    assert subspace.kept_rank(squares, total, 100, 0.01) == 8
    assert subspace.kept_rank(squares[:20], total, 20, 0.9) == 8
    assert subspace.principal_subspace(slow_decay(40, 40), 0.9).k == 10


def test_undefined_subspaces():
    assert subspace.principal_subspace(torch.zeros(40, 40), 0.5) is None
    assert subspace.principal_subspace(random(8, 100), 0.5) is None
    assert subspace.principal_subspace(random(9, 100), 0.5) is not None


def test_a_flat_spectrum_is_noticed():
    q, _ = torch.linalg.qr(random(64, 64))
    assert subspace.principal_subspace(3 * q, 0.5).flat


def test_large_layers_by_iteration(monkeypatch):
    """The iteration used above 4096 finds what the decomposition finds, also on a slow spectrum."""
    monkeypatch.setattr(subspace, "LARGE", 50)
    w = slow_decay(200, 300).float()
    found = subspace.principal_subspace(w, 0.3)
    u, _, vt = torch.linalg.svd(w, full_matrices=False)
    assert overlap(found.u, u[:, : found.k]) > 0.99 and overlap(found.v, vt[: found.k].T) > 0.99
    again = subspace.principal_subspace(w, 0.3)
    assert torch.equal(found.u, again.u)


# --- block Lanczos ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(400, 400), (400, 700), (700, 400)])
def test_lanczos_finds_what_the_svd_finds(shape, fast):
    w = slow_decay(*shape).float()
    wide = w if shape[0] <= shape[1] else w.T
    assert subspace._by_lanczos(wide, float(w.square().sum()), 0.3, fast) is not None, "fell back to the whole decomposition"
    found = subspace.principal_subspace(w, 0.3, fast)
    u, s, vt = torch.linalg.svd(w.double(), full_matrices=False)
    assert found.k == subspace.kept_rank(s.square(), float(s.square().sum()), min(shape), 0.3)
    assert overlap(found.u.double(), u[:, : found.k]) > 0.999 and overlap(found.v.double(), vt[: found.k].T) > 0.999
    eye = torch.eye(found.k)
    assert torch.allclose(found.u.T @ found.u, eye, atol=1e-4) and torch.allclose(found.v.T @ found.v, eye, atol=1e-4)
    assert torch.equal(found.u, subspace.principal_subspace(w, 0.3, fast).u)


def test_lanczos_gives_up_where_too_many_are_wanted_or_none_is_exact(monkeypatch):
    w = slow_decay(400, 500, power=0.1).float()
    total = float(w.square().sum())
    assert subspace._by_lanczos(w, total, 0.6, torch.float32) is None
    u, _, _ = torch.linalg.svd(w, full_matrices=False)
    found = subspace.principal_subspace(w, 0.6)
    assert found.k == 100 and overlap(found.u, u[:, :100]) > 0.999
    monkeypatch.setattr(subspace, "EXACT", 0.0)
    assert subspace._by_lanczos(slow_decay(400, 400).float(), 1.0, 0.3, torch.float32) is None


def test_the_number_of_eigenvalues_is_guessed_early():
    w = slow_decay(640, 640).float()
    squares = torch.linalg.svdvals(w).square()
    space = krylov.Krylov(w, torch.float32)
    space.extend(6 * space.block)
    for energy in (0.2, 0.5):
        k = int(torch.searchsorted(squares.cumsum(0), energy * squares.sum())) + 1
        assert space.size < 0.2 * 640 and space.expected_rank(energy * float(squares.sum())) == pytest.approx(k, rel=0.25, abs=3)


def test_the_krylov_basis_is_orthonormal_and_holds_gram():
    w = slow_decay(300, 300).float()
    space = krylov.Krylov(w, torch.float32)
    space.extend(100)
    space.extend(150)
    basis = space.lifted(torch.eye(space.size))
    assert torch.allclose(basis.T @ basis, torch.eye(space.size), atol=1e-5)
    values, turn = space.ritz()
    assert torch.allclose((turn * values) @ turn.T, basis.T @ w @ w.T @ basis, atol=1e-5)
    assert torch.allclose(krylov.gram(w), w @ w.T, atol=1e-6)


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e5, 1e9])
def test_vectors_are_orthonormal_however_the_factors_are_split(condition):
    """Well-conditioned factors go without Q, the others with it: the channels are the same."""
    u, v = (torch.linalg.qr(random(size, 4, seed=size).double())[0] for size in (60, 50))
    sigma = torch.tensor([8.0, 4.0, 2.0, 1.0]).double()
    weights = condition ** -torch.linspace(0, 1, 4).double()
    found = channels.of_factors((u * sigma * weights).float(), (v / weights).T.float(), 1.0)
    assert torch.allclose(found.sigma.double(), sigma, rtol=1e-4)
    assert torch.allclose((found.u.double().T @ u).abs(), torch.eye(4).double(), atol=1e-3)
    assert torch.allclose(found.u.T @ found.u, torch.eye(4), atol=2e-4) and torch.allclose(found.v.T @ found.v, torch.eye(4), atol=2e-4)


@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6])
def test_vectors_are_orthonormal_where_the_columns_of_a_factor_are_nearly_dependent(condition):
    """There R^-1 would lose them: it goes by Q."""
    q = torch.linalg.qr(random(60, 6, seed=1).double())[0]
    turn = torch.linalg.qr(random(6, 6, seed=2).double())[0]
    b = (q * condition ** -torch.linspace(0, 1, 6).double()) @ turn
    found = channels.of_factors(b.float(), random(6, 50, seed=3).float(), 1.0)
    assert torch.allclose(found.u.T @ found.u, torch.eye(len(found)), atol=2e-4)
