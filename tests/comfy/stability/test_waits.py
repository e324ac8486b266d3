"""A guarded run does not wait for the device at its steps: what is noted stays there until the end, or until somebody looks."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from unmemorize_pack.tests.waits import Waits

STEPS = 8


@pytest.fixture
def counted(guard, guarding, draw, monkeypatch):
    """counted(sampler) -> waits of the guard at each model call, and the record."""
    original = guarding._Control.listen

    def run(sampler: str):
        waits = []

        def listen(self, facts):
            with Waits() as seen:
                found = original(self, facts)
            waits.append(seen.waits)
            return found

        monkeypatch.setattr(guarding._Control, "listen", listen)
        model, record = guard("detect")
        draw(model, sampler=sampler, steps=STEPS)
        return waits, record

    return run


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "ddim", "euler_ancestral", "lms"])
def test_detecting_waits_for_nothing_while_the_steps_run(counted, sampler):
    waits, record = counted(sampler)
    assert len(waits) == STEPS and waits[2:] == [0] * (STEPS - 2), "the levels of the first two calls are read"
    assert record.facts["not_judged"] == [""] and None not in [row[0] for row in record.facts["observed"]["prediction"]]


def test_a_sampler_that_calls_twice_a_step_is_read_at_every_call(counted):
    waits, record = counted("heun")
    assert all(waits) and record.facts["not_judged"] == [""]


class Config:
    sampling_settings: dict = {}


@pytest.fixture
def watch(comfy, host):
    kinds = importlib.import_module("comfy.model_sampling")
    sampling = type("Sampling", (kinds.ModelSamplingDiscrete, kinds.EPS), {})(Config())
    watching = host("stability.watching")
    return watching.new_watch(sampling, torch.tensor([10.0, 8.0, 6.0, 4.0, 2.0, 0.0]), None)


def see(watch, sigma, seed):
    x, d, c, u = torch.randn(4, 1, 2, 8, 8, generator=torch.Generator().manual_seed(seed))
    watch.see({
        "sigma": torch.tensor([sigma]), "input": x, "denoised": d, "cond_denoised": c, "uncond_denoised": u, "cond": [{}], "uncond": [{}],
        "cond_scale": 2.0,
    })  # fmt: skip


@pytest.mark.parametrize("odd", [None, 2, 3])
def test_a_call_that_was_not_of_its_step_is_forgotten_when_the_levels_are_read(watch, odd):
    """A sampler that seemed to call at every level calls beside one: as if it had been read at once."""
    watch.ended = 0
    levels = [10.0, 8.0, 6.0, 4.0, 2.0]
    for step, level in enumerate(levels):
        see(watch, level if step != odd else level + 0.9, step)
        watch.ended += 1
    seen, compared, observed = watch.seen, watch.compared, watch.observed()
    assert seen == {0, 1, 2, 3, 4} - {odd}
    assert compared == {1, 2, 3, 4} - ({odd, odd + 1} if odd else set())
    assert [math.isnan(v) for v in observed["prediction"][:, 0].tolist()] == [step == odd for step in range(5)]
    assert observed["revision"][:, 0].isfinite().sum() == len(compared)


def test_levels_that_are_not_counted_are_read(watch):
    with Waits() as waits:
        see(watch, 10.0, 0)
        see(watch, 8.0, 1)
        see(watch, 6.0, 2)
    assert waits.waits == 3 and watch.ended is None
