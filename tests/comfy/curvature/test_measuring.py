"""Curvature nodes on the real demo checkpoint."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest
import torch

PHOTO = "a large halved blue circle on a brown background"


@pytest.fixture
def measure(nodes, demo, encode):
    """Run the map node with defaults that keep tests short."""
    node = nodes["UnmemorizeCurvatureDifferenceMap"]

    def run(samples: torch.Tensor, prompt: str = PHOTO, **changes: Any) -> tuple:
        settings = {
            "model": demo[0], "positive": encode(prompt), "negative": encode(""), "latent": {"samples": samples},
            "method": "dh_0", "preset": "custom", "sigmas": "0.2", "probes": 2, "noises": 1, "probing": "random",
            "estimator": "central difference", "seed": 0,
        } | changes  # fmt: skip
        return node.execute(**settings).args

    return run


@pytest.fixture(scope="module")
def latent(sample):
    return sample(PHOTO, steps=8)


def test_map_score_and_report(measure, latent):
    result, score, report = measure(latent)
    facts = json.loads(report)
    assert result["values"].shape == (1, 16, 16) and result["values"].dtype == torch.float32
    assert score == pytest.approx((result["values"] / 8).clamp_min(0).mean().item())
    assert facts["method"] == "dh_0" and facts["estimator"] == "central difference" and facts["evaluations"] == 8
    assert facts["scores"] == [pytest.approx(score, abs=1e-6)]


@pytest.mark.parametrize(
    ("estimator", "forward", "backward"), [("central difference", 6, 0), ("forward difference", 4, 0), ("reverse mode", 1 + 3, 3 + 1)]
)
def test_evaluations_are_counted_right(measure, latent, demo, estimator, forward, backward):
    """The report's number is what the network really ran (a batch row is one), with two for a backward pass."""
    rows = []
    hook = demo[0].model.diffusion_model.register_forward_pre_hook(lambda module, inputs: rows.append(inputs[0].shape[0]))
    try:
        _, _, report = measure(latent, probes=3, noises=2, estimator=estimator)
    finally:
        hook.remove()
    prompts_and_noises = 2 * 2
    assert sum(rows) == prompts_and_noises * forward
    assert json.loads(report)["evaluations"] == prompts_and_noises * (forward + 2 * backward)


def test_nothing_is_modified(measure, latent, demo, encode, untouched):
    positive, negative, wrapped = encode(PHOTO), encode(""), {"samples": latent}
    with untouched(demo[0], positive, negative, wrapped):
        measure(latent, positive=positive, negative=negative, latent=wrapped)


