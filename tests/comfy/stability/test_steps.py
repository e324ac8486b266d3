"""A model call is known by its noise level, whatever the schedule: neighbouring levels may be as near as a thousandth."""

from __future__ import annotations

import importlib
import itertools
import math

import pytest
import torch


class Config:
    sampling_settings: dict = {}


@pytest.fixture(scope="module")
def sampling(comfy):
    """sampling(kind, shift) -> ComfyUI's model_sampling of that kind of model."""
    kinds = importlib.import_module("comfy.model_sampling")
    bases = {
        "flow": (kinds.ModelSamplingDiscreteFlow, kinds.CONST),
        "flux": (kinds.ModelSamplingFlux, kinds.CONST),
        "eps": (kinds.ModelSamplingDiscrete, kinds.EPS),
    }

    def make(kind: str, shift: float):
        made = type("Sampling", bases[kind], {})(Config())
        if kind != "eps":
            made.set_parameters(shift=shift)
        return made

    return make


@pytest.fixture(scope="module")
def schedule(comfy):
    return importlib.import_module("comfy.samplers").calculate_sigmas


@pytest.fixture(scope="module")
def schedulers(comfy):
    return importlib.import_module("comfy.samplers").SCHEDULER_NAMES


KINDS = [("eps", 1.0), *(("flow", s) for s in (1.0, 3.0, 6.0, 12.0)), *(("flux", s) for s in (0.5, 1.15))]


@pytest.fixture(scope="module")
def watching(comfy):
    return importlib.import_module("unmemorize_pack.host.stability.watching")


def seen(watching, watch, sigmas: list[float]) -> list[int | None]:
    """The steps that calls at these levels, in this order, belong to."""
    steps = []
    for sigma in sigmas:
        step = watch.step_of(sigma)
        steps.append(step)
        if step is not None:
            watch.now = watching.Call(step, *[torch.zeros(1)] * 4)
    return steps


@pytest.mark.parametrize(("kind", "shift"), KINDS)
def test_every_step_is_told_apart(watching, sampling, schedule, schedulers, kind, shift):
    """Every scheduler x 20-50 steps: each call is its own step, also after rounding, and calls half-way belong to none."""
    model_sampling = sampling(kind, shift)
    for scheduler, count in itertools.product(schedulers, (20, 21, 28, 30, 37, 50)):
        sigmas, at = schedule(model_sampling, scheduler, count), (scheduler, count)
        levels = sigmas[:-1].tolist()
        wanted = list(range(len(levels)))
        assert seen(watching, watching.new_watch(model_sampling, sigmas, None), levels) == wanted, at
        rounded = torch.tensor(levels, dtype=torch.float64).log().float().exp().tolist()
        assert seen(watching, watching.new_watch(model_sampling, sigmas, None), rounded) == wanted, (at, "rounded")
        middles = [math.sqrt(a * b) for a, b in zip(levels, levels[1:], strict=False) if a - b > 1e-4 * a]
        watch = watching.new_watch(model_sampling, sigmas, None)
        assert {watch.step_of(m) for m in middles} == {None}, (at, "between")


def test_a_call_that_looks_ahead_belongs_to_the_step_to_come(watching, sampling, schedule):
    """heun: level k, level k + 1, level k + 1 again."""
    model_sampling = sampling("eps", 1.0)
    sigmas = schedule(model_sampling, "normal", 5)
    s = sigmas.tolist()
    assert seen(watching, watching.new_watch(model_sampling, sigmas, None), [s[0], s[1], s[1], s[2], s[2], s[3]]) == [0, 1, 1, 2, 2, 3]


def test_a_level_that_lasts_two_steps(watching, sampling):
    sigmas = torch.tensor([3.0, 2.0, 2.0, 1.0, 0.0])
    assert seen(watching, watching.new_watch(sampling("eps", 1.0), sigmas, None), sigmas[:-1].tolist()) == [0, 1, 2, 3]
