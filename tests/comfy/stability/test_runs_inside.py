"""Runs inside a guarded run: what other nodes have put on the MODEL does its work once, and prompts may carry LoRAs of their own."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch

from ..judging import PROMPT
from ..maps import SETTINGS

STEPS, ALL = 4, -1e30


@pytest.fixture
def counted(demo):
    """A clone of the demo that counts its evaluations, and those that pass a wrapper around the network."""
    import comfy.patcher_extension

    seen = {"evaluations": 0, "wrapped": 0}

    def evaluate(predict, a):
        seen["evaluations"] += 1
        return predict(a["input"], a["timestep"], **a["c"])

    def wrap(executor, *arguments, **more):
        seen["wrapped"] += 1
        return executor(*arguments, **more)

    model = demo[0].clone()
    model.set_model_unet_function_wrapper(evaluate)
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "counting", wrap)
    return model, seen


def once(seen):
    assert seen["wrapped"] == seen["evaluations"] > 0
    return seen["evaluations"]


def test_a_wrapper_works_once_in_a_redraw(guarding, draw, under, counted):
    """Of the model itself, with its parts left out; the core adds a MODEL's wrappers to every run anew."""
    model, seen = counted
    draw(model, steps=STEPS)
    plain = once(seen)
    clone, record = guarding.guarded(model, guarding.Guard(under("model_function_wrapper"), "correct", limit=ALL))
    draw(clone, steps=STEPS)
    assert once(seen) > 2 * plain and record.facts["restarted"] == [0]


def test_a_wrapper_works_once_where_other_words_are_asked_for(guarding, draw, under, counted, encode):
    model, seen = counted
    several = [entry for text in ("a red star", "a blue ring", "a green ring") for entry in encode(text)]
    profile = under("model_function_wrapper")
    clone, record = guarding.guarded(model, guarding.Guard(profile, "correct", limit=ALL, alternatives=several))
    draw(clone, steps=STEPS)
    assert record.facts["restarted"] == [0]
    once(seen)


def test_a_wrapper_works_once_where_a_prompts_own_neurons_are_silenced(guarding, draw, under, counted):
    """In the run that is listened to, and in the one that is drawn."""
    model, seen = counted
    own_mask = importlib.import_module("unmemorize_pack.host.combined.own_mask").OwnMask()
    clone, record = guarding.guarded(model, guarding.Guard(under("model_function_wrapper"), "correct", limit=ALL, strategy=own_mask))
    draw(clone, steps=STEPS)
    assert record.facts["restarted"] == [0]
    once(seen)


@pytest.fixture
def patches(demo):
    """Of every attention's output."""
    weights, generator = demo[0].model.state_dict(), torch.Generator().manual_seed(5)
    names = [k for k in weights if k.startswith("diffusion_model.") and k.endswith("attn2.to_out.0.weight")]
    return {k: (0.5 * weights[k].cpu().std() * torch.randn(weights[k].shape, generator=generator),) for k in names}


def test_a_wrapper_works_once_in_a_loras_correction(guarding, draw, counted, demo, patches, monkeypatch):
    """On trial, and in the redraw."""
    monkeypatch.setattr(importlib.import_module("unmemorize_pack.host.stability.trial"), "UNMOVED", 2.0)
    model, seen = counted
    under = model.clone()
    under.add_patches(patches)
    clone, record = guarding.guarded(under, guarding.Guard(None, "correct", parent=model, limit=ALL))
    draw(clone, prompt=PROMPT, steps=STEPS)
    assert once(seen) and record.facts["memorized"] == [True]


@pytest.fixture
def hooked(encode, patches, comfy):
    """hooked(text, strength) -> a prompt that carries the patches as Create Hook LoRA makes it do."""
    hooks = importlib.import_module("comfy.hooks")

    def make(text, strength=1.0):
        hook = hooks.WeightHook(strength_model=strength, strength_clip=0)
        hook.weights, hook.need_weight_init = {k: ("diff", v) for k, v in patches.items()}, False
        group = hooks.HookGroup()
        group.add(hook)
        return hooks.set_hooks_for_conditioning(encode(text), group)

    return make


@pytest.mark.parametrize(("strength", "unwatched"), [(1.0, True), (0.0, False)])
def test_a_lora_in_the_prompt_is_not_called_clean(guard, draw, hooked, strength, unwatched):
    model, record = guard()
    prompt = hooked(PROMPT, strength)
    assert torch.equal(draw(model, prompt=prompt), draw(prompt=prompt))
    assert record.facts["unwatched"] == unwatched and any("was not watched" in text for text in record.facts["warnings"]) == unwatched


def test_a_lora_in_the_prompt_is_not_taken_for_the_one_that_is_watched(guarding, draw, demo, patches, hooked):
    under = demo[0].clone()
    under.add_patches(patches)
    clone, record = guarding.guarded(under, guarding.Guard(None, "correct", parent=demo[0], limit=ALL))
    draw(clone, prompt=hooked(PROMPT))
    assert record.facts["unwatched"] and record.facts["restarted"] == [] and any("a hook" in text for text in record.facts["warnings"])


