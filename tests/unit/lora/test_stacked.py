"""Layers of one size decomposed together: each as if it were alone, whatever the others are."""

from __future__ import annotations

import pytest
import torch
from unmemorize_pack.tests.waits import Waits
from unmemorize_pack.unmemorize.lora import alignment, channels, gates
from unmemorize_pack.unmemorize.lora.subspace import Subspace

M, N, R = 60, 48, 6


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def near(found, b, a, scale=1.0, tolerance=1e-10):
    dw = scale * b.double() @ a.double()
    assert ((found.u * found.sigma @ found.v.T).double() - dw).norm() <= tolerance * dw.norm()
    eye = torch.eye(len(found), dtype=torch.float64)
    for side in (found.u, found.v):
        assert (side.double().T @ side.double() - eye).abs().max() < 2 * channels.ORTHONORMAL
    wanted = torch.linalg.svdvals(dw)[: len(found)]
    assert torch.allclose(found.sigma.double(), wanted, rtol=1e-3, atol=float(tolerance * wanted[0]))


def stack(*pairs, dtype=torch.float32):
    return torch.stack([b.to(dtype) for b, _ in pairs]), torch.stack([a.to(dtype) for _, a in pairs])


def falling(condition, seed):
    """Factors whose columns are lengths apart, and turned into each other: `condition` of B."""
    turn = torch.linalg.qr(random(R, R, seed=seed)).Q
    lengths = torch.logspace(0, -torch.log10(torch.tensor(condition)).item(), R, dtype=torch.float64)
    q = torch.linalg.qr(random(M, R, seed=seed + 1)).Q
    return q * lengths @ turn, random(R, N, seed=seed + 2)


@pytest.mark.parametrize("condition", [1.0, 30.0, 1e3, 1e5])
def test_every_condition_is_decomposed_exactly(condition):
    b, a = falling(condition, 3)
    found = channels.of_stacked(*stack((b, a), (random(M, R), a)), [1.0, 0.5])
    near(found[0], b.float(), a.float(), tolerance=2e-5)


def test_a_layer_is_the_same_alone_and_among_others():
    good, others = (
        (random(M, R), random(R, N, seed=1)),
        [falling(1e6, 5), (torch.zeros(M, R), random(R, N)), (random(M, 1).expand(M, R), random(R, N))],
    )
    alone = channels.of_factors(*(t.float() for t in good), 2.0)
    among = channels.of_stacked(*stack(*others, good), [1.0, 1.0, 1.0, 2.0])[-1]
    assert torch.allclose(alone.sigma, among.sigma, rtol=1e-6)
    assert torch.allclose((alone.u * among.u).sum(0).abs(), torch.ones(R), atol=1e-5)
    near(among, *(t.float() for t in good), 2.0, tolerance=1e-5)


def test_zero_dependent_and_negative_layers():
    zero, single = (torch.zeros(M, R), random(R, N)), (random(M, 1).expand(M, R), random(R, N))
    negative = random(M, R, seed=8), random(R, N, seed=9)
    found = channels.of_stacked(*stack(zero, single, negative), [1.0, 1.0, -3.0])
    assert [len(f) for f in found] == [0, 1, R] and bool((found[2].sigma > 0).all())
    near(found[2], *negative, -3.0, tolerance=1e-5)


def test_more_directions_than_the_layer_has():
    b, a = random(4, R), random(R, N, seed=1)
    near(channels.of_stacked(b[None], a[None], [1.0])[0], b, a)


def test_nothing_waits_for_the_device_but_once_a_size():
    """A hundred layers wait no more often than ten."""

    def waits(count):
        with Waits() as seen:
            channels.of_stacked(random(count, M, R, dtype=torch.float32), random(count, R, N, seed=1, dtype=torch.float32), [1.0] * count)
        return seen

    ten, hundred = waits(10), waits(100)
    assert ten.waits == hundred.waits <= 2 and ten.launches == hundred.launches


def test_scores_and_gates_wait_for_nothing():
    u, v = torch.linalg.qr(random(M, 20)).Q, torch.linalg.qr(random(N, 20, seed=1)).Q
    found, base = channels.of_factors(random(M, R), random(R, N, seed=2), 1.0), Subspace(u, v)
    with Waits() as seen:
        left, right = alignment.lifts(found, base)
        for gate in ("hard", "soft", "scale"):
            settings = gates.Settings(score="mean", gate=gate, restore_norm=True)
            gates.new_sigma(found.sigma, gates.gate(0.5 * (left + right), found.sigma, settings, 0.1), settings)
    assert seen.waits == 0


def test_new_singular_values_may_lie_elsewhere_and_drop_channels():
    b, a = random(M, R), random(R, N, seed=1)
    found = channels.of_factors(b, a, 1.0)
    sigma = found.sigma.float() * torch.tensor([1.0, 0.0, 1.0, -0.5, 0.0, 2.0])
    up, down = channels.refactored(found, sigma)
    assert up.shape == (M, 4) and down.shape == (4, N) and down.is_contiguous()
    assert torch.allclose(up @ down, found.u * sigma.double() @ found.v.T, atol=1e-6)
