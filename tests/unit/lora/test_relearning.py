"""What a LoRA is taught anew, in closed form."""

from __future__ import annotations

import pytest
import torch
from unmemorize_pack.unmemorize.lora.relearning import RATE, error, falling, rate_of, wanted


def test_a_prompt_that_asks_for_the_same_keeps_its_change_and_another_gets_the_common_one():
    generator = torch.Generator().manual_seed(1)
    cond_before, uncond_before, common, own = torch.randn(4, 2, 4, 8, 8, generator=generator)
    cond, uncond = cond_before + common + own, uncond_before + common
    found = wanted(cond, uncond, cond_before, uncond_before, torch.tensor([True, False]))
    assert torch.equal(found[0], cond[0]), "its own change stays"
    assert torch.allclose(found[1], (cond_before + common)[1], atol=1e-6), "the base's content, in the LoRA's common change"


def test_an_error_counts_in_units_of_the_noise():
    target = torch.zeros(2, 1, 2, 2)
    off = torch.stack([torch.full((1, 2, 2), 0.5), torch.full((1, 2, 2), 0.1)])
    assert error(off, target, torch.tensor([0.5, 0.1])).item() == pytest.approx(8.0)
    assert error(off.half(), target, torch.tensor([0.5, 0.1])).dtype == torch.float32
    assert error(target, target, torch.tensor([0.5, 0.1])).item() == 0.0


def test_the_rate_is_of_the_factors_size_and_falls_to_nothing():
    b, a = torch.full((4, 2), 0.4), torch.full((2, 6), 0.1)
    assert rate_of((b, a)) == pytest.approx(RATE * 0.2) and rate_of((b / 10, a / 10)) == pytest.approx(RATE * 0.02)
    assert falling(0, 10) == 1 and falling(5, 10) == pytest.approx(0.5) and 0 < falling(9, 10) < 0.05