def test_models_are_not_asked_where_no_verdict_could_be(guarding, demo, patches, encode, monkeypatch, host):
    """A guider of three prompts: why there is no verdict is known before the run."""
    watching, samplers = host("stability.lora_watch"), importlib.import_module("comfy.samplers")
    monkeypatch.setattr(watching, "predict_along", lambda *_: pytest.fail("asked"))
    under = demo[0].clone()
    under.add_patches(patches)
    clone, record = guarding.guarded(under, guarding.Guard(None, "detect", parent=demo[0]))
    custom = importlib.import_module("comfy_extras.nodes_custom_sampler")
    guider = custom.Guider_DualCFG(clone)
    guider.set_conds(encode("a red ring"), encode("a blue star"), encode(""))
    guider.set_cfg(2.0, 2.0)
    sigmas = samplers.calculate_sigmas(demo[0].get_model_object("model_sampling"), "normal", STEPS)
    noise = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    guider.sample(noise, torch.zeros(1, 8, 8, 8), samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=1)
    assert "other prompts" in record.facts["not_judged"][0]


def test_a_redraw_is_compared_where_the_result_lies(host, monkeypatch):
    """The run is drawn again where its latent lies; the result of a run is still on the device, and two devices cannot be compared. Here
    the two differ in their dtype."""
    equal = torch.equal

    def strict(a, b):
        assert a.dtype == b.dtype
        return equal(a, b)

    monkeypatch.setattr(torch, "equal", strict)
    strategies, nothing = host("stability.strategies"), torch.zeros(2, 4, 2, 2)
    guider = SimpleNamespace(original_conds={})
    call = host("core.sampler_call").RunCall(guider, nothing, nothing, None, torch.zeros(2), *[None] * 4)
    again = strategies.Redrawing(lambda _: torch.ones(1, 4, 2, 2))
    result = again.after(call, torch.tensor([True, True]), torch.stack([torch.ones(4, 2, 2), torch.zeros(4, 2, 2)]).double())
    assert result.dtype == torch.float64 and again.unchanged == [0] and again.restarted == [1] and float(result.mean()) == 1.0


def test_two_stages_are_compared_with_what_the_first_was_on_the_way_to(guarding, demo, advanced, stored, patches):
    """The second begins with a picture that was corrected already: its own first picture is no memory."""
    other = demo[0].clone()
    other.add_patches(patches, 30.0)
    strategy = importlib.import_module("unmemorize_pack.host.stability.restart")
    seen = []

    def run(limit):
        how = strategy.Restart((strategy.Phase(1.0, parent=True, cfg=1.5),), other)
        model, record = guarding.guarded(demo[0], guarding.Guard(stored, "correct", strategy=how, limit=limit))
        first = advanced(model, torch.zeros(1, 8, 8, 8), 0, 8)
        seen.append(record.facts)
        advanced(model, first, 8, 10, "disable")
        return record.facts

    second = run(ALL)
    assert seen[0]["restarted"] == [0] and second["restarted"] == [0]
    looks = [facts["redrawn"]["0"]["likeness"] for facts in (seen[0], second)]
    assert looks[0] < 0.6 and looks[1] == pytest.approx(looks[0], abs=0.2), "of the same two pictures"


def test_a_model_that_is_asked_in_between_keeps_nothing_in_its_cache(guarding, draw, demo, patches):
    """EasyCache keeps a latent for every prompt that it has not seen a run begin with."""
    cached = importlib.import_module("comfy_extras.nodes_easycache").EasyCacheNode.execute(demo[0], 0.2, 0.15, 0.95, False).args[0]
    another = importlib.import_module("unmemorize_pack.host.core.another_model")
    holder, seen = cached.model_options["transformer_options"]["easycache"], []

    def ask(facts):
        seen.extend(another.asked_meanwhile(cached, demo[0], [facts["cond"]], facts))
        return facts["denoised"]

    model = demo[0].clone()
    model.set_model_sampler_post_cfg_function(ask)
    draw(model, steps=STEPS)
    assert len(seen) == STEPS and not holder.uuid_cache_diffs


def test_what_a_stage_keeps_is_no_more_than_its_pictures(host):
    """On the CPU, and not as a part of the whole batch."""
    runs, nothing = host("stability.runs"), torch.zeros(4, 8, 2, 2)
    network = SimpleNamespace(process_latent_out=lambda x: 2 * x)
    call = SimpleNamespace(guider=SimpleNamespace(model_patcher=SimpleNamespace(model=network)))
    again = host("stability.strategies").Redrawing()
    again.restarted = [1, 3]
    run = runs.Run(None, again, last=nothing + torch.arange(4.0).view(4, 1, 1, 1))
    kept = run.firsts(call)
    assert {i: float(picture.mean()) for i, picture in kept.items()} == {1: 2.0, 3: 6.0}
    assert all(picture.untyped_storage().nbytes() == picture.nbytes for picture in kept.values())


def test_measuring_with_the_guarded_model_keeps_the_record(nodes, guard, draw, encode):
    """A natural graph: the guarded MODEL also goes into Curvature Difference Map."""
    model, record = guard()
    latent = {"samples": draw(model, prompt=PROMPT, steps=STEPS)}
    kept = dict(record.facts)
    given = {"model": model, "positive": encode(PROMPT), "negative": encode(""), "latent": latent} | SETTINGS
    nodes["UnmemorizeCurvatureDifferenceMap"].execute(**given)
    assert kept and record.facts == kept
