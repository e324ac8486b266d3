"""Score differences recorded while a sampler runs, on the real demo checkpoint."""

from __future__ import annotations

import importlib
import json

import pytest
import torch

from ..maps import PHOTO, SETTINGS


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


def test_a_picture_that_a_guard_drew_again_has_no_recorded_map(nodes, demo, draw, stored, guarding, host):
    """What was recorded is of the memory that was thrown away; where the guard changed nothing, the map is the run's."""
    methods = host("stability.methods")
    for mode, method in (("correct", "recommended"), ("correct", "paper"), ("detect", "recommended")):
        model, recording = nodes["UnmemorizeRecordScoreDifference"].execute(demo[0], 0.0, 1.0).args
        rule = methods.Rule(tau_mild=0.0, tau_strong=0.0)
        clone, record = guarding.guarded(model, methods.Guard(stored, mode, method, limit=-1e30, rule=rule))
        samples = draw(clone, prompt=PHOTO)
        assert record.facts["memorized"] == [True], record.facts["not_judged"]
        if mode == "detect":
            assert nodes["UnmemorizeScoreDifferenceMap"].execute(recording, {"samples": samples}).args[1] > 0
        else:
            with pytest.raises(ValueError, match="guard drew this picture again.*Use Curvature Difference Map"):
                nodes["UnmemorizeScoreDifferenceMap"].execute(recording, {"samples": samples})


def test_a_sampler_that_draws_one_picture_after_another_cannot_be_summed(nodes, demo, encode):
    import comfy.sample
    import comfy.samplers

    class OneByOne(comfy.samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False):
            euler = comfy.samplers.ksampler("euler")
            parts = [(noise[i : i + 1], latent_image[i : i + 1]) for i in range(len(noise))]
            return torch.cat([euler.sample(model_wrap, sigmas, extra_args, None, n, x, denoise_mask, True) for n, x in parts])

    model, recording = nodes["UnmemorizeRecordScoreDifference"].execute(demo[0], 0.0, 1.0).args
    latent, sigmas = torch.zeros(2, 8, 8, 8), torch.tensor([14.6, 5.0, 1.0, 0.0])
    noise = comfy.sample.prepare_noise(latent, 1)
    sides = encode("a red ring"), encode("")
    samples = comfy.sample.sample_custom(model, noise, 2.0, OneByOne(), sigmas, *sides, latent, disable_pbar=True, seed=1)
    with pytest.raises(ValueError, match="1 of the 2 pictures at a time"):
        nodes["UnmemorizeScoreDifferenceMap"].execute(recording, {"samples": samples})


def replaced(demo, name):
    """A clone under a stock node, or a function of another pack, that puts other predictions in the place of the model's."""
    model = demo[0].clone()
    if name == "EasyCache":
        return importlib.import_module("comfy_extras.nodes_easycache").EasyCacheNode.execute(model, 0.9, 0.0, 1.0, False).args[0]
    if name == "sampler_pre_cfg_function":
        model.set_model_sampler_pre_cfg_function(lambda given: [given["conds_out"][0]] * 2)
    else:
        model.set_model_sampler_calc_cond_batch_function(lambda given: [given["input"]] * 2)
    return model


@pytest.mark.parametrize("name", ["EasyCache", "sampler_pre_cfg_function", "sampler_calc_cond_batch_function"])
def test_predictions_that_are_not_the_models_have_no_recorded_map(nodes, demo, sample, name):
    """A negative prediction that is the positive one maps to 0, which reads as clean."""
    model, recording = nodes["UnmemorizeRecordScoreDifference"].execute(replaced(demo, name), 0.0, 1.0).args
    latent = {"samples": sample(PHOTO, model=model)}
    with pytest.raises(ValueError, match=f"{name}.*Use Curvature Difference Map"):
        nodes["UnmemorizeScoreDifferenceMap"].execute(recording, latent)


def test_what_acts_after_guidance_leaves_the_recorded_map(nodes, demo, sample):
    other = demo[0].clone()
    other.set_model_sampler_post_cfg_function(lambda given: given["denoised"] * 0.9)
    model, recording = nodes["UnmemorizeRecordScoreDifference"].execute(other, 0.0, 1.0).args
    assert nodes["UnmemorizeScoreDifferenceMap"].execute(recording, {"samples": sample(PHOTO, model=model)}).args[1] > 0
