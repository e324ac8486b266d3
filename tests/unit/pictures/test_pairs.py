"""Pictures in pairs, before and after."""

from __future__ import annotations

import pytest
import torch
from unmemorize_pack.unmemorize.pictures.pairs import differences


def test_zero_says_the_same_to_the_bit():
    before = torch.rand(2, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    after = before.clone()
    after[1, 0, 0, 0] = torch.nextafter(after[1, 0, 0, 0], torch.tensor(2.0))
    same, nearly = differences(before, after)
    assert same == 0.0 and nearly is not None and 0 < nearly < 1e-6
    assert differences(torch.zeros(1, 4, 5, 3), torch.full((1, 4, 5, 3), 0.25)) == [0.25]


def test_one_is_paired_with_all_and_what_cannot_be_compared_is_none():
    one, several = torch.zeros(1, 4, 5, 3), torch.stack([torch.zeros(4, 5, 3), torch.ones(4, 5, 3)])
    assert differences(one, several) == differences(several, one) == [0.0, 1.0]
    assert differences(one, torch.zeros(1, 8, 5, 3)) == [None]
    assert differences(one, one * torch.nan) == [None]


def test_what_does_not_belong_together_is_said():
    with pytest.raises(ValueError, match="2 pictures before, 3 after"):
        differences(torch.zeros(2, 4, 4, 3), torch.zeros(3, 4, 4, 3))
    with pytest.raises(ValueError, match="No picture came in as before"):
        differences(torch.zeros(0, 4, 4, 3), torch.zeros(3, 4, 4, 3))
