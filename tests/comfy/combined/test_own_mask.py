"""The guard's correction by the flagged prompt's own mask, against the real ComfyUI."""

from __future__ import annotations

import importlib

import pytest
import torch
from unmemorize_pack.tests.comfy.judging import EMPTY, PROMPT, STEPS

ALL = -1e30
"""A limit that every sample exceeds."""
SIGMAS = torch.tensor([14.6, 7.0, 3.0, 1.0, 0.0])
USE = {"seed": 1, "steps": STEPS, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}


@pytest.fixture(scope="module")
def own(comfy):
    return importlib.import_module("unmemorize_pack.host.combined.own_mask")


@pytest.fixture
def corrected(demo, guarding, stored, own, draw):
    """corrected(n=1, strategy=..., ...) -> latent, record."""

    def run(strategy=None, limit=ALL, **more):
        model, record = guarding.guarded(demo[0], guarding.Guard(stored, "correct", limit=limit, strategy=strategy or own.OwnMask()))
        return draw(model, prompt=PROMPT, steps=STEPS, **more), record

    return run


def test_a_flagged_run_is_drawn_by_the_model_without_the_prompts_neurons(demo, own, corrected, draw, encode, neuron_host, monkeypatch):
    """The same as the nodes do one by one: record, find, prune, sample."""
    monkeypatch.setattr(own, "MORE", 1.0)  # under this limit each try is flagged, and a denser mask may be the better one
    latent, record = corrected()
    assert record.facts["restarted"] == [0]
    how = own.OwnMask()
    stored = neuron_host.recording.record(demo[0], [encode(PROMPT)], encode(""), {"samples": EMPTY}, 1, USE, how.place, how.low)
    mask = neuron_host.finding.own_mask(demo[0], stored.activity, how.share, how.score)
    assert torch.equal(latent, draw(neuron_host.masks.laid_over(demo[0], mask), prompt=PROMPT, steps=STEPS))
    assert not torch.equal(latent, draw(prompt=PROMPT, steps=STEPS))


def test_its_mask_holds_what_the_prompt_uses_and_the_empty_one_does_not(demo, encode, neuron_host):
    masks, how = neuron_host.finding, {"share": 0.1, "score": "wanda"}
    run = neuron_host.recording.record(demo[0], [encode(PROMPT)], encode(""), {"samples": EMPTY}, 1, USE, "feed-forward", 2.8).activity
    mask = masks.own_mask(demo[0], run, **how)
    assert 0 < mask.density() < 0.3
    for key in run.squares:
        cond, uncond = run.rms(key, (0,)), run.rms(key, (1,))
        taken = mask.dense(key).any(0)
        assert bool((cond > uncond).any(0)[taken].all()), "a neuron is taken only where the prompt wakes it more than the empty one"


def test_a_run_that_is_not_flagged_keeps_its_bits_and_is_not_recorded(corrected, draw, own, off_is_exact, monkeypatch):
    monkeypatch.setattr(own, "record_run", lambda *_: pytest.fail("recorded"))
    latent, record = corrected(limit=1e9)
    assert record.facts["restarted"] == []
    off_is_exact(latent, draw(prompt=PROMPT, steps=STEPS))


def test_each_sample_of_a_batch_has_a_mask_of_its_own(corrected, draw):
    """A batch equals its parts."""
    both, record = corrected(n=2)
    alone, _ = corrected()
    assert record.facts["restarted"] == [0, 1] and torch.allclose(both[:1], alone, atol=1e-5)


def test_the_model_is_as_before_afterwards(demo, corrected, draw):
    before = draw(prompt=PROMPT, steps=STEPS)
    hooks = [len(m._forward_pre_hooks) for m in demo[0].model.modules()]
    corrected()
    assert torch.equal(before, draw(prompt=PROMPT, steps=STEPS))
    assert hooks == [len(m._forward_pre_hooks) for m in demo[0].model.modules()] and not demo[0].patches


def test_cancel_while_recording_leaves_no_hook(demo, corrected, interrupted):
    with interrupted(demo[0], after=STEPS // 2 + 3):
        corrected()
    assert not any(m._forward_pre_hooks for m in demo[0].model.modules())


def test_without_guidance_it_says_so_and_changes_nothing(own, corrected, draw, wide):
    assert "no guidance" in own.OwnMask().obstacle(type("Guider", (), {"cfg": 1.0, "original_conds": {"negative": []}})(), SIGMAS)


def test_a_model_without_known_layers_says_so(own, demo):
    guider = type("Guider", (), {"cfg": 2.0, "original_conds": {"negative": []}, "model_patcher": demo[0]})()
    assert own.OwnMask().obstacle(guider, SIGMAS) == ""
    assert "no place" in own.OwnMask(place="nowhere").obstacle(guider, SIGMAS)
    assert own.OwnMask().obstacle(guider, 0.01 * SIGMAS), "a run that begins below the window has nothing to listen to"
