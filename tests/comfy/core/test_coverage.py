"""Where no prompt is, ComfyUI predicts zero: such places count for nothing in maps, recordings and the guard."""

from __future__ import annotations

import importlib

import pytest
import torch

SCENE = "a small red circle on a gray background"
SETTINGS = {
    "preset": "custom", "sigmas": "0.2", "probes": 2, "noises": 1, "probing": "structured", "estimator": "forward difference", "seed": 0,
}  # fmt: skip


@pytest.fixture
def halves(comfy, encode):
    """How a prompt is limited -> the prompt, on the left half of the canvas."""
    core = importlib.import_module("nodes")
    mask = torch.zeros(1, 128, 128)
    mask[..., :64] = 1
    prompt = encode(SCENE)
    return {
        "area": core.ConditioningSetArea().append(prompt, 64, 128, 0, 0, 1.0)[0],
        "mask": core.ConditioningSetMask().append(prompt, mask, "default", 1.0)[0],
    }


@pytest.fixture
def picture(sample):
    return sample(SCENE, steps=6)


def map_of(nodes, model, positive, negative, samples, method="dh_0"):
    inputs = {"model": model, "positive": positive, "negative": negative, "latent": {"samples": samples}}
    return nodes["UnmemorizeCurvatureDifferenceMap"].execute(**inputs, **SETTINGS, method=method).args


@pytest.mark.parametrize("limit", ["area", "mask"])
@pytest.mark.parametrize("method", ["dh_0", "ds_0"])
def test_a_map_is_zero_where_no_prompt_is(nodes, demo, encode, halves, picture, limit, method):
    found, score, _ = map_of(nodes, demo[0], halves[limit], encode(""), picture, method)
    assert (found["values"][..., 8:] == 0).all() and (found["region"][..., 8:] == 0).all()
    assert (found["region"][..., :8] == 1).all() and found["values"][..., :8].abs().sum() > 0
    assert score == pytest.approx(float((found["values"][..., :8] / 8).clamp_min(0).mean()), rel=1e-4)


def test_two_parts_that_fill_the_canvas_count_everywhere(nodes, demo, encode, halves, picture):
    core = importlib.import_module("nodes")
    right = core.ConditioningSetArea().append(encode("a blue star"), 64, 128, 64, 0, 1.0)[0]
    found, *_ = map_of(nodes, demo[0], [*halves["area"], *right], encode(""), picture)
    assert (found["region"] == 1).all()
    found, *_ = map_of(nodes, demo[0], [*halves["area"], *encode("a blue star")], encode(""), picture)
    assert (found["region"] == 1).all()


def test_prompts_that_nowhere_meet_are_an_error(nodes, demo, encode, halves, picture):
    core = importlib.import_module("nodes")
    right = core.ConditioningSetArea().append(encode(""), 64, 128, 64, 0, 1.0)[0]
    with pytest.raises(ValueError, match="nowhere is it both generated"):
        map_of(nodes, demo[0], halves["area"], right, picture)


def filled(halves, encode):
    """The left half, and a prompt for what is left whose own mask the core does not heed."""
    core, hooks = importlib.import_module("nodes"), importlib.import_module("comfy_extras.nodes_hooks")
    nowhere = core.ConditioningSetMask().append(encode("a blue star"), torch.zeros(1, 128, 128), "default", 1.0)[0]
    return hooks.ConditioningSetDefaultAndCombine().set_default_and_combine(halves["mask"], nowhere)[0]


@pytest.mark.parametrize("limit", ["area", "mask", "default"])
def test_coverage_is_where_the_core_predicts_anything(comfy, demo, encode, halves, limit):
    """Against the core's own prediction, which is exactly 0 elsewhere."""
    denoiser = importlib.import_module("unmemorize_pack.host.core.denoiser")
    seen = {}

    def work(d) -> None:
        x = torch.randn(d.x0.shape, generator=torch.Generator().manual_seed(0)).to(d.x0)
        seen.update(prediction=d.branches(x)[0].clone(), covered=d.covered)

    prompt = filled(halves, encode) if limit == "default" else halves[limit]
    denoiser.with_denoiser(demo[0], prompt, encode(""), {"samples": torch.zeros(1, 8, 16, 16)}, 1.0, 0, work)
    where = torch.ones(16, 16) if seen["covered"] is None else seen["covered"][0, 0]
    assert torch.equal(where > 0, seen["prediction"][0].abs().sum(0) > 0)


def test_a_plain_prompt_asks_for_nothing(comfy, demo, encode):
    denoiser = importlib.import_module("unmemorize_pack.host.core.denoiser")
    found = []
    latent = {"samples": torch.zeros(1, 8, 16, 16)}
    denoiser.with_denoiser(demo[0], encode(SCENE), encode(""), latent, 1.0, 0, lambda d: found.append(d.covered))
    assert found == [None]


def test_a_recording_and_a_guard_leave_it_out(nodes, demo, encode, halves):
    sample = importlib.import_module("comfy.sample")
    watching = importlib.import_module("unmemorize_pack.host.stability.watching")
    recorded, recording = nodes["UnmemorizeRecordScoreDifference"].execute(model=demo[0], start=0.0, end=1.0).args
    watched, runs = watching.watched(recorded)
    latent = torch.zeros(1, 8, 16, 16)
    noise = sample.prepare_noise(latent, 1)
    samples = sample.sample(watched, noise, 4, 2.0, "euler", "normal", halves["area"], encode(""), latent, disable_pbar=True, seed=1)
    found = nodes["UnmemorizeScoreDifferenceMap"].execute(recording=recording, latent={"samples": samples}).args[0]
    assert (found["values"][..., 8:] == 0).all() and (found["region"][..., :8] == 1).all()
    assert torch.equal(runs[0].region.reshape(16, 16), found["region"][0])
