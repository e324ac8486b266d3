"""Corrections under the core's other guiders: their own scales are raised, and what would change nothing is not called a correction."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture(scope="module")
def restart(comfy):
    return importlib.import_module("unmemorize_pack.host.stability.restart")


@pytest.fixture(scope="module")
def guards(comfy):
    return importlib.import_module("unmemorize_pack.host.stability.guard")


@pytest.fixture
def run(demo, encode):
    """run(model, seed) -> a latent sampled under BasicGuider: one prompt, no guidance."""
    custom, samplers = (importlib.import_module(n) for n in ("comfy_extras.nodes_custom_sampler", "comfy.samplers"))
    sigmas = samplers.calculate_sigmas(demo[0].get_model_object("model_sampling"), "normal", 5)

    def sample(model, seed=1):
        guider = custom.Guider_Basic(model)
        guider.set_conds(encode("a small red ring on a gray background"))
        noise = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(seed))
        with torch.inference_mode():
            return guider.sample(noise, torch.zeros(1, 8, 16, 16), samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=seed)

    return sample


@pytest.fixture
def unguided(demo, encode):
    """A profile measured without guidance."""
    profiles = importlib.import_module("unmemorize_pack.host.stability.profiles")
    prompts = [encode(f"a small {c} ring on a gray background") for c in ("red", "blue", "green", "pink", "cyan")]
    use = {"seed": 3, "steps": 5, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal"}
    with torch.inference_mode():
        return profiles.calibrate(demo[0], prompts, encode(""), {"samples": torch.zeros(1, 8, 16, 16)}, 1, use)


def flags_all(guards, restart, stored, parent=None):
    """A guard to which every run is a memory."""
    rule = importlib.import_module("unmemorize_pack.unmemorize.stability.rule").Rule(tau_mild=-1e9)
    return guards.Guard(stored, "correct", parent=parent, rule=rule, strategy=restart.default_restart(parent))


def test_a_restart_that_could_change_nothing_is_none(demo, run, guards, restart, unguided):
    """BasicGuider without a parent: the same picture to the bit, no list of corrected pictures, and the reason in words."""
    guarded, record = guards.guarded(demo[0], flags_all(guards, restart, unguided))
    assert torch.equal(run(guarded), run(demo[0]))
    assert record.facts["memorized"] == [True] and record.facts["restarted"] == []
    assert any("Connect a parent model" in text for text in record.facts["warnings"])


def test_with_a_parent_it_is_drawn_again(demo, run, guards, restart, unguided, nodes):
    early = nodes["UnmemorizeLoadDemoCheckpoint"].execute("early").args[0]
    guarded, record = guards.guarded(demo[0], flags_all(guards, restart, unguided, early))
    assert torch.equal(run(guarded), run(early))
    assert record.facts["restarted"] == [0] and not any("Connect a parent model" in text for text in record.facts["warnings"])


@pytest.mark.parametrize(
    ("scales", "wanted"),
    [
        ({"cfg": 2.0}, {"cfg": 3.0}),
        ({"cfg": 1.0}, {"cfg": 1.0}),
        ({"cfg": 1.0, "cfg1": 4.0, "cfg2": 2.0}, {"cfg": 1.0, "cfg1": 6.0, "cfg2": 3.0}),
        ({"cfg": 8.0, "neg_scale": 0.5}, {"cfg": 12.0, "neg_scale": 0.5}),
    ],
)
def test_every_guiders_own_guidance_is_raised(restart, scales, wanted):
    guider = SimpleNamespace(**scales, original_conds={}, model_options={}, model_patcher=None)
    other = restart._guider_for(guider, restart.Phase(1.0, cfg=1.5), None, torch.tensor([1.0, 0.0]), 0)
    assert {k: getattr(other, k) for k in wanted} == wanted
    assert {k: getattr(guider, k) for k in scales} == scales


@pytest.mark.parametrize(("noise", "latent", "judged"), [(0.0, 0.0, False), (0.0, 1.0, False), (0.0, 14.6, True), (1.0, 0.0, True)])
def test_a_run_without_any_noise_is_not_judged(guard, demo, encode, noise, latent, judged):
    """DisableNoise, from an empty latent or a picture; a latent may hold the noise itself, from AddNoise."""
    samplers = importlib.import_module("comfy.samplers")
    sigmas = samplers.calculate_sigmas(demo[0].get_model_object("model_sampling"), "normal", 6)
    model, record = guard()
    guider = samplers.CFGGuider(model)
    guider.set_conds(encode("a small red ring on a gray background"), encode(""))
    guider.set_cfg(2.0)
    drawn = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    held = demo[0].model.process_latent_out(drawn * latent) if latent else torch.zeros_like(drawn)
    with torch.inference_mode():
        guider.sample(drawn * noise, held, samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=1)
    assert ("without any noise" not in record.facts["not_judged"][0]) == judged
