"""A map asks what the denoiser does near a point: caches are bypassed, chance is fixed, what still remembers is refused."""

from __future__ import annotations

import importlib
import json
import random
from typing import Any

import pytest
import torch

from .. import networks

SETTINGS = {
    "method": "dh_0", "preset": "custom", "sigmas": "0.2", "probes": 4, "noises": 1, "probing": "structured",
    "estimator": "forward difference", "seed": 0,
}  # fmt: skip
PHOTO = "a large halved blue circle on a brown background"


@pytest.fixture
def map_of(nodes):
    """map_of(model, positive, negative, samples) -> values, report"""

    def run(model: Any, positive: Any, negative: Any, samples: torch.Tensor, **changes: Any) -> tuple[torch.Tensor, dict]:
        inputs = {"model": model, "positive": positive, "negative": negative, "latent": {"samples": samples}}
        found, _, report = nodes["UnmemorizeCurvatureDifferenceMap"].execute(**inputs, **(SETTINGS | changes)).args
        return found["values"], json.loads(report)

    return run


@pytest.mark.parametrize("cache", ["EasyCacheNode", "LazyCacheNode"])
@pytest.mark.parametrize("name", ["Flux", "Qwen-Image"])
def test_the_cores_caches_are_bypassed(comfy, map_of, name, cache):
    node = getattr(importlib.import_module("comfy_extras.nodes_easycache"), cache)
    model = networks.tiny_model(name)
    cached = node.execute(model, 0.2, 0.15, 0.95, False).args[0]
    samples = torch.randn(networks.latent(name).shape, generator=torch.Generator().manual_seed(3))
    prompts = networks.prompt(name, 1), networks.prompt(name, 0)
    before = {kind: dict(by_key) for kind, by_key in cached.wrappers.items()}
    assert torch.equal(map_of(cached, *prompts, samples)[0], map_of(model, *prompts, samples)[0])
    assert {kind: dict(by_key) for kind, by_key in cached.wrappers.items()} == before, "the MODEL keeps its cache"


@pytest.fixture
def picture(sample):
    return sample(PHOTO, steps=8)


PATCHES = {
    "ToMe": ("comfy_extras.nodes_tomesd", "TomePatchModel", (0.3,)),
    "HyperTile": ("comfy_extras.nodes_hypertile", "HyperTile", (32, 3, 0, False)),
}


@pytest.mark.parametrize("patch", PATCHES)
def test_patches_that_draw_random_numbers_draw_the_same_each_time(comfy, demo, encode, map_of, picture, patch):
    module, name, arguments = PATCHES[patch]
    found = getattr(importlib.import_module(module), name).execute(demo[0], *arguments)
    model = found.args[0] if hasattr(found, "args") else found[0]
    torch.manual_seed(1)
    first = map_of(model, encode(PHOTO), encode(""), picture)[0]
    torch.manual_seed(2)
    random.seed(2)
    assert torch.equal(map_of(model, encode(PHOTO), encode(""), picture)[0], first)


def test_global_generators_go_on_where_they_were(demo, encode, map_of, picture):
    torch.manual_seed(5)
    random.seed(5)
    expected = torch.rand(3), random.random()
    torch.manual_seed(5)
    random.seed(5)
    map_of(demo[0], encode(PHOTO), encode(""), picture)
    assert torch.equal(torch.rand(3), expected[0]) and random.random() == expected[1]


class Remembers:
    """A cache as packs build them: near points are answered from the last real call."""

    def __init__(self) -> None:
        self.x, self.answer = None, None

    def __call__(self, apply_model: Any, given: dict[str, Any]) -> torch.Tensor:
        x = given["input"]
        if self.x is not None and self.x.shape == x.shape and float((x - self.x).abs().mean()) < 0.3 * float(self.x.abs().mean()):
            return self.answer + (x - self.x)
        self.x, self.answer = x, apply_model(x, given["timestep"], **given["c"])
        return self.answer


@pytest.mark.parametrize("changes", [{}, {"estimator": "central difference"}, {"method": "ds_0", "noises": 2}])
def test_a_cache_of_another_pack_is_noticed(demo, encode, map_of, picture, changes):
    model = demo[0].clone()
    model.set_model_unet_function_wrapper(Remembers())
    with pytest.raises(ValueError, match="depends on its earlier calls.*Connect the MODEL before"):
        map_of(model, encode(PHOTO), encode(""), picture, **changes)


def test_a_wrapper_that_remembers_nothing_is_no_reason(demo, encode, map_of, picture):
    model = demo[0].clone()
    model.set_model_unet_function_wrapper(lambda apply_model, given: apply_model(given["input"], given["timestep"], **given["c"]))
    plain, report = map_of(demo[0], encode(PHOTO), encode(""), picture)
    wrapped, checked = map_of(model, encode(PHOTO), encode(""), picture)
    assert torch.equal(plain, wrapped)
    assert checked["evaluations"] == report["evaluations"] + 2 * 4, "the check is counted"
