"""Recorded score differences, Bright Ending, baselines, thresholds: on the real demo checkpoint."""

from __future__ import annotations

import importlib
import json

import pytest
import torch

PHOTO = "close photo of a tabby cat looking left"
SETTINGS = {
    "method": "dh_0", "preset": "custom", "sigmas": "0.2", "probes": 4, "noises": 1, "probing": "structured",
    "estimator": "forward difference", "seed": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def latent(sample):
    return sample(PHOTO, steps=8, n=2)


@pytest.fixture
def measure(nodes, demo, encode, latent):
    node = nodes["UnmemorizeCurvatureDifferenceMap"]

    def run(**changes):
        given = {"model": demo[0], "positive": encode(PHOTO), "negative": encode(""), "latent": {"samples": latent}} | SETTINGS | changes
        return node.execute(**given).args

    return run


@pytest.fixture(scope="module")
def early(nodes):
    return nodes["UnmemorizeLoadDemoCheckpoint"].execute("early").args[0]


# --- recording ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "euler_ancestral", "uni_pc", "ddim"])
def test_recording_leaves_the_picture_bit_identical(nodes, demo, sample, sampler, off_is_exact):
    model, recording = nodes["UnmemorizeRecordScoreDifference"].execute(demo[0], 0.0, 1.0).args
    off_is_exact(sample(PHOTO, sampler=sampler, model=model), sample(PHOTO, sampler=sampler))
    assert recording.sums.steps


def test_recording_costs_no_evaluation_and_modifies_nothing(nodes, demo, sample, untouched):
    model, _ = nodes["UnmemorizeRecordScoreDifference"].execute(demo[0], 0.0, 1.0).args
    calls = []
    hook = demo[0].model.diffusion_model.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        sample(PHOTO)
        plain = len(calls)
        with untouched(demo[0]):
            sample(PHOTO, model=model)
    finally:
        hook.remove()
    assert len(calls) == 2 * plain


def test_recorded_values_are_those_of_the_sampler(nodes, demo, sample):
    """One step: a^2 (D_c - D_u)^2 / b^2, summed over channels, of the very predictions the sampler made."""
    model, recording = nodes["UnmemorizeRecordScoreDifference"].execute(demo[0], 0.0, 0.0).args
    seen = []
    model.set_model_sampler_post_cfg_function(
        lambda facts: seen.append((facts["cond_denoised"] - facts["uncond_denoised"], facts["sigma"])) or facts["denoised"]
    )
    samples = sample(PHOTO, model=model)
    result, score, report = nodes["UnmemorizeScoreDifferenceMap"].execute(recording, {"samples": samples}).args
    gap, sigma = seen[0]
    assert torch.allclose(result["values"], (gap / sigma.reshape(-1, 1, 1, 1)).square().sum(1), rtol=1e-5)
    assert score == pytest.approx((result["values"] / 8).mean().item(), rel=1e-5)
    assert json.loads(report)["steps"] == [0] and json.loads(report)["evaluations"] == 0


def test_the_range_chooses_steps_and_each_run_starts_anew(nodes, demo, sample):
    model, recording = nodes["UnmemorizeRecordScoreDifference"].execute(demo[0], 0.5, 1.0).args
    sample(PHOTO, steps=5, model=model)
    assert recording.sums.steps == {2, 3, 4}
    first = recording.sums.total.clone()
    sample(PHOTO, steps=5, model=model)
    assert torch.equal(recording.sums.total, first) and recording.sums.count == 3


@pytest.mark.parametrize("part", [{"last_step": 3}, {"start_step": 3}])
def test_a_part_of_a_run_is_said(nodes, demo, sample, part):
    """KSampler Advanced in stages: the map says which part of the run it speaks of; of a whole run it says nothing."""
    recorded, recording = nodes["UnmemorizeRecordScoreDifference"].execute(demo[0], 0.0, 1.0).args

    def warnings(**more):
        latent = {"samples": sample(PHOTO, steps=6, model=recorded, **more)}
        return json.loads(nodes["UnmemorizeScoreDifferenceMap"].execute(recording, latent).args[2])["warnings"]

    (said,) = warnings(**part)
    assert ("stops at" in said) == ("last_step" in part) and ("begins at" in said) == ("start_step" in part)
    assert warnings() == []


def test_recording_errors(nodes, demo, sample, encode):
    recorder, reader = nodes["UnmemorizeRecordScoreDifference"], nodes["UnmemorizeScoreDifferenceMap"]
    with pytest.raises(ValueError, match="0 <= start <= end <= 1"):
        recorder.execute(demo[0], 0.8, 0.2)
    model, recording = recorder.execute(demo[0], 0.0, 1.0).args
    with pytest.raises(ValueError, match="Nothing was recorded"):
        reader.execute(recording, {"samples": torch.zeros(1, 8, 16, 16)})
    sample(PHOTO, model=model)
    with pytest.raises(ValueError, match="not the one that the recorded sampler made last"):
        reader.execute(recording, {"samples": torch.zeros(2, 8, 16, 16)})
    core = importlib.import_module("nodes")
    empty = {"samples": torch.zeros(1, 8, 16, 16)}
    (unguided,) = core.KSampler().sample(model, 1, 2, 1.0, "euler", "normal", encode(PHOTO), encode(""), empty)
    with pytest.raises(ValueError, match="CFG 1"):
        reader.execute(recording, unguided)
    with pytest.raises(ValueError, match="not a recording"):
        reader.execute({}, unguided)


def test_measuring_with_the_recorded_model_keeps_the_recording(nodes, demo, encode, sample):
    """A natural graph: the recorded MODEL also goes into Curvature Difference Map."""
    model, recording = nodes["UnmemorizeRecordScoreDifference"].execute(demo[0], 0.0, 1.0).args
    latent = {"samples": sample(PHOTO, model=model)}
    before = nodes["UnmemorizeScoreDifferenceMap"].execute(recording, latent).args[0]["values"]
    given = {"model": model, "positive": encode(PHOTO), "negative": encode(""), "latent": latent} | SETTINGS
    nodes["UnmemorizeCurvatureDifferenceMap"].execute(**given)
    assert torch.equal(nodes["UnmemorizeScoreDifferenceMap"].execute(recording, latent).args[0]["values"], before)


def test_two_recorders_in_a_row_and_other_nodes_behind_them(nodes, demo, sample):
    """Each further node clones the MODEL, and ComfyUI deep-copies its options then."""
    recorder = nodes["UnmemorizeRecordScoreDifference"]
    model, early = recorder.execute(demo[0], 0.0, 0.0).args
    model, late = recorder.execute(model, 1.0, 1.0).args
    latent = {"samples": sample(PHOTO, model=model.clone())}
    maps = [nodes["UnmemorizeScoreDifferenceMap"].execute(recording, latent).args[0]["values"] for recording in (early, late)]
    assert early.sums.steps == {0} and late.sums.steps == {3} and not torch.equal(*maps)


def test_the_recording_of_another_run_of_the_same_size_is_refused(nodes, demo, sample):
    model, recording = nodes["UnmemorizeRecordScoreDifference"].execute(demo[0], 0.0, 1.0).args
    first = {"samples": sample(PHOTO, model=model)}
    sample(PHOTO, model=model, seed=2)
    with pytest.raises(ValueError, match="not the one that the recorded sampler made last"):
        nodes["UnmemorizeScoreDifferenceMap"].execute(recording, first)


def test_a_cancelled_run_leaves_the_recording_as_it_was(nodes, demo, sample, interrupted):
    model, recording = nodes["UnmemorizeRecordScoreDifference"].execute(demo[0], 0.0, 1.0).args
    latent = {"samples": sample(PHOTO, model=model)}
    before = nodes["UnmemorizeScoreDifferenceMap"].execute(recording, latent).args[0]["values"]
    with interrupted(demo[0], after=2):
        sample(PHOTO, model=model, seed=3)
    assert torch.equal(nodes["UnmemorizeScoreDifferenceMap"].execute(recording, latent).args[0]["values"], before)


CHECK = 1 + 2 + 2
"""Calls that make sure the gradients are right: one with its backward pass (2), two differences."""


# --- methods, estimators, baselines ------------------------------------------------------------------------


def test_estimators_agree(measure):
    """The same 64 structured probes by reverse mode and by both differences: one map."""
    maps = {e: measure(estimator=e, probes=64)[0]["values"] for e in ("reverse mode", "central difference", "forward difference")}
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


# --- Bright Ending -----------------------------------------------------------------------------------------


def test_bright_ending_is_attention_to_the_end_token(nodes, demo, latent, untouched):
    node = nodes["UnmemorizeBrightEndingMap"]
    with untouched(demo[0], latent):
        result, score, report = node.execute(demo[0], demo[1], PHOTO, {"samples": latent}, 0).args
    assert result["values"].shape == (2, 16, 16) and result["channels"] == 1
    assert json.loads(report)["evaluations"] == 1 and score == pytest.approx(result["values"].mean((1, 2)).max().item())
    assert torch.allclose(result["values"], attention_by_hand(demo, latent), atol=1e-5)


def attention_by_hand(demo, latent):
    """Softmax over the prompt's tokens in the finest cross-attention of the down path, from ComfyUI's own attention patch."""
    denoising, seeds = (importlib.import_module(f"unmemorize_pack.host.core.{n}") for n in ("denoiser", "seeds"))
    seen = []

    def replace(q, k, v, extra):
        heads = extra["n_heads"]
        split = [t.reshape(*t.shape[:2], heads, -1).transpose(1, 2) for t in (q, k, v)]
        weights = (split[0] @ split[1].transpose(2, 3) / split[0].shape[-1] ** 0.5).softmax(-1)
        seen.append((q.shape[1], weights.mean(1)))
        return (weights @ split[2]).transpose(1, 2).reshape(q.shape)

    model, clip = demo[0].clone(), demo[1]
    for block in ("input", 1), ("input", 2), ("input", 3), ("input", 4):
        model.set_model_attn2_replace(replace, *block)

    def work(denoiser):
        denoiser.branches(denoiser.noised(seeds.unit_noise(latent, seeds.derived_seed("noise", 0, 0))))

    positive = clip.encode_from_tokens_scheduled(clip.tokenize(PHOTO))
    denoising.with_denoiser(model, positive, None, {"samples": latent}, 0.0413, 0, work)
    end = 1 + len(PHOTO.split())
    finest = [w[..., end] for pixels, w in seen if pixels == 256]
    return torch.stack(finest).mean(0).reshape(2, 16, 16)


def test_a_failed_bright_ending_leaves_no_hooks(nodes, demo, latent, untouched):
    def fail(*_):
        raise RuntimeError("the network failed")

    middle = demo[0].model.diffusion_model.middle_block[0]
    with untouched(demo[0]):
        hook = middle.register_forward_pre_hook(fail)
        try:
            with pytest.raises(RuntimeError, match="the network failed"):
                nodes["UnmemorizeBrightEndingMap"].execute(demo[0], demo[1], PHOTO, {"samples": latent}, 0)
        finally:
            hook.remove()


def test_the_end_token_is_found_in_short_and_long_prompts(demo):
    module = importlib.import_module("unmemorize_pack.host.curvature.bright_ending")
    clip = demo[1]
    empty = clip.tokenize("")
    assert module.end_position(clip.tokenize("a red ring"), empty) == 4
    assert module.end_position(empty, empty) == 1
    assert module.end_position(clip.tokenize("red " * 25), empty) == 24 + 1 + 3


def test_bright_ending_refuses_networks_without_cross_attention():
    module = importlib.import_module("unmemorize_pack.host.curvature.bright_ending")
    with pytest.raises(ValueError, match="Use Curvature Difference Map"):
        module.down_attention(torch.nn.Linear(2, 2))


# --- thresholds --------------------------------------------------------------------------------------------


def test_uncalibrated_threshold_is_flagged(nodes, measure):
    result = measure()[0]
    mask, area, calibrated, report = nodes["UnmemorizeMapThreshold"].execute(result).args
    assert mask.shape == (2, 16, 16) and set(mask.unique().tolist()) <= {0.0, 1.0} and 0 < area < 1
    assert calibrated is False and json.loads(report)["threshold"] == "uncalibrated (Otsu)"
    large, *_ = nodes["UnmemorizeMapThreshold"].execute(result, image=torch.rand(2, 128, 128, 3)).args
    assert large.shape == (2, 128, 128) and torch.equal(large[:, ::8, ::8], mask)


@pytest.fixture(scope="module")
def calibration(nodes, demo, root):
    facts = json.loads((root / "demo/lab/lab.json").read_text())
    prompts = "# clean\n" + "\n".join(facts["held_out_captions"][:20])
    node = nodes["UnmemorizeCalibrateMapThreshold"]
    sampling = {"steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}
    with torch.inference_mode():
        return node.execute(
            model=demo[0], clip=demo[1], latent={"samples": torch.zeros(1, 8, 16, 16)}, prompts=prompts, **sampling, **SETTINGS
        ).args


def test_calibrated_threshold(nodes, measure, calibration):
    found, threshold = calibration
    assert found["prompts"] == 20 and threshold == found["threshold"] > 0
    result = measure()[0]
    mask, _, calibrated, report = nodes["UnmemorizeMapThreshold"].execute(result, found).args
    assert calibrated is True and torch.equal(mask > 0, result["values"] / 8 > threshold)
    assert json.loads(report)["prompts"] == 20


def test_a_calibration_that_does_not_fit_is_refused(nodes, measure, calibration):
    node = nodes["UnmemorizeMapThreshold"]
    with pytest.raises(ValueError, match="another way than this map: sigmas"):
        node.execute(measure(sigmas="0.4")[0], calibration[0])
    with pytest.raises(ValueError, match="Calibrate at the size"):
        node.execute(measure()[0], {**calibration[0], "width": 64})
    other = {**calibration[0]["settings"], "model": {**calibration[0]["settings"]["model"], "layout": "of another model"}}
    with pytest.raises(ValueError, match="another model: weights"):
        node.execute(measure()[0], {**calibration[0], "settings": other})
    with pytest.raises(ValueError, match="not a calibration"):
        node.execute(measure()[0], {"x": 1})


def test_too_few_prompts_are_refused_before_work(nodes, demo):
    node = nodes["UnmemorizeCalibrateMapThreshold"]
    sampling = {"steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}
    with pytest.raises(ValueError, match="2 different prompt"):
        node.execute(
            model=demo[0], clip=demo[1], latent={"samples": torch.zeros(1, 8, 16, 16)}, prompts="a\n# b\n\nc", **sampling, **SETTINGS
        )
