"""Several probes in one call of the network: the same map up to rounding, fewer calls, and only where the core has room for them."""

from __future__ import annotations

import json

import pytest
import torch

PROBES = 8


@pytest.fixture
def denoiser(host):
    return host("core.denoiser")


@pytest.fixture
def everywhere(denoiser, monkeypatch):
    """A CPU counts as a device that a single picture does not keep busy."""
    monkeypatch.setattr(denoiser, "BUSY_ALONE", ())


@pytest.fixture
def calls(demo):
    """Rows of every call of the network."""
    rows = []
    hook = demo[0].model.diffusion_model.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    yield rows
    hook.remove()


@pytest.mark.parametrize("estimator", ["forward difference", "central difference"])
def test_the_map_is_the_same_in_fewer_calls(measure, everywhere, denoiser, calls, monkeypatch, estimator):
    monkeypatch.setattr(denoiser, "KEPT_BUSY", 2 * 2 * 4 * 256)
    together, _, report = measure(probes=PROBES, estimator=estimator)
    counts = list(calls)
    calls.clear()
    monkeypatch.setattr(denoiser, "BUSY_ALONE", ("cpu",))
    alone, _, other = measure(probes=PROBES, estimator=estimator)
    assert json.loads(report)["evaluations"] == json.loads(other)["evaluations"]
    assert sum(counts) == sum(calls) and max(counts) == 4 * max(calls) and len(counts) < len(calls)
    assert torch.allclose(together["values"], alone["values"], atol=2e-4 * float(alone["values"].abs().max()))


def test_a_number_of_probes_that_does_not_divide(measure, everywhere, denoiser, monkeypatch):
    monkeypatch.setattr(denoiser, "KEPT_BUSY", 2 * 2 * 3 * 256)
    together = measure(probes=PROBES)[0]["values"]
    monkeypatch.setattr(denoiser, "BUSY_ALONE", ("cpu",))
    alone = measure(probes=PROBES)[0]["values"]
    assert torch.allclose(together, alone, atol=2e-4 * float(alone.abs().max()))


def test_on_a_cpu_every_probe_is_asked_alone(measure, calls):
    measure(probes=PROBES)
    assert set(calls) == {2 * 2}


def test_the_cores_estimate_decides(measure, everywhere, calls, monkeypatch):
    monkeypatch.setattr("comfy.model_management.get_free_memory", lambda *_: 0)
    measure(probes=PROBES)
    assert max(calls) <= 2 * 2


@pytest.mark.parametrize("rows", [2, 3])
def test_a_mask_of_other_rows_than_the_batch_is_asked_about_alone(measure, everywhere, calls, encode, rows):
    """The core would repeat it over copies in another order."""
    words, facts = encode("a red ring")[0]
    several = [[words.repeat(rows, 1, 1), facts]]
    measure(probes=PROBES, positive=several)
    assert (max(calls) > 4) == (rows == 2), "two pictures are asked about"


def test_a_model_with_patches_is_asked_alone(measure, everywhere, calls, demo):
    model = demo[0].clone()
    model.set_model_attn2_output_patch(lambda n, _options: n)
    measure(probes=PROBES, model=model)
    assert max(calls) == 2 * 2


def test_cancel_between_calls(measure, everywhere, denoiser, demo, monkeypatch, interrupted):
    monkeypatch.setattr(denoiser, "KEPT_BUSY", 2 * 2 * 2 * 256)
    with interrupted(demo[0], after=2):
        measure(probes=PROBES)
