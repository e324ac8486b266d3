"""Predictions of variants that add up to the prompt's own."""

from __future__ import annotations

import pytest
import torch
from unmemorize_pack.unmemorize.stability.other_words import without_the_exact_words


@pytest.mark.parametrize("changed", [1, 2])
def test_words_that_add_up_are_all_there_and_no_exact_prompt_is_asked(changed):
    """D = sum of each word's effect, its own or the other's: the weighted sum is the prompt's own D, though every variant changes words."""
    own, other = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = without_the_exact_words([3, 0, 4, 1, 2], changed)
    total = sum(weight * sum(other[w] if w in words else own[w] for w in range(5)) for words, weight in parts)
    assert torch.allclose(total, own.sum(0)) and sum(weight for _, weight in parts) == 1
    assert all(len(words) >= changed and set(words) <= {3, 0, 4} and list(words) == sorted(words) for words, _ in parts)
