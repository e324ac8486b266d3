"""A guarded demo model."""

from __future__ import annotations

import importlib

import pytest
import torch

from ..judging import STEPS


@pytest.fixture
def guard(demo, guarding, stored):
    """guard(mode=..., limit=..., ...) -> clone of the demo under guard, record."""
    return lambda mode="detect", **more: guarding.guarded(demo[0], guarding.Guard(stored, mode, **more))


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
