"""The stability guard under every sampler and scheduler: what is not flagged keeps its bits, what is sampled again goes on exactly."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch
from unmemorize_pack.unmemorize.stability.rule import Rule

from .situations import KINDS, SITUATIONS, kinds, situation

SAMPLERS = ("euler", "ddim", "heun", "dpmpp_2m", "dpmpp_2m_sde", "euler_ancestral", "uni_pc", "lcm")
WAYS = (("off", "recommended"), ("detect", "recommended"), ("detect", "paper"), ("correct", "recommended"), ("correct", "paper"))
UNWATCHED = {"dpm_fast", "dpm_adaptive"}
"""They take steps of their own, so that no step of the schedule is ever seen whole."""
ALL = -1e30
"""A limit that every sample exceeds."""


@pytest.fixture
def guard(demo, guarding, stored):
    """guard(mode, method, stored=..., limit=...) -> clone of the demo under guard, record."""

    def make(mode="correct", method="recommended", model=None, **more):
        return guarding.guarded(model or demo[0], guarding.Guard(**{"stored": stored, "mode": mode, "method": method} | more))

    return make


# --- bit-identical -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_run_that_stays_inside_is_bit_identical(guard, draw, wide, off_is_exact, sampler):
    stock = draw(sampler=sampler, n=2)
    for mode, method in WAYS:
        model, record = guard(mode, method, stored=wide)
        off_is_exact(draw(model, sampler=sampler, n=2), stock)
        if mode == "off":
            assert record.facts == {}
        else:
            assert (record.facts["memorized"], record.facts["restarted"], record.facts["edited_steps"]) == ([False, False], [], {})
            assert all(None not in row for t in ("update", "prediction", "latent") for row in record.facts["observed"][t]), (
                "every step was seen"
            )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_detecting_a_memory_changes_nothing(guard, draw, profile_of, off_is_exact, sampler):
    stock = draw(sampler=sampler, n=2)
    model, record = guard("detect", limit=ALL)
    off_is_exact(draw(model, sampler=sampler, n=2), stock)
    assert record.facts["memorized"] == [True, True] and record.facts["detector"] == "default"
    model, record = guard("detect", "paper", stored=profile_of(record.facts, 0))
    off_is_exact(draw(model, sampler=sampler, n=2), stock)
    assert record.facts["memorized"] == [False, True] and record.facts["detector"] == "paper"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_only_the_flagged_sample_of_a_batch_changes(guard, draw, sampler):
    stock = draw(sampler=sampler, n=2)
    model, record = guard("detect")
    draw(model, sampler=sampler, n=2)
    low, high = sorted(record.facts["scores"])
    flagged = record.facts["scores"].index(high)
    model, record = guard("correct", limit=(low + high) / 2)
    result = draw(model, sampler=sampler, n=2)
    assert record.facts["restarted"] == [flagged] and record.facts["memorized"][flagged] and not record.facts["memorized"][1 - flagged]
    assert torch.equal(result[1 - flagged], stock[1 - flagged])
    assert not torch.allclose(result[flagged], stock[flagged], atol=1e-3) and result.isfinite().all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_only_the_edited_sample_of_a_batch_changes(guard, draw, profile_of, sampler):
    """The paper's rule, with a profile of which the other sample is the very mean."""
    stock = draw(sampler=sampler, n=2)
    model, record = guard("detect")
    draw(model, sampler=sampler, n=2)
    for kept in (0, 1):
        model, record_of_rule = guard("correct", "paper", stored=profile_of(record.facts, kept))
        result = draw(model, sampler=sampler, n=2)
        assert set(record_of_rule.facts["edited_steps"]) == {str(1 - kept)} and record_of_rule.facts["memorized"][kept] is False
        assert torch.equal(result[kept], stock[kept])
        assert not torch.allclose(result[1 - kept], stock[1 - kept], atol=1e-3) and result.isfinite().all()


def test_every_sampler_is_watched_without_a_trace(guard, draw, guarding):
    """All of ComfyUI's samplers; of those that cannot be watched the report says so, and the picture is the same."""
    core = importlib.import_module("comfy.samplers").KSampler.SAMPLERS
    wrong = []
    for name in core:
        model, record = guard("detect")
        same = torch.equal(draw(model, sampler=name, steps=3), draw(sampler=name, steps=3))
        (why,) = record.facts["not_judged"]
        by_chance = name == "dpm_adaptive" and not why  # its own steps may all lie on so short a schedule
        told = by_chance or (name in UNWATCHED) == ("sampler" in why)
        if not same or not told or (name not in UNWATCHED and record.facts["scores"] == [None]):
            wrong.append((name, same, why))
    assert wrong == [] and set(core) >= UNWATCHED | set(SAMPLERS)


def test_every_scheduler_is_watched_without_a_trace(guard, draw):
    wrong = []
    for name in importlib.import_module("comfy.samplers").KSampler.SCHEDULERS:
        model, record = guard("detect")
        same = torch.equal(draw(model, scheduler=name), draw(scheduler=name))
        seen = [row[0] for row in record.facts.get("observed", {}).get("update", [[None]])]
        other = "steps where memories show" in record.facts["not_judged"][0]  # some have many more at high noise levels
        if not same or None in seen or (record.facts["detector"] != "default" and not other):
            wrong.append(name)
    assert wrong == []


# --- corrections under every sampler -----------------------------------------------------------------------


