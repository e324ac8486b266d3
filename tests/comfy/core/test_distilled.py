"""Distilled guidance (FluxGuidance): it moves predictions as CFG does, so that a map compares prompts, and a guard runs, of one alone."""

from __future__ import annotations

import importlib

import pytest
import torch
from unmemorize_pack.tests.comfy import networks

NAME = "Flux dev"
USE = {"seed": 1, "steps": 3, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}


@pytest.fixture(scope="module")
def model(comfy):
    return networks.tiny_model(NAME)


def told(guidance, seed):
    """A prompt, through FluxGuidance unless None."""
    ((words, facts),) = networks.prompt(NAME, seed)
    return [[words, facts if guidance is None else {**facts, "guidance": guidance}]]


@pytest.fixture
def settings(nodes, model):
    """settings(guidance of the positive prompt, of the negative one) -> what a map says of itself."""
    latent = {"samples": torch.randn(networks.latent(NAME).shape, generator=torch.Generator().manual_seed(3))}
    node = nodes["UnmemorizeCurvatureDifferenceMap"]
    how = {"preset": "custom", "sigmas": "0.5", "probes": 1, "noises": 1, "probing": "structured", "seed": 0}
    how |= {"method": "ds_0", "estimator": "central difference", "model": model, "latent": latent}
    return lambda here, there: node.execute(positive=told(here, 1), negative=told(there, 0), **how).args[0]["settings"]


@pytest.mark.parametrize(("here", "there", "warned"), [(None, None, False), (3.5, None, False), (2.0, 2.0, False), (30.0, None, True)])
def test_a_map_of_prompts_with_another_guidance_each_says_so(settings, here, there, warned):
    """3.5 is what the core tells where nobody says anything."""
    found = settings(here, there)
    assert any("another guidance with the positive prompt (30)" in text for text in found.get("warnings", [])) == warned
    assert found["distilled_guidance"] == (here or 3.5)


def test_a_threshold_of_another_guidance_gives_no_verdict(host, settings):
    circumstances = host("curvature.circumstances")
    circumstances.check_same(settings(None, None), settings(3.5, 3.5))
    with pytest.raises(ValueError, match=r"with the distilled guidance 3.5, the map with 2,"):
        circumstances.check_same(settings(None, None), settings(2.0, 2.0))


@pytest.fixture(scope="module")
def profile(model, nodes):
    """profile(guidance of the negative prompt) -> a profile of runs without CFG."""
    profiles = importlib.import_module("unmemorize_pack.host.stability.profiles")

    def measured(guidance):
        prompts, latent = [told(None, k) for k in range(2, 7)], {"samples": networks.latent(NAME)}
        with torch.inference_mode():
            return profiles.calibrate(model, prompts, told(guidance, 0), latent, 1, USE)

    return measured


def judged(guarding, model, stored, guidance):
    """Why a run has no verdict."""
    clone, record = guarding.guarded(model, guarding.Guard(stored, "detect"))
    empty = networks.latent(NAME)
    noise = torch.randn(empty.shape, generator=torch.Generator().manual_seed(1))
    sample, how = importlib.import_module("comfy.sample").sample, (USE["steps"], USE["cfg"], USE["sampler_name"], USE["scheduler"])
    with torch.inference_mode():
        sample(clone, noise, *how, told(guidance, 1), told(None, 0), empty, disable_pbar=True, seed=1)
    return record.facts["not_judged"][0]


def test_a_profile_serves_its_own_guidance(guarding, host, model, profile, tmp_path):
    """Its prompts are told what the negative one is told; that is kept in its file."""
    for told_there, served, refused in ((None, 3.0, 2.0), (2.0, 2.0, 3.5)):
        host("core.files").replace(tmp_path / "x.safetensors", *host("stability.profiles").as_file(profile(told_there)))
        stored = host("stability.profiles").read_profile(tmp_path / "x.safetensors")
        assert stored.facts["distilled_guidance"] == (told_there or 3.5)
        assert judged(guarding, model, stored, served) == ""
        assert f"distilled guidance {refused:g} (FluxGuidance)" in judged(guarding, model, stored, refused)


def test_models_that_are_told_none_have_none(host):
    told_to = host("core.influences").distilled_guidance
    with_embedding, without = (networks.tiny_model(name).model.diffusion_model for name in (NAME, "Flux"))
    held = importlib.import_module("comfy.conds").CONDRegular(torch.FloatTensor([2.5]))
    conds = [{"model_conds": {}}, {"model_conds": {"guidance": held}}]
    assert told_to(with_embedding, conds) == 2.5 and told_to(without, conds) is None and told_to(with_embedding, conds[:1]) is None
