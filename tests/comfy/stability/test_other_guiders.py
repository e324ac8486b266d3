"""Guiders that are no plain pair of prompt and empty prompt: no verdict and no map where the pair cannot be told."""

from __future__ import annotations

import importlib

import pytest
import torch

from ..judging import EMPTY, PROMPT, STEPS, why


@pytest.mark.parametrize(("guided_below", "judged"), [(14.0, True), (0.9, False), (0.0, False)])
def test_guidance_in_a_part_of_the_run(demo, encode, guard, guided_below, judged):
    """An interval of guidance: steps without it are left out; if they are most of those that count, there is no verdict."""
    samplers = importlib.import_module("comfy.samplers")
    sigmas = samplers.calculate_sigmas(demo[0].get_model_object("model_sampling"), "normal", STEPS)

    class Interval(samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options=None, seed=None):
            self.cfg = 2.0 if float(timestep[0]) < guided_below else 1.0
            return super().predict_noise(x, timestep, model_options, seed)

    def run(model):
        interval = Interval(model)
        interval.set_conds(encode(PROMPT), encode(""))
        noise = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            return interval.sample(noise, torch.zeros(1, 8, 8, 8), samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=1)

    model, record = guard()
    assert torch.equal(run(model), run(demo[0]))
    assert (why(record) == "") == judged and (judged or "guidance" in why(record))


def guider(custom, name, model, encode):
    words = [encode(t) for t in (PROMPT, "a large blue star on a white background", "")]
    if name == "DualCFGGuider":
        return custom.DualCFGGuider.execute(model, *words, 2.0, 2.0, "regular").args[0]
    return importlib.import_module("comfy_extras.nodes_perpneg").PerpNegGuider.execute(model, *words, 2.0, 1.0).args[0]


@pytest.mark.parametrize("name", ["DualCFGGuider", "PerpNegGuider"])
def test_guiders_that_hold_other_prompts(demo, encode, guard, nodes, name):
    """No verdict and no map of a pair that is not prompt and empty prompt; the picture is the same to the bit."""
    custom, samplers = (importlib.import_module(n) for n in ("comfy_extras.nodes_custom_sampler", "comfy.samplers"))
    sigmas = samplers.calculate_sigmas(demo[0].get_model_object("model_sampling"), "normal", 5)

    def run(model):
        noise = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            return guider(custom, name, model, encode).sample(
                noise, torch.zeros(1, 8, 8, 8), samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=1
            )

    stock = run(demo[0])
    for mode in ("detect", "correct"):
        model, record = guard(mode, limit=-1e9)
        assert torch.equal(run(model), stock) and "holds other prompts" in why(record) and record.facts["restarted"] == []
    recorded, recording = nodes["UnmemorizeRecordScoreDifference"].execute(demo[0], 0.0, 1.0).args
    latent = run(recorded)
    with pytest.raises(ValueError, match="holds other prompts"):
        nodes["UnmemorizeScoreDifferenceMap"].execute(recording, {"samples": latent})


def test_a_second_stage_does_not_hide_what_the_first_could_not_see(demo, encode, guard):
    """A first stage under a guider with other prompts, the second under a plain one: no verdict on the whole."""
    custom, samplers = (importlib.import_module(n) for n in ("comfy_extras.nodes_custom_sampler", "comfy.samplers"))
    sigmas = samplers.calculate_sigmas(demo[0].get_model_object("model_sampling"), "normal", STEPS)
    model, record = guard()
    plain = samplers.CFGGuider(model)
    plain.set_conds(encode(PROMPT), encode(""))
    plain.set_cfg(2.0)
    noise = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    euler = samplers.sampler_object("euler")
    with torch.inference_mode():
        latent = guider(custom, "DualCFGGuider", model, encode).sample(noise, EMPTY, euler, sigmas[:6], disable_pbar=True, seed=1)
        plain.sample(torch.zeros_like(noise), latent, euler, sigmas[5:], disable_pbar=True, seed=1)
    assert "holds other prompts" in why(record) and len(record.facts["sigmas"]) == STEPS + 1


def test_a_guider_that_asks_another_model_for_the_empty_prompt(demo, encode, guard, nodes):
    """DualModelGuider of newer ComfyUI: what it calls the empty prompt is not this model's."""
    custom, samplers = (importlib.import_module(n) for n in ("comfy_extras.nodes_custom_sampler", "comfy.samplers"))
    sigmas = samplers.calculate_sigmas(demo[0].get_model_object("model_sampling"), "normal", 5)

    def run(model):
        if hasattr(custom, "DualModelGuider"):
            dual = custom.DualModelGuider.execute(model, encode(PROMPT), 2.0, demo[0].clone(), encode("")).args[0]
        else:  # older ComfyUI has no such guider: one that says of itself that it holds a second model
            dual = samplers.CFGGuider(model)
            dual.set_conds(encode(PROMPT), encode(""))
            dual.set_cfg(2.0)
            dual.uncond_model_patcher = demo[0].clone()
        noise = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            return dual.sample(noise, torch.zeros(1, 8, 8, 8), samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=1)

    model, record = guard("correct", limit=-1e9)
    assert torch.equal(run(model), run(demo[0])) and "another model" in why(record) and record.facts["restarted"] == []
    recorded, recording = nodes["UnmemorizeRecordScoreDifference"].execute(demo[0], 0.0, 1.0).args
    latent = run(recorded)
    with pytest.raises(ValueError, match="another model"):
        nodes["UnmemorizeScoreDifferenceMap"].execute(recording, {"samples": latent})