def test_same_seed_same_map_and_another_seed_another(measure, latent):
    first, again, other = (measure(latent, seed=s)[0]["values"] for s in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_batch_equals_single_runs(measure, sample):
    latents = sample(PHOTO, n=2)
    both = measure(latents)[0]
    alone = torch.cat([measure(latents[i : i + 1])[0]["values"] for i in range(2)])
    # in the map's own unit, the mean over channels; dividing by the step magnifies the rounding of batched kernels
    assert (both["values"] - alone).abs().max() / both["channels"] < 2e-5


def test_central_difference_agrees_with_reverse_mode(nodes, encode, latent):
    """u . (J v) by central differences = (J^T u) . v by autograd through ComfyUI's own sampling path."""
    denoising, seeds = (importlib.import_module(f"unmemorize_pack.host.core.{n}") for n in ("denoiser", "seeds"))
    diagonal = importlib.import_module("unmemorize_pack.unmemorize.curvature.diagonal")
    positive, negative = encode(PHOTO), encode("")
    errors, scale = [], []

    def work(denoiser: Any) -> None:
        def difference(y: torch.Tensor) -> torch.Tensor:
            c, u = denoiser.branches(y)
            return u - c

        x = denoiser.noised(seeds.unit_noise(latent, 5))
        (v,) = (p.float() for p in diagonal.rademacher(x.shape, 1, 1))
        step = diagonal.probe_step(x, denoiser.level.b, torch.float32)
        with torch.no_grad():
            rise = (difference(x + step * v) - difference(x - step * v)) / (2 * step)
        with denoising.differentiable(denoiser.network):
            leaf = x.clone().requires_grad_(True)
            out = difference(leaf)
            for k in range(4):
                u = torch.randn(x.shape, generator=torch.Generator().manual_seed(k))
                (back,) = torch.autograd.grad(out, leaf, u, retain_graph=True)
                errors.append(float((u * rise).sum() - (back * v).sum()))
                scale.append(float(u.norm() * rise.norm() / x.numel() ** 0.5))

    with torch.inference_mode(False):
        model = nodes["UnmemorizeLoadDemoCheckpoint"].execute("final").args[0]
        model.model.requires_grad_(False)
        clone = [[[c[0].clone(), c[1]] for c in side] for side in (positive, negative)]
        denoising.with_denoiser(model, *clone, {"samples": latent.clone()}, 0.2, 0, work)
    assert len(errors) == 4
    assert max(abs(e) / s for e, s in zip(errors, scale, strict=True)) < 0.1


def test_patches_see_positive_and_negative_rows_as_while_sampling(measure, latent, demo, encode):
    """In cond_or_uncond 0 is the positive prompt and 1 the negative: packs that read the tag depend on it."""
    contexts = {0: encode(PHOTO)[0][0], 1: encode("")[0][0]}
    model, seen = demo[0].clone(), []

    def record(q: torch.Tensor, context: torch.Tensor, value: torch.Tensor, extra: dict) -> tuple:
        for row, tag in zip(context.chunk(len(extra["cond_or_uncond"])), extra["cond_or_uncond"], strict=True):
            seen.append(torch.allclose(row[:1], contexts[tag].to(row), atol=1e-5))
        return q, context, value

    model.set_model_attn2_patch(record)
    measure(latent, model=model, probes=1)
    assert seen and all(seen)


def test_noises_are_nobody_elses(latent):
    """Neither the noise KSampler starts from, nor that of a neighbouring seed."""
    seeds, sampling = (importlib.import_module(n) for n in ("unmemorize_pack.host.core.seeds", "comfy.sample"))
    derived = {(seed, k): seeds.derived_seed("noise", seed, k) for seed in range(8) for k in range(8)}
    assert len(set(derived.values())) == 64
    first = seeds.unit_noise(latent, derived[0, 0])
    assert not any(torch.equal(first, sampling.prepare_noise(latent, s)) for s in range(16))


def test_noise_levels_of_each_family():
    """sigma is noise over signal: VE models take it as it is, flow models as s = r / (1 + r)."""
    noise, sampling = (importlib.import_module(n) for n in ("unmemorize_pack.host.core.noise", "comfy.model_sampling"))

    class Flow(sampling.ModelSamplingDiscreteFlow, sampling.CONST):
        pass

    class Eps(sampling.ModelSamplingDiscrete, sampling.EPS):
        pass

    class Holder:
        def __init__(self, model_sampling: Any) -> None:
            self.get_model_object = lambda name: model_sampling

    for kind in (Flow, Eps):
        holder = Holder(kind())
        s = noise.model_sigma(holder, 0.25)
        level = noise.noise_level(holder.get_model_object("model_sampling"), s)
        assert level.b / level.a == pytest.approx(0.25, rel=1e-5)
        assert s == pytest.approx(0.2 if kind is Flow else 0.25)


def test_prompt_that_is_switched_off_at_this_noise_level_is_refused(measure, latent, encode):
    """ComfyUI would predict zero there, which looks like a memory everywhere."""
    (late,) = importlib.import_module("nodes").ConditioningSetTimestepRange().set_range(encode(PHOTO), 0.0, 0.1)
    with pytest.raises(ValueError, match="No part of the positive prompt is active"):
        measure(latent, positive=late)


def test_identical_prompts_give_an_empty_map(measure, latent, encode):
    result, score, _ = measure(latent, negative=encode(PHOTO))
    assert result["values"].abs().max() < 1e-4 and score < 1e-5


def test_untouched_part_of_an_inpainting_is_zero(measure, latent):
    mask = torch.zeros(1, 128, 128)
    mask[:, :, :64] = 1
    result, score, _ = measure(latent, latent={"samples": latent, "noise_mask": mask})
    values = result["values"]
    assert (values[:, :, 8:] == 0).all() and (values[:, :, :8] != 0).any()
    assert score == pytest.approx((values[:, :, :8] / 8).clamp_min(0).mean().item(), rel=1e-5)


def test_progress_counts_to_the_end(measure, latent):
    utils = importlib.import_module("comfy.utils")
    seen, before = [], utils.PROGRESS_BAR_HOOK
    utils.set_progress_bar_global_hook(lambda value, total, *_, **__: seen.append((value, total)))
    try:
        measure(latent)
    finally:
        utils.set_progress_bar_global_hook(before)
    assert seen[-1] == (4, 4)


def test_cancel_stops_within_one_evaluation_and_leaves_no_trace(measure, latent, demo, interrupted, untouched):
    with untouched(demo[0]), interrupted(demo[0], after=3):
        measure(latent)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"negative": None}, "CLIP Text Encode without text"),
        ({"negative": []}, "CLIP Text Encode without text"),
        ({"positive": []}, "prompt the picture was made with"),
        ({"latent": {"samples": torch.zeros(1, 4, 16, 16)}}, "4 channels, but this model works on 8"),
        ({"latent": {"samples": torch.zeros(1, 8, 3, 16, 16)}}, "not of video"),
        ({"latent": {"samples": torch.full((1, 8, 16, 16), float("nan"))}}, "not numbers"),
        ({"sigmas": "20"}, "outside this model's noise levels"),
        ({"sigmas": "0.2; 1"}, "not a list of positive numbers"),
        ({"sigmas": "0.2, -1"}, "not a list of positive numbers"),
        ({"probes": 0}, "At least one probe"),
        ({"noises": 0}, "At least one probe"),
        ({"method": "dh_~"}, "nothing is connected to `baseline`"),
    ],
)
def test_bad_input_is_a_plain_error_before_work(measure, latent, demo, changes, words):
    ran = []
    hook = demo[0].model.diffusion_model.register_forward_pre_hook(lambda *_: ran.append(1))
    try:
        with pytest.raises(ValueError, match=words):
            measure(latent, **changes)
    finally:
        hook.remove()
    assert not ran


