"""The measured filter in closed form: groups whose shares of memory and of the common change are known."""

from __future__ import annotations

import pytest
import torch
from unmemorize_pack.unmemorize.lora.measured import LEVELS, Effect, effect_of, search

MEMORY = {"queries": 0.6, "values": 0.3, "mlp": 0.1, "convolutions": 0.0}
COMMON = {"queries": 0.02, "values": 0.4, "mlp": 0.18, "convolutions": 0.4}


class Linear:
    """A LoRA whose groups add up."""

    def __init__(self):
        self.asked = []

    def __call__(self, strengths):
        self.asked.append(dict(strengths))
        return Effect(sum(strengths[g] * MEMORY[g] for g in strengths), sum(strengths[g] * COMMON[g] for g in strengths))


def test_the_group_that_holds_memory_and_little_else_goes_first():
    path = search(list(MEMORY), Linear(), goal=0.05, floor=0.5)
    assert path[0].effect == Effect(1.0, 1.0) and set(path[0].strengths.values()) == {1.0}
    assert path[1].strengths == {"queries": 0.5, "values": 1.0, "mlp": 1.0, "convolutions": 1.0}
    assert path[2].strengths["queries"] == 0.0 and path[2].effect.leak == pytest.approx(0.4) and path[2].effect.kept == pytest.approx(0.98)
    assert path[-1].effect.kept >= 0.5
    assert all(trial.strengths["convolutions"] == 1.0 for trial in path), "what holds no memory is left alone"


def test_it_stops_at_the_goal_and_at_the_floor():
    assert search(list(MEMORY), Linear(), goal=0.75, floor=0.0)[-1].strengths["queries"] == 0.5
    held = search(list(MEMORY), Linear(), goal=0.0, floor=0.9)
    assert held[-1].effect.kept >= 0.9 and held[-1].effect.leak < 0.41
    assert search(list(MEMORY), Linear(), goal=0.0, floor=1.0)[-1].effect == Effect(1.0, 1.0)


def test_a_step_weakens_one_group_by_one_level():
    path = search(list(MEMORY), Linear(), goal=0.0, floor=0.0)
    for before, after in zip(path, path[1:], strict=False):
        changed = [g for g in MEMORY if before.strengths[g] != after.strengths[g]]
        assert len(changed) == 1
        assert LEVELS.index(after.strengths[changed[0]]) == LEVELS.index(before.strengths[changed[0]]) + 1
        assert after.effect.leak < before.effect.leak
    assert {g for g, s in path[-1].strengths.items() if s == 0} == {"queries", "values", "mlp"}


def test_few_trials_are_made():
    measure = Linear()
    search(list(MEMORY), measure, goal=0.0, floor=0.0)
    assert len(measure.asked) <= len(MEMORY) * len(LEVELS) + len(MEMORY)


def test_what_helps_only_after_another_is_found():
    """Two groups that stand in for each other: the second is worth something once the first is gone."""

    def measure(s):
        return Effect(max(s["a"], s["b"]), 0.5 + 0.25 * (s["a"] + s["b"]))

    assert search(["a", "b"], lambda s: Effect(0.5 * (s["a"] + s["b"]), 1.0), goal=0.0, floor=0.9)[-1].effect.leak == 0
    assert search(["a", "b"], measure, goal=0.0, floor=0.0)[-1].effect.leak == 1.0, "a greedy search does not see pairs: said in the help"


def test_effects_are_projections():
    generator = torch.Generator().manual_seed(3)
    common, own, aside = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(3))
    aside -= own * (aside * own).sum() / own.square().sum()
    whole = [(common + own, common)]
    assert effect_of(whole, whole, [True]) == Effect(pytest.approx(1.0), pytest.approx(1.0))
    assert effect_of([(common, common)], whole, [True]) == Effect(pytest.approx(0.0, abs=1e-6), pytest.approx(1.0))
    halved = effect_of([(0.5 * common + 0.25 * own + aside, 0.5 * common)], whole, [True])
    assert halved.leak == pytest.approx(0.25, abs=1e-6) and halved.kept == pytest.approx(0.5)
    assert effect_of([(common - own, common)], whole, [True]).leak == 0.0, "what turned around is no leak"
    nothing = torch.zeros_like(own)
    assert effect_of([(nothing, nothing)], [(nothing, nothing)], [True]) == Effect(0.0, 0.0)
    two = [*whole, (common + 9 * own, common)]
    assert effect_of([(common, common), (common + 9 * own, common)], two, [True, False]).leak == pytest.approx(0.0, abs=1e-6)
