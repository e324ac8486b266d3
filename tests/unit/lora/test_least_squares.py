"""A LoRA's first factor by least squares on recorded inputs, in closed form."""

from __future__ import annotations

import pytest
import torch
from unmemorize_pack.unmemorize.lora.least_squares import spared


def rows(count, width, seed, scale=1.0):
    return scale * torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_the_minimum():
    """No small step lowers the sum that is minimised."""
    a, kept, leaked, weight, ridge = rows(3, 8, 0), rows(40, 8, 1), rows(10, 8, 2), 0.3, 0.05
    found = spared(a, kept, leaked, weight, ridge)

    def loss(x):
        scale = ridge * kept.square().mean()
        own, others = ((kept @ (x - a).T).square().sum(1).mean(), (leaked @ x.T).square().sum(1).mean())
        return float(own + weight * others + scale * x.square().sum())

    for seed in range(20):
        assert loss(found + 1e-3 * rows(3, 8, 10 + seed)) > loss(found)


def test_directions_apart_are_told_apart():
    """Inputs along some axes are kept, along others forgotten, along those that nobody uses forgotten too."""
    a = rows(2, 6, 0)
    kept, leaked = torch.zeros(50, 6, dtype=torch.float64), torch.zeros(50, 6, dtype=torch.float64)
    kept[:, :2], leaked[:, 2:4] = rows(50, 2, 1), rows(50, 2, 2)
    found = spared(a, kept, leaked, 1.0, 1e-3)
    assert torch.allclose(found[:, :2], a[:, :2], rtol=0.01, atol=0.01)
    assert found[:, 2:].abs().max() < 1e-6


@pytest.mark.parametrize("count", [5, 64])
def test_few_rows_and_many_give_the_same_formula(count):
    """Wide inputs are solved in the rows' space: the same answer."""
    a, kept, leaked = rows(4, 24, 0), rows(count, 24, 1), rows(count, 24, 2)
    moments = kept.T @ kept / count
    both = moments + 0.2 * leaked.T @ leaked / count
    both.diagonal().add_(0.01 * float(kept.square().mean()))
    assert torch.allclose(spared(a, kept, leaked, 0.2, 0.01), a @ moments @ torch.linalg.inv(both), atol=1e-7)


def test_off_and_nothing():
    a, kept = rows(2, 5, 0).float(), rows(30, 5, 1).float()
    assert torch.allclose(spared(a, kept, rows(9, 5, 2).float(), 0.0, 1e-9), a, atol=1e-5)
    assert torch.equal(spared(a, kept, None, 7.0, 0.01), spared(a, kept, rows(3, 5, 2).float(), 0.0, 0.01))
    assert torch.equal(spared(a, torch.zeros(4, 5), None, 0.0, 0.01), torch.zeros_like(a))
    assert spared(a, kept, None, 0.0, 0.01).dtype == torch.float32