@pytest.fixture
def overlay(nodes):
    node = nodes["UnmemorizeHeatmapOverlay"]

    def run(image: torch.Tensor, result: dict, **changes: Any) -> tuple:
        settings = {"colour_map": "inferno", "opacity": 0.85, "full_heat": 0.0, "clip": 99.0, "smooth": "0"} | changes
        return node.execute(image=image, map=result, **settings).args

    return run


@pytest.fixture
def half_hot():
    """A map hot on its left half: channel mean 0.5 there, -0.5 elsewhere."""
    values = torch.full((1, 16, 16), -4.0)
    values[:, :, :8] = 4.0
    return {"values": values, "channels": 8, "region": torch.ones_like(values), "settings": {}}


def test_overlay_off_is_exact_and_modifies_nothing(overlay, half_hot, untouched, off_is_exact):
    picture = torch.rand(1, 128, 128, 3)
    with untouched(picture, half_hot):
        off_is_exact(overlay(picture, half_hot, opacity=0.0)[0], picture)
        overlay(picture, half_hot)


def test_overlay_numbers_and_mask(overlay, half_hot):
    picture = torch.rand(1, 128, 128, 3)
    shown, hot, mean, peak = overlay(picture, half_hot, full_heat=1.0)
    assert hot.shape == (1, 128, 128) and hot[0, :, :56].eq(0.5).all() and hot[0, :, 72:].eq(0).all()
    assert mean == pytest.approx(0.25, abs=0.01) and peak == pytest.approx(0.5)
    assert torch.equal(shown[:, :, 72:], picture[:, :, 72:])
    inside = torch.zeros(1, 128, 128)
    inside[:, :, :32] = 1
    _, hot, mean, _ = overlay(picture, half_hot, full_heat=1.0, mask=inside)
    assert hot[0, :, 32:].eq(0).all() and mean == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask": torch.ones(1, 64, 64)}, "The mask is 1 x 64 x 64"),
        ({"mask": torch.ones(3, 128, 128)}, "The mask is 3"),
        ({"colour_map": "../x"}, "unknown colour map"),
        ({"smooth": "4"}, "not one of"),
        ({"opacity": 1.5}, "Out of range"),
    ],
)
def test_overlay_errors(overlay, half_hot, changes, words):
    with pytest.raises(ValueError, match=words):
        overlay(torch.rand(1, 128, 128, 3), half_hot, **changes)
