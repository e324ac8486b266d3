"""A guarded demo model."""

from __future__ import annotations

import dataclasses
import importlib

import pytest
import torch

from ..judging import STEPS
from ..loras import attention_patched


@pytest.fixture
def guard(demo, guarding, stored):
    """guard(mode=..., limit=..., ...) -> clone of the demo under guard, record."""
    return lambda mode="detect", **more: guarding.guarded(demo[0], guarding.Guard(stored, mode, **more))


@pytest.fixture
def under(stored):
    """under("model_function_wrapper"): the profile as if it had been measured with other nodes of that kind."""
    return lambda *influences: dataclasses.replace(stored, facts={**stored.facts, "influences": list(influences)})


@pytest.fixture
def advanced(demo, encode):
    """advanced(model, latent, first, last): KSampler Advanced from a step to a step; noise is added at step 0, and left over."""
    node = importlib.import_module("nodes").KSamplerAdvanced()

    def run(model, latent, first, last, end="enable"):
        noise = "disable" if first else "enable"
        settings = (noise, 1, STEPS, 2.0, "euler", "normal", encode("a red ring"), encode(""), {"samples": latent}, first, last, end)
        with torch.inference_mode():
            return node.sample(model, *settings)[0]["samples"]

    return run


@pytest.fixture
def judge_parts(host, monkeypatch):
    """Here runs that were seen in part are judged too: it is the corrections that are looked at."""
    monkeypatch.setattr(host("stability.verdicts"), "why_not", lambda watch, profile: "")


@pytest.fixture(scope="module")
def changed(demo):
    """The demo model under a LoRA that changes something."""
    return attention_patched(demo[0], lambda w, g: 0.5 * w.float().std() * torch.randn(w.shape, generator=g))


@pytest.fixture
def lora_guard(demo, changed, guarding, host):
    """lora_guard(mode, ...) -> the changed model under guard by its parent, without a profile; and the record."""

    def make(mode="detect", model=None, **more):
        methods = host("stability.methods")
        asked = methods.Guard(more.pop("stored", None), mode, parent=more.pop("parent", demo[0]), **more)
        methods.check(asked, model or changed)
        return guarding.guarded(model or changed, asked)

    return make


@pytest.fixture
def common(host):
    """The module that corrects under a LoRA."""
    return host("stability.common_change")


@pytest.fixture
def trial(host):
    """The module that tries."""
    return host("stability.trial")


@pytest.fixture
def guilty(trial, monkeypatch):
    """No trial acquits."""
    monkeypatch.setattr(trial, "UNMOVED", 2.0)
