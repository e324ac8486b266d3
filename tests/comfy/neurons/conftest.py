"""Recordings and masks that the tests on neurons share."""

from __future__ import annotations

import importlib
import json

import pytest
import torch

PHOTOS = "# two photographs\na large halved blue circle on a brown background\na large orange cross on a brown background"
SCENE = "a small red circle on a gray background"
SAMPLING = {"seed": 0, "steps": 8, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
FINDING = {"top_share": 0.05, "select_ratio": 0.0, "rows": "both", "score": "wanda", "keep_levels": False}
"""Of the recordings and masks that the tests on neurons share."""


@pytest.fixture(scope="module")
def method(comfy):
    return importlib.import_module("unmemorize_pack.unmemorize.neurons.masks")


@pytest.fixture(scope="module")
def record(nodes, demo, encode):
    """Record Neuron Activity with other settings than these: record(prompts=..., model=...) -> (activity, report)."""

    def run(prompts=PHOTOS, **changes):
        with torch.inference_mode():
            given = {
                "model": demo[0],
                "clip": demo[1],
                "negative": encode(""),
                "latent": {"samples": torch.zeros(1, 4, 16, 16)},
                "seeds": 1,
            }
            given |= {"prompts": prompts, "window_end": 2.0, "place": "feed-forward"} | SAMPLING | changes
            activity, text = nodes["UnmemorizeRecordNeuronActivity"].execute(**given).args
        return activity, json.loads(text)

    return run


@pytest.fixture(scope="module")
def memorized(record):
    return record()[0]


@pytest.fixture(scope="module")
def reference(record):
    return record("")[0]


@pytest.fixture(scope="module")
def find(nodes, demo, memorized, reference):
    def run(**changes):
        given = {"model": demo[0], "memorized": memorized, "reference": reference} | FINDING | changes
        with torch.inference_mode():
            mask, density, text = nodes["UnmemorizeFindMemorizedNeurons"].execute(**given).args
        return mask, density, json.loads(text)

    return run


@pytest.fixture(scope="module")
def mask(find):
    return find()[0]


@pytest.fixture(scope="module")
def prune(nodes, demo, mask):
    def run(model=None, strength=1.0, **changes):
        given = {"model": model or demo[0], "mask": mask, "strength": strength} | changes
        return nodes["UnmemorizePruneNeurons"].execute(**given).args

    return run
