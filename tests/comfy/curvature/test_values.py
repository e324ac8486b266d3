"""Sign and scale of every map against closed forms, through ComfyUI's real sampling machinery and every kind of prediction."""

from __future__ import annotations

import importlib
import json

import pytest
import torch

SIGMA = 0.5
GAIN_C = torch.linspace(0.1, 0.5, 8 * 256).reshape(1, 8, 16, 16)
GAIN_U, GAIN_BASELINE = 0.7, 0.9
SHIFT_C, SHIFT_U, SHIFT_BASELINE = 0.3, -0.2, 0.1


def family(name: str):
    """model_sampling of a kind of prediction."""
    module = importlib.import_module("comfy.model_sampling")
    if name == "flow":
        return type("Flow", (module.ModelSamplingDiscreteFlow, module.CONST), {})()
    return type(name, (module.ModelSamplingDiscrete, getattr(module, name)), {})()


def linear_model(model, kind: str, gains: tuple, shifts: tuple):
    """A MODEL whose denoiser is D(x) = gain x + shift, for the prompt and for the empty prompt."""
    clone = model.clone()
    clone.add_object_patch("model_sampling", family(kind))

    def denoise(_apply, facts):
        parts = facts["input"].chunk(len(facts["cond_or_uncond"]))
        return torch.cat([gains[k] * x + shifts[k] for k, x in zip(facts["cond_or_uncond"], parts, strict=True)])

    clone.set_model_unet_function_wrapper(denoise)
    return clone


@pytest.fixture(params=["EPS", "V_PREDICTION", "flow"])
def measure(request, nodes, demo, encode):
    kind = request.param
    ours = linear_model(demo[0], kind, (GAIN_C, GAIN_U), (SHIFT_C, SHIFT_U))
    baseline = linear_model(demo[0], kind, (GAIN_BASELINE,), (SHIFT_BASELINE,))
    node = nodes["UnmemorizeCurvatureDifferenceMap"]

    def run(method, estimator="forward difference", **changes):
        given = {
            "model": ours, "positive": encode("a red ring"), "negative": encode(""), "latent": {"samples": torch.rand(2, 8, 16, 16)},
            "method": method, "preset": "custom", "sigmas": str(SIGMA), "probes": 16, "noises": 1, "probing": "structured",
            "estimator": estimator, "seed": 0, "baseline": baseline,
        } | changes  # fmt: skip
        return node.execute(**given).args

    run.a = 1 / (1 + SIGMA) if kind == "flow" else 1.0
    return run


@pytest.mark.parametrize("estimator", ["forward difference", "central difference", "reverse mode"])
@pytest.mark.parametrize("method", ["dh_0", "dh_~", "dh_0 + dh_~"])
def test_dh_is_the_difference_of_gains(measure, method, estimator):
    """b^2 dh = rho~ - rho_c = a (gain~ - gain_c), summed over channels: a diagonal Jacobian is measured without any noise."""
    wanted = {"dh_0": GAIN_U - GAIN_C, "dh_~": GAIN_BASELINE - GAIN_C, "dh_0 + dh_~": GAIN_U + GAIN_BASELINE - 2 * GAIN_C}[method]
    result, score, report = measure(method, estimator)
    assert json.loads(report)["estimator"] == estimator
    expected = (measure.a * wanted).sum(1).expand(2, 16, 16)
    assert torch.allclose(result["values"], expected, atol=2e-3)
    assert score == pytest.approx((expected[0] / 8).clamp_min(0).mean().item(), rel=1e-2)


@pytest.mark.parametrize("method", ["ds_0", "ds_~"])
def test_ds_is_the_squared_difference_of_predictions(measure, method):
    """b^2 ds = a^2 (D_c - D~)^2 / b^2, at the very state that was measured."""
    shift = SHIFT_U if method == "ds_0" else SHIFT_BASELINE
    latent = {"samples": torch.zeros(1, 8, 16, 16)}
    result, _, report = measure(method, latent=latent)
    facts = json.loads(report)
    a, b = facts["a"], facts["b"]
    assert a == pytest.approx(measure.a) and b / a == pytest.approx(SIGMA)
    gain = GAIN_U if method == "ds_0" else GAIN_BASELINE
    seeds = importlib.import_module("unmemorize_pack.host.core.seeds")
    x = b * seeds.unit_noise(latent["samples"], seeds.derived_seed("noise", 0, 0))
    gap = (GAIN_C - gain) * x + SHIFT_C - shift
    assert torch.allclose(result["values"], ((a * gap / b) ** 2).sum(1), rtol=1e-3, atol=1e-4)
    assert facts["evaluations"] == 2 and "probes" not in facts
