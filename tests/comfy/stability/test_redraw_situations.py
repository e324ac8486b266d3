"""Corrections that change nothing are the stock run, wherever a run begins and ends: nothing is lost in how they draw."""

from __future__ import annotations

import importlib
import math

import pytest
import torch

from ..loras import attention_patched
from .situations import SITUATIONS, kinds, situation

ALL = -1e30
"""A limit that every sample exceeds."""
PROMPT = "a red ring"


def same(result, stock):
    return torch.allclose(result, stock, rtol=1e-4, atol=2e-4 * float(stock.abs().max()))


@pytest.fixture
def alternatives(encode, comfy):
    """alternatives(named) -> the prompt itself three times, as variants of known words or as prompts of which nothing is known."""
    changed = importlib.import_module("unmemorize_pack.host.stability.other_words").CHANGED

    def make(named):
        several = [encode(PROMPT)[0] for _ in range(3)]
        return [[tokens, facts | ({changed: [i]} if named else {})] for i, (tokens, facts) in enumerate(several)]

    return make


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("kind", ["plain", "flow scaled"])
@pytest.mark.parametrize("where", SITUATIONS)
def test_other_words_that_are_the_same_words(judge_parts, guarding, demo, draw, stored, alternatives, kind, where, named, monkeypatch):
    """Put together from variants that ask for the same, or in turns: the run as it was."""
    words = importlib.import_module("unmemorize_pack.host.stability.other_words")
    drawn, real = [], words.drawn_with_others
    monkeypatch.setattr(words, "drawn_with_others", lambda *call: drawn.append(real(*call)) or drawn[-1])
    model, given = kinds(demo, kind), situation(where)
    stock = draw(model, prompt=PROMPT, **given)
    how = words.OtherWords(alternatives(named), until=0.6, mixed_until=0.6)
    clone, record = guarding.guarded(model, guarding.Guard(stored, "correct", strategy=how, limit=ALL))
    result = draw(clone, prompt=PROMPT, **given)
    assert record.facts["memorized"] == [True, True] and len(drawn) >= 2
    assert same(result, stock)


@pytest.mark.parametrize("kind", ["plain", "flow scaled"])
@pytest.mark.parametrize("where", SITUATIONS)
def test_a_loras_change_that_is_kept_at_every_step(judge_parts, guarding, demo, draw, stored, kind, where, monkeypatch):
    """The base with all of the LoRA's changes on top is the model under the LoRA."""
    watch, common, strategies, agree = (
        importlib.import_module(f"unmemorize_pack.{n}")
        for n in (
            "host.stability.lora_watch",
            "host.stability.common_change",
            "host.stability.strategies",
            "unmemorize.stability.agreement",
        )
    )
    monkeypatch.setattr(
        common.CommonChange,
        "begin",
        lambda self, _: strategies.Redrawing(lambda call: common.drawn_without_leak(call, self.lora, 0.0, self.until, -math.inf)),
    )
    base = kinds(demo, kind)
    model = attention_patched(base, lambda w, g: 0.5 * w.std() * torch.randn(w.shape, generator=g))
    given = situation(where)
    stock = draw(model, **given)
    lora = watch.Lora(model, watch.before_the_lora(model, base), None, agree.AgreementRegion(0.4, 0.1), True)
    clone, _ = guarding.guarded(model, guarding.Guard(stored, "correct", strategy=common.CommonChange(lora, until=0.6), limit=ALL))
    assert same(draw(clone, **given), stock) and not same(draw(base, **given), stock)
