"""Agreement in closed form: LoRAs whose change is common, the prompt's alone, or something between."""

from __future__ import annotations

import math

import pytest
import torch
from unmemorize_pack.unmemorize.stability.agreement import (
    UNCALIBRATED,
    AgreementRegion,
    agreement,
    agreement_score,
    gated,
    region_of_runs,
    run_agreement,
    with_common_change,
)


def denoised(seed=0, n=3):
    """Predictions of a base for a prompt and for none, and a direction for each, [n, 4, 8, 8]."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 4, 8, 8, generator=generator) for _ in range(4)]


def test_a_common_change_agrees_wholly_and_one_of_the_prompt_alone_not_at_all():
    """D^L = D^B + s for both prompts: 1, whatever its size. D_c^L alone moved, D_u^L across it: 0; the other way: -1."""
    cond, _, style, memory = denoised()
    assert torch.allclose(agreement(0.01 * style, 3.0 * style, cond), torch.ones(3), atol=1e-5)
    flat_style = style.flatten(1)
    across = memory.flatten(1)
    across = across - (across * flat_style).sum(1, keepdim=True) / flat_style.square().sum(1, keepdim=True) * flat_style
    assert agreement(across.view_as(memory), style, cond).abs().max() < 1e-5
    assert torch.allclose(agreement(-style, style, cond), -torch.ones(3), atol=1e-5)


def test_a_memory_on_top_of_a_style_lowers_it_by_its_share():
    """c = s + m with m across s and as long: cos = 1 / sqrt 2."""
    cond = torch.ones(1, 1, 2, 2)
    style, memory = torch.tensor([1.0, 0, 0, 0]).view(1, 1, 2, 2), torch.tensor([0, 1.0, 0, 0]).view(1, 1, 2, 2)
    assert float(agreement(style + memory, style, cond)) == pytest.approx(1 / math.sqrt(2))


def test_what_does_not_count_does_not_count():
    cond, _, style, memory = denoised()
    region = torch.zeros(3, 1, 8, 8)
    region[..., :4] = 1
    spoiled = torch.where(region > 0, style, memory)
    assert torch.allclose(agreement(spoiled, style, cond, region), torch.ones(3), atol=1e-5)
    assert agreement(spoiled, style, cond).max() < 0.9


def test_a_lora_that_does_nothing_has_no_agreement():
    """No change, or one of rounding: not a number, never 'clean'; other samples of the batch keep theirs."""
    cond, _, style, _ = denoised()
    style[1] *= 1e-6
    for found in (agreement(style, style, cond), agreement(style, torch.ones_like(style), cond)):
        assert found.isnan().tolist() == [False, True, False]
    assert agreement(torch.zeros_like(style), torch.zeros_like(style), cond).isnan().all()


def test_steps_without_a_value_are_left_out_of_a_runs_mean():
    by_step = torch.tensor([[math.nan, math.nan], [0.2, math.nan], [0.4, math.nan]])
    assert run_agreement(by_step)[0] == pytest.approx(0.3) and run_agreement(by_step)[1].isnan()
    assert agreement_score(by_step, AgreementRegion(0.9, 0.2))[0] == pytest.approx(3.0)
    assert agreement_score(torch.tensor([[0.5]]), UNCALIBRATED) == pytest.approx(3.0)


def test_the_region_of_ordinary_runs_is_their_median_and_what_lies_below():
    """Runs far above the median widen nothing; a set of equal runs keeps the least spread."""
    runs = torch.tensor([[0.7, 0.8, 0.9, 0.95, 0.99]])
    region = region_of_runs(runs)
    assert region.centre == pytest.approx(0.9) and region.spread == pytest.approx(math.sqrt((0.2**2 + 0.1**2) / 2))
    assert region_of_runs(torch.full((4, 6), 0.9)).spread == 0.02


def test_the_leak_is_left_out_and_the_common_change_kept():
    """D_c^L = D_c^B + s + m, D_u^L = D_u^B + s, guidance w: what is kept is the guided base plus s, with nothing of m."""
    cond, uncond, style, _ = denoised()
    guided = uncond + 2.0 * (cond - uncond)
    assert torch.allclose(with_common_change(guided, uncond, uncond + style), guided + style, atol=1e-5)


def test_the_gate_is_by_sample():
    a, b = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    found = gated(torch.tensor([0.9, 0.1]), 0.5, a, b)
    assert torch.equal(found[0], a[0]) and torch.equal(found[1], b[1])
