"""A LoRA learnt anew is kept while nothing it depends on has changed, and only then."""

from __future__ import annotations

import dataclasses
import importlib
from types import SimpleNamespace

import pytest
import torch

USE = {"seed": 3, "steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
SIZE = {"samples": torch.zeros(1, 8, 16, 16)}


@pytest.fixture
def last(comfy, monkeypatch):
    """The module, with a stand-in for learning that counts."""
    module = importlib.import_module("unmemorize_pack.host.combined.last_learnt")
    module._last.clear()
    learnt = []

    def learn(job):
        learnt.append(job)
        return module.Measured({"a": torch.ones(1)}, {}, {}, 1.0, [0.0], 0.1, learnt=True)

    monkeypatch.setattr(module, "filter_by_measuring", learn)
    yield module, learnt
    module._last.clear()


@pytest.fixture
def job(demo, host):
    measuring = importlib.import_module("unmemorize_pack.host.combined.measured_filter")
    tensors = {"lora_unet_x.alpha": torch.tensor(2.0), "lora_unet_x.lora_up.weight": torch.arange(4.0).half().view(2, 2)}
    return measuring.MeasuredJob(tensors, demo[0], demo[1], ["a caption"], ["a prompt"], "", SIZE, USE, 0.8, 10)


def test_the_same_is_learnt_once(last, job):
    module, learnt = last
    first = module.filter_once(job)
    first.kept.clear()  # what a node gives on may be emptied
    again = module.filter_once(dataclasses.replace(job, tensors={k: t.clone() for k, t in reversed(job.tensors.items())}))
    assert len(learnt) == 1 and list(again.kept) == ["a"]


@pytest.mark.parametrize(
    "changes",
    [
        {"captions": []}, {"prompts": ["another"]}, {"reference": "a word"}, {"use": USE | {"seed": 4}}, {"keep": 0.7},
        {"learning_steps": 11}, {"latent": {"samples": torch.zeros(1, 8, 16, 24)}},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_another_setting_is_learnt_anew(last, job, changes):
    module, learnt = last
    for asked in (job, dataclasses.replace(job, **changes), job):
        module.filter_once(asked)
    assert len(learnt) == 3


def test_another_file_model_or_text_encoder_is_learnt_anew(last, job):
    module, learnt = last
    changed = {k: t.clone() for k, t in job.tensors.items()}
    changed["lora_unet_x.lora_up.weight"][1, 1] += 1
    shifted = job.model.clone()
    shifted.set_model_unet_function_wrapper(lambda run, call: run(call["input"], call["timestep"], **call["c"]))
    name = next(k for k in job.model.model.state_dict() if k.endswith("attn2.to_k.weight"))
    patched = job.model.clone()
    patched.add_patches({name: (torch.ones_like(job.model.model.state_dict()[name]),)}, 0.1)
    skipping = job.clip.clone()
    skipping.clip_layer(-2)
    others = [{"tensors": changed}, {"model": shifted}, {"model": patched}, {"clip": skipping}]
    for asked in (job, *(dataclasses.replace(job, **other) for other in others)):
        module.filter_once(asked)
    assert len(learnt) == 5


def test_what_cannot_be_looked_into_is_never_taken_for_the_same(last, job, monkeypatch):
    module, learnt = last
    sees = module.extras(job.model)
    monkeypatch.setattr(module, "extras", lambda _: dataclasses.replace(sees, unseen=["wrapper of another pack"]))
    for _ in range(2):
        module.filter_once(job)
    assert len(learnt) == 2 and not module._last


def test_hooks_on_prompts_count(last, job, monkeypatch):
    """They change what a prompt does, and are no tensors."""
    module, learnt = last
    real = module.encoded

    def hooked(strength):
        hooks = SimpleNamespace(strength=strength)
        return lambda clip, prompts: [[(c, {**facts, "hooks": hooks}) for c, facts in several] for several in real(clip, prompts)]

    for strength in (0.5, 0.5, 1.0):
        monkeypatch.setattr(module, "encoded", hooked(strength))
        module.filter_once(job)
    assert len(learnt) == 2


def test_templates_08_and_15_ask_for_the_same(comfy):
    """What one of them has learnt, the other finds."""
    leaks, simple = (importlib.import_module(f"unmemorize_pack.{n}") for n in ("demo.live.templates.leaks", "nodes.combined_simple"))
    assert leaks.AS_CLEAN_LORA == simple.USE


@pytest.mark.parametrize(
    ("options", "plain"),
    [
        ({}, True), ({"transformer_options": {"patches": {}}}, True), ({"sampler_pre_cfg_function": [len]}, False),
        ({"sampler_calc_cond_batch_function": len}, False), ({"model_function_wrapper": len}, False),
        ({"transformer_options": {"patches": {"attn1_patch": [len]}}}, False),
        ({"transformer_options": {"patches_replace": {"attn1": 1}}}, False),
    ],
)  # fmt: skip
def test_a_run_that_something_alters_is_asked_again(comfy, options, plain):
    module = importlib.import_module("unmemorize_pack.host.combined.change_measuring")
    assert module._is_plain(options) == plain


def test_of_a_lora_that_stays_as_it_is_nothing_is_held(last, job, monkeypatch):
    module, learnt = last
    monkeypatch.setattr(
        module, "filter_by_measuring", lambda job: learnt.append(job) or module.Measured(job.tensors, {}, {}, 1.0, [0.5], 0.1)
    )
    found = [module.filter_once(dataclasses.replace(job, latent={"samples": torch.zeros(n, 8, 16, 16)})) for n in (1, 4)]
    assert len(learnt) == 1 and all(set(f.kept) == set(job.tensors) for f in found)
    assert not next(iter(module._last.values())).kept


def test_settings_out_of_range_are_refused_before_anything_is_encoded(last, job, monkeypatch):
    module, _ = last
    monkeypatch.setattr(module, "encoded", lambda *_: pytest.fail("work began"))
    with pytest.raises(ValueError, match="keep"):
        module.filter_once(dataclasses.replace(job, keep=2.0))


@pytest.mark.parametrize(("reference", "cfg", "asked"), [("", 2.0, False), ("a word", 2.0, True), ("", 1.0, True)])
def test_runs_are_not_asked_twice_for_what_they_met(comfy, demo, monkeypatch, reference, cfg, asked):
    """What a run's own model predicts is taken from the run, where it asks for both sides; and is what it answers when asked again."""
    module = importlib.import_module("unmemorize_pack.host.combined.change_measuring")
    progress = importlib.import_module("unmemorize_pack.host.core.progress").Progress(100)
    with torch.inference_mode():
        runs = module.Latents(
            *demo[:2], ["a small red circle", "a star"], reference, SIZE, USE | {"steps": 4, "cfg": cfg}, progress, [0.1, 0.6]
        )
        before = runs.evaluations
        found = runs.predicted(*demo[:2])
        assert (runs.evaluations > before) == asked
        anew = runs.predicted(demo[0].clone(), demo[1])
        name = next(k for k in demo[0].model.state_dict() if k.endswith("attn2.to_out.0.weight"))
        other = demo[0].clone()
        other.add_patches({name: (torch.ones_like(demo[0].model.state_dict()[name]),)}, 1.0)
        changed = runs.predicted(other, demo[1])
    assert len(found) == len(anew) == 4
    assert not torch.allclose(found[0][0], changed[0][0], atol=1e-3), "another model answers for itself"
    for one, other in zip(found, anew, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
