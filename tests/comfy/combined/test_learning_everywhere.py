"""A LoRA learns on ComfyUI's own class of each architecture, around tiny networks of random weights; in half precision too."""

from __future__ import annotations

import functools
import importlib

import pytest
import torch
from unmemorize_pack.tests.comfy import networks
from unmemorize_pack.tests.comfy.test_architectures import MODELS


@pytest.fixture(scope="module")
def tiny(comfy):
    """tiny("Flux") -> MODEL, made once."""
    return functools.cache(networks.tiny_model)


def lora_of(model):
    """Rank 2, on the first and the last matrix of the network that is as wide as it is called for."""
    modules = {k: m for k, m in model.model.diffusion_model.named_modules() if isinstance(m, torch.nn.Linear) and min(m.weight.shape) > 2}
    names, generator, tensors = list(modules), torch.Generator().manual_seed(1), {}
    for name in (names[len(names) // 2], names[-1]):
        m, n = modules[name].weight.shape
        tensors[f"diffusion_model.{name}.lora_up.weight"] = 0.1 * torch.randn(m, 2, generator=generator)
        tensors[f"diffusion_model.{name}.lora_down.weight"] = 0.1 * torch.randn(2, n, generator=generator)
    return tensors


def taught(host, name, model, steps=2):
    """Factors that learnt from two points of noise to predict nothing, and what they were."""
    keys, lessons, factory = host("lora.keys"), host("combined.lessons"), host("combined.new_factors")
    tensors = lora_of(model)
    with torch.inference_mode():
        whole = importlib.import_module("comfy.sd").load_lora_for_models(model, None, tensors, 1.0, 0.0)[0]
        factors, passed = factory.factors_of(keys.take_apart(tensors, model, None).updates, whole, model.load_device)
        assert len(factors) == 2 and not passed
        before = [p.detach().clone() for f in factors for p in f.new]
        x = torch.randn(networks.latent(name).shape, generator=torch.Generator().manual_seed(2))
        sampling = model.get_model_object("model_sampling")
        points = [host("core.predictions").Point(x * s, s) for s in (float(sampling.sigma_max) * 0.5, float(sampling.sigma_max) * 0.2)]
        targets = torch.zeros(2, *x.shape[1:])
        asked = [lessons.Lesson(lessons.PROMPT, "a", points, targets), lessons.Lesson(lessons.EMPTY, "b", points, targets)]
        prompts = {"a": networks.prompt(name, 1), "b": networks.prompt(name, 0)}
        progress = host("core.progress").Progress(1)
        count = lessons.teach(whole, factors, prompts, asked, networks.latent(name), steps, 0, progress)
    return before, [p.detach() for f in factors for p in f.new], count


@pytest.mark.parametrize("name", MODELS)
def test_factors_learn(host, tiny, name):
    model = tiny(name)
    before, after, count = taught(host, name, model)
    assert all(a.isfinite().all() for a in after) and count >= 2 * 3 * 5
    assert sum(not torch.equal(a, b) for a, b in zip(after, before, strict=True)) >= 2, "no gradient came"
    assert not any(m._forward_hooks for m in model.model.diffusion_model.modules())
