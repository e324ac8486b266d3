"""Settings that only programs can send: numbers that are none, names that ComfyUI does not have, prompts that are all comments."""

from __future__ import annotations

import importlib
import math

import pytest
import torch

EMPTY = {"samples": torch.zeros(1, 8, 16, 16)}
SAMPLING = {"seed": 0, "steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
PROMPTS = "\n".join(f"a {c} ring" for c in ("red", "blue", "green", "yellow", "white", "pink"))


@pytest.fixture
def runs(nodes, demo, encode):
    """Node -> run(**changes) with settings that are good otherwise."""
    model, clip = demo[0], demo[1]
    positive, negative = encode("a red ring"), encode("")

    def profile(**changes):
        given = {"model": model, "clip": clip, "negative": negative, "latent": EMPTY, "prompts": PROMPTS, "seeds": 1, **SAMPLING}
        return nodes["UnmemorizeCalibrateStabilityProfile"].execute(**(given | changes))

    def ksampler(**changes):
        given = {"model": model, "positive": positive, "negative": negative, "latent_image": EMPTY, "denoise": 1.0, **SAMPLING}
        return nodes["UnmemorizeKSamplerStabilityGuard"].execute(**(given | {"mode": "off", "method": "recommended"} | changes))

    def prune(**changes):
        mask = nodes["UnmemorizeLoadNeuronMask"].execute("demo/demo").args[0]
        return nodes["UnmemorizePruneNeurons"].execute(**({"model": model, "mask": mask, "strength": 1.0} | changes))

    return {"profile": profile, "ksampler": ksampler, "prune": prune}


@pytest.mark.parametrize(
    ("node", "changes"),
    [
        ("profile", {"cfg": math.nan}), ("profile", {"cfg": math.inf}), ("profile", {"sampler_name": "euler2"}),
        ("profile", {"scheduler": "\ud800"}), ("profile", {"steps": 0}), ("ksampler", {"cfg": math.nan}),
        ("ksampler", {"denoise": math.nan}), ("ksampler", {"denoise": 2.0}), ("ksampler", {"sampler_name": "none"}),
        ("ksampler", {"scheduler": ""}), ("prune", {"strength": math.nan}), ("prune", {"strength": -1.0}),
    ],
)  # fmt: skip
def test_what_no_widget_allows_is_an_error_before_work(runs, demo, untouched, node, changes):
    called = []
    hook = demo[0].model.diffusion_model.register_forward_pre_hook(lambda *_: called.append(1))
    try:
        with pytest.raises(ValueError) as told:
            runs[node](**changes)
    finally:
        hook.remove()
    str(told.value).encode()
    assert not called and next(iter(changes)) in str(told.value)


@pytest.mark.parametrize("text", ["# one\n  # two", "#", " \n# a\n"])
def test_prompts_that_are_all_comments_are_an_error_at_that_node(comfy, runs, text):
    prompt_list = importlib.import_module("unmemorize_pack.host.core.prompts").prompt_list
    with pytest.raises(ValueError, match="they are comments, and no prompt is left"):
        prompt_list(text)
    with pytest.raises(ValueError, match="they are comments"):
        runs["profile"](prompts=text)
    assert prompt_list("") == [] and prompt_list(" \n ") == [] and prompt_list("# a\nb\nb\n") == ["b"]


@pytest.mark.parametrize("name", ["threshold", "deviations", "temperature", "keep", "energy", "strength"])
def test_a_filters_settings_are_numbers(name):
    gates = importlib.import_module("unmemorize_pack.unmemorize.lora.gates")
    with pytest.raises(ValueError):
        gates.Settings(**{name: math.nan}).check()


def test_an_empty_latent_is_fitted_once(comfy, host, demo, monkeypatch):
    """ComfyUI 0.33's empty latents say what they were made for; fitted twice, a model of another ratio would draw a quarter of the size."""
    sampling, asked = host("core.sampling"), []
    monkeypatch.setattr(sampling.comfy.sample, "fix_empty_latent_channels", lambda _model, samples, **more: asked.append(more) or samples)
    latent = {"samples": torch.zeros(2, 4, 8, 8), "downscale_ratio_spacial": 8, "noise_mask": "kept"}
    first = sampling.first_of(demo[0], latent)
    assert asked == [{"downscale_ratio_spacial": 8}] and len(first["samples"]) == 1 and first["noise_mask"] == "kept"
    sampling.fitted(demo[0], first)
    assert asked[1] == {} and sampling.empty_of(demo[0], latent).shape == (1, 4, 8, 8)
