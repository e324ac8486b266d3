"""Maps by every method and estimator, baselines, precisions: on the real demo checkpoint."""

from __future__ import annotations

import importlib
import json

import pytest
import torch

CHECK = 1 + 2 + 2
"""Calls that make sure the gradients are right: one with its backward pass (2), two differences."""


def test_estimators_agree(measure):
    """The same 32 structured probes by reverse mode and by both differences: one map."""
    maps = {e: measure(estimator=e, probes=32)[0]["values"] for e in ("reverse mode", "central difference", "forward difference")}
    exact = maps.pop("reverse mode").flatten()
    for name, values in maps.items():
        assert torch.corrcoef(torch.stack([exact, values.flatten()]))[0, 1] > 0.97, name


def test_the_paper_preset_is_the_papers(measure):
    _, _, report = measure(preset="paper")
    facts = json.loads(report)
    assert (facts["estimator"], facts["probes"], facts["sigmas"], facts["structured"]) == ("reverse mode", 16, [0.0413], False)
    assert facts["evaluations"] == 2 * (1 + 2 * 16 + CHECK) and facts["method"] == "dh_0"


def test_reverse_mode_leaves_the_model_as_it_was(measure, demo, untouched):
    weights = list(demo[0].model.parameters())
    with untouched(demo[0]):
        measure(estimator="reverse mode", probes=1)
    assert all(now is before for now, before in zip(demo[0].model.parameters(), weights, strict=True))


def test_a_model_without_gradients_falls_back_and_says_why(measure, demo):
    """A patch whose kernel has no backward pass, as of some attention packages."""
    model = demo[0].clone()

    class Refuse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("this kernel has no backward")

    model.set_model_attn2_patch(lambda q, context, value, extra: (Refuse.apply(q), context, value))
    _, _, report = measure(model=model, estimator="reverse mode")
    facts = json.loads(report)
    assert facts["estimator"] == "central difference" and "this kernel has no backward" in facts["why"]


@pytest.mark.parametrize("method", ["dh_~", "dh_0 + dh_~", "ds_~"])
def test_a_baseline_that_is_the_model_itself_sees_nothing(measure, demo, method):
    """rho~ = rho_c and D~ = D_c: only dh_0 remains of the sum."""
    values = measure(method=method, baseline=demo[0])[0]["values"]
    expected = measure(method="dh_0")[0]["values"] if "0" in method else torch.zeros_like(values)
    assert torch.allclose(values, expected, atol=2e-3)


def test_the_sum_is_the_sum(measure, early):
    parts = [measure(method=m, baseline=early)[0]["values"] for m in ("dh_0", "dh_~", "dh_0 + dh_~")]
    assert torch.allclose(parts[0] + parts[1], parts[2], atol=5e-3)


@pytest.mark.parametrize("node_id", ["UnmemorizeCurvatureDifferenceMap", "UnmemorizeCalibrateMapThreshold"])
def test_a_baseline_is_asked_for_only_when_needed(nodes, node_id):
    """A link that was not evaluated yet comes as None, a missing one not at all: that is left to the plain error."""
    ask = nodes[node_id].check_lazy_status
    assert ask(method="dh_0", baseline=None) == [] and ask(method="dh_~", baseline=None) == ["baseline"]
    assert ask(method="ds_~", baseline=object()) == [] and ask(method="dh_~") == []


def test_a_baseline_of_another_kind_is_refused(measure, demo):
    sampling = importlib.import_module("comfy.model_sampling")
    other = demo[0].clone()
    other.add_object_patch("model_sampling", type("Flow", (sampling.ModelSamplingDiscreteFlow, sampling.CONST), {})())
    with pytest.raises(ValueError, match="another kind of model.*kind of prediction"):
        measure(method="dh_~", baseline=other)


def test_several_sigmas_are_averaged(measure):
    low, high, both = (measure(sigmas=s)[0]["values"] for s in ("0.1", "0.4", "0.1, 0.4"))
    assert torch.allclose((low + high) / 2, both, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_networks_give_the_same_map(measure, nodes, latent, dtype):
    """At the default settings, on one picture: processors without half precision are slow at it."""
    model = nodes["UnmemorizeLoadDemoCheckpoint"].execute("final").args[0]
    model.model.diffusion_model.to(dtype).dtype = dtype
    model.model.model_config.set_inference_dtype(dtype, None)
    settings = {"preset": "recommended", "latent": {"samples": latent[:1]}}
    rough = measure(model=model, **settings)
    exact = measure(**settings)
    assert json.loads(rough[2])["dtype"] == str(dtype).removeprefix("torch.")
    assert torch.corrcoef(torch.stack([rough[0]["values"].flatten(), exact[0]["values"].flatten()]))[0, 1] >= 0.97
    assert rough[1] == pytest.approx(exact[1], rel=0.1)


@pytest.mark.parametrize("estimator", ["forward difference", "reverse mode"])
def test_partially_loaded_weights_give_the_same_map(measure, nodes, monkeypatch, estimator):
    """Weights that stay offloaded are cast, and their LoRA added, layer by layer: as on a card that is too small."""
    patcher = importlib.import_module("comfy.model_patcher").ModelPatcher
    load = patcher.load

    def with_lora():
        model = nodes["UnmemorizeLoadDemoCheckpoint"].execute("final").args[0]
        return nodes["UnmemorizeLoadDemoLoRA"].execute(model, "leaking", 1.0).args[0]

    whole = measure(model=with_lora(), estimator=estimator)[0]["values"]

    def partial(self, device_to=None, **_):
        return load(self, device_to, lowvram_model_memory=1024)

    monkeypatch.setattr(patcher, "load", partial)
    model = with_lora()
    values = measure(model=model, estimator=estimator)[0]["values"]
    cast = [m for m in model.model.diffusion_model.modules() if getattr(m, "comfy_cast_weights", False)]
    assert len(cast) > 50 and any(m.weight_function for m in cast)
    assert torch.allclose(values, whole, atol=2e-3)


def test_cancel_in_reverse_mode_puts_the_weights_back(measure, demo, interrupted, untouched):
    weights = list(demo[0].model.parameters())
    with untouched(demo[0]), interrupted(demo[0], after=2):
        measure(estimator="reverse mode", probes=2)
    assert all(now is before for now, before in zip(demo[0].model.parameters(), weights, strict=True))


def test_a_bad_second_sigma_is_found_before_any_work(measure, demo):
    ran = []
    hook = demo[0].model.diffusion_model.register_forward_pre_hook(lambda *_: ran.append(1))
    try:
        with pytest.raises(ValueError, match="outside this model's noise levels"):
            measure(sigmas="0.2, 99")
    finally:
        hook.remove()
    assert not ran
