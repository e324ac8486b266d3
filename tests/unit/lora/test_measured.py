"""What is left of a LoRA's changes, in closed form."""

from __future__ import annotations

import pytest
import torch
from unmemorize_pack.unmemorize.lora.measured import explained, projected


def test_what_is_left_is_a_projection():
    generator = torch.Generator().manual_seed(3)
    whole, aside = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    aside -= whole * (aside * whole).sum() / whole.square().sum()
    assert projected([(whole, whole)]) == pytest.approx(1.0)
    assert projected([(0.25 * whole + aside, whole)]) == pytest.approx(0.25, abs=1e-6)
    assert projected([(-whole, whole)]) == 0.0, "what turned around is not kept"
    assert projected([(torch.zeros_like(whole), torch.zeros_like(whole))]) == 0.0
    assert projected([(whole, whole), (torch.zeros_like(whole), whole)]) == pytest.approx(0.5)


def test_what_is_changed_in_other_ways_counts_against_it():
    whole, aside = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    aside -= whole * (aside * whole).sum() / whole.square().sum()
    assert explained([(whole, whole)]) == pytest.approx(1.0) and explained([(0 * whole, whole)]) == pytest.approx(0.0)
    assert explained([(whole / 3, whole)]) == pytest.approx(5 / 9), "where learning begins"
    assert explained([(3 * whole, whole)]) == 0.0 and explained([(whole + 10 * aside, whole)]) == 0.0, "ruined"
    assert explained([(0 * whole, 0 * whole)]) == 0.0
