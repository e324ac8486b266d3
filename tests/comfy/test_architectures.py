"""Maps, guard and neurons on ComfyUI's own class of each architecture, around tiny networks of random weights: sums, bits, traces."""

from __future__ import annotations

import functools
import importlib
import json
import re

import pytest
import torch
from unmemorize_pack.tests.comfy import networks

MODELS = {
    "SD1.5": {16},
    "SDXL": {16},
    "SD3": {16, 8},
    "Flux": {16, 8, 24},
    "Flux.2": {16, 512, 528},
    "Krea 2": {24},
    "Qwen-Image": {16, 8},
    "Z-Image": {16, 24},
    "Lumina 2": {16, 24},
    "Wan": {16},
    "AuraFlow": {16, 32},
    "PixArt": {400},
}
"""By the names the README uses; how many tokens a feed-forward layer hears: of the picture, of the prompt, of both."""
SAMPLING = {"seed": 1, "steps": 4, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple"}
ROTARY = {"Flux", "Flux.2", "Krea 2", "Qwen-Image", "Z-Image", "Lumina 2", "Wan"}
NO_GRADIENTS = "inplace operation|no autograd formula"
"""ComfyUI's own: 0.3.75 adds in place in Flux, 0.33 rotates by kernels without a backward pass. The node takes differences and says so."""
ALL = -1e30
"""A limit that every sample exceeds."""


@pytest.fixture(scope="module")
def tiny(comfy):
    """tiny("Flux") -> MODEL, made once."""
    return functools.cache(networks.tiny_model)


def run(name, model, n=1):
    """The stock sampler's latents, by a model under guard or not."""
    empty = networks.latent(name, n)
    noise = torch.randn(empty.shape, generator=torch.Generator().manual_seed(1))
    sides = networks.prompt(name, 1), networks.prompt(name, 0)
    how = (SAMPLING["steps"], SAMPLING["cfg"], SAMPLING["sampler_name"], SAMPLING["scheduler"])
    return importlib.import_module("comfy.sample").sample(model, noise, *how, *sides, empty, disable_pbar=True, seed=1)


@pytest.mark.parametrize("name", MODELS)
def test_maps(nodes, tiny, untouched, monkeypatch, name):
    """v . (J v) = v . (J^T v): whatever the probes, the map's sum is the same by differences and by gradients. Random networks bend more
    than trained ones: differences take a fifth of the usual step."""
    step = importlib.import_module("unmemorize_pack.unmemorize.curvature.diagonal").probe_step
    monkeypatch.setattr(step, "__defaults__", (step.__defaults__[0] / 5,))
    model, latents = tiny(name), torch.randn(networks.latent(name).shape, generator=torch.Generator().manual_seed(3))
    given = {
        "model": model, "positive": networks.prompt(name, 1), "negative": networks.prompt(name, 0), "latent": {"samples": latents},
        "method": "dh_0", "preset": "custom", "sigmas": "0.5", "probes": 2, "noises": 1, "probing": "structured", "seed": 0,
    }  # fmt: skip
    measure = nodes["UnmemorizeCurvatureDifferenceMap"].execute
    with untouched(model):
        result, _, report = measure(estimator="central difference", **given).args
        exact, _, told = measure(estimator="reverse mode", **given).args
        nothing = measure(estimator="central difference", **given | {"positive": given["negative"]}).args[0]["values"]
    values = result["values"]
    assert values.shape == (1, *latents.shape[-2:]) and values.isfinite().all() and values.std() > 0
    assert json.loads(report)["evaluations"] == 8
    facts = json.loads(told)
    assert facts["estimator"] == "reverse mode" or (name in ROTARY and re.search(NO_GRADIENTS, facts["why"])), facts["why"]
    assert abs(values.sum() - exact["values"].sum()) < 0.02 * values.abs().sum()
    assert nothing.abs().max() < 1e-3 * values.abs().max()


@pytest.mark.parametrize("name", MODELS)
def test_guard(guarding, host, tiny, untouched, off_is_exact, name):
    """Detecting changes no bit; a restart by the model itself, in two phases, is the stock run."""
    model, stock = tiny(name), run(name, tiny(name), 2)
    prompts = [networks.prompt(name, k) for k in range(2, 7)]
    stored = host("stability.profiles").calibrate(model, prompts, networks.prompt(name, 0), {"samples": networks.latent(name)}, 1, SAMPLING)
    with untouched(model):
        clone, record = guarding.guarded(model, guarding.Guard(stored, limit=ALL))
        off_is_exact(run(name, clone, 2), stock)
        assert record.facts["memorized"] == [True, True] and record.facts["detector"] == "default"
        restart = host("stability.restart")
        how = restart.Restart((restart.Phase(0.5, parent=True), restart.Phase(1.0)), model)
        clone, record = guarding.guarded(model, guarding.Guard(stored, mode="correct", limit=ALL, strategy=how))
        again = run(name, clone, 2)
    assert record.facts["restarted"] == [0, 1] and torch.allclose(again, stock, rtol=1e-3, atol=1e-3 * float(stock.abs().max()))


@pytest.mark.parametrize("name", MODELS)
def test_neurons(neuron_host, tiny, untouched, name):
    """Every layer hears both sides of the guidance, as many tokens each; pruned weights are zero; the model stays."""
    model, h = tiny(name), neuron_host
    latent, empty = {"samples": networks.latent(name)}, networks.prompt(name, 0)
    with untouched(model):
        memorized, reference = (
            h.recording.record(model, prompts, empty, latent, 1, SAMPLING, "feed-forward", 0.5)
            for prompts in ([networks.prompt(name, 1), networks.prompt(name, 2)], [empty])
        )
        mask = h.finding.find(model, memorized, reference, 0.05, 0.0, "cond only", "wanda")
    assert set(mask.mask.bits) == {layer.key for layer in h.layers.layers_of(model, "feed-forward")}
    heard = memorized.activity.rows.values()
    assert all(torch.equal(rows[0], rows[1]) for rows in heard) and {n // 2 for r in heard for n in r.flatten().tolist()} == MODELS[name]
    clone = h.masks.pruned(model, mask, 1.0)
    for key in mask.mask.bits:
        weight = h.weights.Weights(clone).effective(key, clone.load_device)
        assert mask.mask.dense(key).any() and not weight[mask.mask.dense(key)].any()
    assert not torch.equal(run(name, clone), run(name, model))
