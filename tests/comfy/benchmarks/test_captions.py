"""Which prompts count as clean in benchmarks of a lab, and how detectors of copies are scored."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture(scope="module")
def judging(comfy):
    return importlib.import_module("unmemorize_pack.benchmarks.parts.judging")


@pytest.fixture(scope="module")
def copies(comfy):
    return importlib.import_module("unmemorize_pack.benchmarks.copies")


@pytest.fixture
def bench(judging, monkeypatch):
    monkeypatch.setattr(judging, "HELD_OUT_STRIDE", 1)
    monkeypatch.setattr(judging, "WINDOW_STRIDE", 1)
    facts = {
        "fixed": [{"caption": "a small purple square on a gray background"}, {"caption": "a rosy level card with an upper window"}],
        "held_out_captions": ["a small red square on a gray background", "a large red square on a gray background"],
        "held_out_card_captions": ["a crimson upright card"],
        "window_captions": ["a violet level card with an upper window", "a violet checked card with an upper window"],
    }
    return SimpleNamespace(lab=SimpleNamespace(facts=facts))


def test_clean_prompts_are_two_words_from_every_memory(judging, bench):
    assert judging.clean_captions(bench) == [
        "a large red square on a gray background", "a crimson upright card", "a violet checked card with an upper window",
    ]  # fmt: skip
    assert judging.near_captions(bench) == ["a small red square on a gray background"]


def test_found_at_one_percent_of_false_alarms(copies):
    negative = torch.arange(1000).float()
    assert copies.found_at(torch.tensor([500.0, 989.0, 991.0, 1500.0]), negative) == 0.5
    least = copies.BuiltIn.least
    unclear = torch.tensor([least - 0.1, least + 0.1])
    assert copies.found_at(unclear, torch.zeros(1000)) == 0.5, "a likeness that Copy Check calls unclear is not found"


def test_parts_of_one_photograph_are_no_different_photographs(copies):
    assert copies.source("astronaut-flag") == copies.source("astronaut-smile") != copies.source("cat-face")


def test_the_best_match_counts_and_of_nothing_there_is_none(copies):
    detector = SimpleNamespace(prepare=lambda p: p, compare=lambda p, kept, tick: p[:, :1] * kept[None, :])
    assert copies.best(detector, torch.tensor([[2.0], [3.0]]), torch.tensor([1.0, 5.0])).tolist() == [10.0, 15.0]
    assert len(copies.best(detector, torch.zeros(0, 1), torch.tensor([1.0]))) == 0