@pytest.mark.parametrize("steps", [3, 5])
def test_every_sampler_can_restart_in_phases(guard, demo, draw, host, steps):
    """Also runs so short that a phase is a single step."""
    restart, failed = host("stability.restart"), {}
    phases = restart.Restart((restart.Phase(0.5, parent=True, cfg=1.5), restart.Phase(1.0)), demo[0])
    for name in importlib.import_module("comfy.samplers").KSampler.SAMPLERS:
        if name in UNWATCHED:
            continue
        try:
            model, record = guard("correct", strategy=phases, limit=ALL)
            result = draw(model, sampler=name, steps=steps)
        except Exception as error:
            failed[name] = repr(error)
            continue
        if not result.isfinite().all() or record.facts["restarted"] != [0]:
            failed[name] = "not finite, or not restarted"
    assert failed == {}


def test_every_sampler_can_go_on_step_by_step(guard, guarding, draw, profile_of):
    """From the first step to the last, each step a run of its own."""
    failed = {}
    model, record = guard("detect")
    draw(model, n=2, steps=4)
    for name in importlib.import_module("comfy.samplers").KSampler.SAMPLERS:
        if name in UNWATCHED:
            continue
        try:
            model, found = guard("correct", "paper", stored=profile_of(record.facts, 0), rule=Rule(tau_mild=0.0, tau_strong=0.0))
            result = draw(model, sampler=name, n=1, steps=4, seed=2)
        except Exception as error:
            failed[name] = repr(error)
            continue
        if not result.isfinite().all() or found.facts["edited_steps"] != {"0": [0, 1, 2, 3]}:
            failed[name] = f"not finite, or edited at {found.facts['edited_steps']}"
    assert failed == {}


# --- continuations are exact -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", SITUATIONS)
def test_a_restart_with_the_model_itself_is_the_stock_run(guard, judge_parts, demo, draw, kind, where):
    """Phases at one and two thirds, all with the same predictions: nothing is lost where one sampler ends and the next begins."""
    restart = importlib.import_module("unmemorize_pack.host.stability.restart")
    model = kinds(demo, kind)
    how = restart.Restart((restart.Phase(0.4, parent=True), restart.Phase(0.6), restart.Phase(1.0, parent=True)), model)
    given = situation(where)
    stock = draw(model, **given)
    clone, record = guard(model=model, strategy=how, limit=ALL)
    result = draw(clone, **given)
    assert record.facts["memorized"] == [True, True] and record.facts["restarted"] == [0, 1]
    assert result.shape == stock.shape and not torch.equal(result, torch.zeros_like(result))
    assert torch.allclose(result, stock, rtol=1e-4, atol=2e-4 * float(stock.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", SITUATIONS)
def test_going_on_without_any_edit_is_the_stock_run(guard, guarding, judge_parts, demo, draw, kind, where, profile_of):
    """The paper's rule with all parts off."""
    model, given = kinds(demo, kind), situation(where)
    stock = draw(model, **given)
    clone, record = guard("detect", model=model)
    draw(clone, **given)
    nothing = Rule(tau_mild=0.0, tau_strong=0.0, rescale=False, clamp_update=False, clamp_latent=False)
    clone, found = guard("correct", "paper", model=model, stored=profile_of(record.facts, 0, width=1e3), rule=nothing)
    result = draw(clone, **given)
    steps = len(record.facts["sigmas"]) - 1
    assert found.facts["edited_steps"]["1"] == list(range(steps)), "from the first step, acting on every one"
    assert torch.allclose(result, stock, rtol=1e-4, atol=2e-4 * float(stock.abs().max()))


@pytest.mark.parametrize("sampler", ["ddim", "heun", "dpm_2", "gradient_estimation"])
def test_samplers_without_a_memory_go_on_exactly_too(guard, guarding, demo, draw, sampler):
    restart = importlib.import_module("unmemorize_pack.host.stability.restart")
    stock = draw(sampler=sampler)
    how = restart.Restart((restart.Phase(0.5, parent=True), restart.Phase(1.0, parent=True)), demo[0])
    result = draw(guard(strategy=how, limit=ALL)[0], sampler=sampler)
    if sampler == "gradient_estimation":
        assert not torch.allclose(result, stock, atol=1e-3), "a sampler with a memory shows the seam"
    else:
        assert torch.allclose(result, stock, atol=2e-4)


@pytest.mark.parametrize(("cfg", "restarted"), [(1.0, 1.0), (2.0, 3.0)])
def test_a_restart_scales_guidance_but_gives_none_to_a_run_without(guarding, cfg, restarted):
    """A distilled model knows no negative prompt: CFG 1 stays CFG 1."""
    restart = importlib.import_module("unmemorize_pack.host.stability.restart")
    phase = restart.Phase(1.0, cfg=1.5)
    guider = SimpleNamespace(cfg=cfg, original_conds={}, model_options={}, model_patcher=None)
    assert restart._guider_for(guider, phase, None, torch.tensor([1.0, 0.0]), 0).cfg == restarted


def test_what_comes_behind_the_guard_changes_nothing(guarding, demo, under, draw):
    """Other nodes clone the MODEL once more, and ComfyUI deep-copies its options then: the record is still the one that was given out."""
    model, record = guarding.guarded(demo[0], guarding.Guard(under("sampler_post_cfg_function"), "correct", limit=ALL))
    later = model.clone()
    later.set_model_sampler_post_cfg_function(lambda facts: facts["denoised"])
    draw(later.clone())
    assert record.facts["restarted"] == [0]


def test_calibrating_a_model_that_is_cloned_on(demo, host, draw):
    watching = host("stability.watching")
    model, runs = watching.watched(demo[0])
    draw(model.clone(), steps=3)
    assert len(runs) == 1 and "update" in runs[0].observed()
