"""Neuron activity recorded on the real demo checkpoint."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch

PHOTOS = "# two photographs\na large halved blue circle on a brown background\na large orange cross on a brown background"
SCENE = "a small red circle on a gray background"
SAMPLING = {"seed": 0, "steps": 8, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}


def test_recorded_activity_is_that_of_the_layers(neuron_host, method, demo, encode, record):
    """Against all rows, gathered by hooks of our own in a stock run: cond and uncond halves, step by step."""
    activity, facts = record("a large halved blue circle on a brown background", window_end=0.1, steps=3)
    layer = neuron_host.layers.layers_of(demo[0], "feed-forward")[3]
    seen = []
    hook = layer.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    try:
        use = SAMPLING | {"steps": 3}
        latent = {"samples": torch.zeros(1, 4, 16, 16)}
        neuron_host.sampling.draw(demo[0], encode("a large halved blue circle on a brown background"), encode(""), latent, use)
    finally:
        hook.remove()
    inside = len(facts["levels"])
    assert 0 < inside < 3 == len(seen)
    uncond_first = torch.stack([torch.stack([z / z.norm(dim=-1, keepdim=True).clamp_min(1e-15) for z in call]) for call in seen[:inside]])
    expected = uncond_first.double().square().sum(2).flip(1).movedim(0, 1)  # [2, levels, d]: ComfyUI puts cond last
    assert torch.allclose(activity.activity.squares[layer.key].double(), expected, rtol=1e-4)
    assert activity.activity.rows[layer.key].tolist() == [[seen[0].shape[1]] * inside] * 2


def test_recording_modifies_nothing_and_leaves_no_hook(demo, record, untouched, encode):
    with untouched(demo[0], encode("")):
        record()


def test_sampling_stops_at_the_end_of_the_window(demo, record):
    calls = []
    hook = demo[0].model.diffusion_model.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        _, facts = record("", steps=20, window_end=5.6)
    finally:
        hook.remove()
    assert len(calls) == len(facts["levels"]) == 4 and min(facts["levels"]) >= 5.6


def test_cond_only_is_what_a_run_without_guidance_does(method, record):
    """At the first step, where both start from the same noise. At CFG 1 ComfyUI asks for no empty prompt."""
    guided, unguided = record(window_end=14.0, steps=20)[0], record(window_end=14.0, steps=20, cfg=1.0)[0]
    for key, squares in unguided.activity.squares.items():
        with_cfg, without = (a.activity.rms(key, (method.COND,)) for a in (guided, unguided))
        assert (with_cfg - without).norm() <= 1e-3 * without.norm()
        assert not squares[method.UNCOND].any() and unguided.activity.rows[key][method.UNCOND].sum() == 0


def test_rows_are_told_apart_however_they_are_batched(demo, record, memorized, monkeypatch):
    """As with little memory: one prompt a call."""
    monkeypatch.setattr(demo[0].model, "memory_required", lambda *_, **__: 1e30)
    apart, _ = record()
    for key, squares in memorized.activity.squares.items():
        # rounding depends on the batch and on the processor, most where a sum is nearly nothing: the norm says what matters
        error = (apart.activity.squares[key] - squares).norm(dim=-1)
        assert (error <= 1e-3 * squares.norm(dim=-1)).all()
        assert torch.equal(apart.activity.rows[key], memorized.activity.rows[key])
    late = apart.activity.squares[list(apart.activity.squares)[-1]]
    assert ((late[0] - late[1]).norm(dim=-1) > 0.1 * late[0].norm(dim=-1)).all(), "rows that were mixed up would show"


def test_memory_depends_neither_on_prompts_nor_steps_nor_tokens(record):
    sizes = []
    for changes in (
        {"prompts": SCENE, "steps": 20},
        {"prompts": PHOTOS, "steps": 20, "seeds": 2},
        {"prompts": SCENE, "steps": 45},
        {"prompts": SCENE, "steps": 20, "latent": {"samples": torch.zeros(1, 4, 24, 32)}},
    ):
        activity, facts = record(window_end=0.5, **changes)
        assert len(facts["levels"]) == 16
        sizes.append({k: v.untyped_storage().nbytes() for k, v in activity.activity.squares.items()})
    assert all(s == sizes[0] for s in sizes)


@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "uni_pc", "euler_ancestral", "dpmpp_2m"])
def test_every_kind_of_sampler_is_heard(record, sampler):
    activity, facts = record(SCENE, sampler_name=sampler)
    rows = next(iter(activity.activity.rows.values()))
    assert (rows > 0).all() and torch.equal(rows[0], rows[1]) and len(facts["levels"]) == rows.shape[1]


def hooks(model):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.model.modules())


def test_hooks_are_gone_after_an_error(demo, record, monkeypatch):
    before = hooks(demo[0])
    layer = demo[0].model.diffusion_model.out[2]

    def fail(*_):
        raise RuntimeError("out of memory")

    hook = layer.register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            record()
        assert hooks(demo[0]) == before + 1
    finally:
        hook.remove()


def test_hooks_are_gone_after_cancel(demo, record, interrupted):
    before = hooks(demo[0])
    with interrupted(demo[0], after=3):
        record()
    assert hooks(demo[0]) == before


def test_recording_errors(nodes, demo, record, neuron_host):
    with pytest.raises(ValueError, match="No step of this schedule"):
        record(window_end=900.0)
    with pytest.raises(ValueError, match="no place to look"):
        record(place="ears")
    other = demo[0].clone()
    other.model = SimpleNamespace(diffusion_model=torch.nn.Sequential(torch.nn.Identity()))
    with pytest.raises(ValueError, match="No layer of this model"):
        neuron_host.layers.layers_of(other, "feed-forward")


def test_a_layer_that_is_never_heard_is_an_error(record, demo, monkeypatch):
    """As in a compiled model."""
    monkeypatch.setattr(torch.nn.Module, "register_forward_pre_hook", lambda *_: SimpleNamespace(remove=lambda: None))
    with pytest.raises(ValueError, match="never heard"):
        record()


@pytest.mark.parametrize(
    "place", ["feed-forward, first linear", "cross-attention keys and values", "attention outputs", "convolutions", "all of these"]
)
def test_other_places(record, find, place):
    there, nothing = record(place=place)[0], record("", place=place)[0]
    mask, density, _ = find(memorized=there, reference=nothing)
    assert 0 < density < 0.3 and len(mask.mask.bits) == len(there.activity.squares)


def test_a_cache_hides_no_call(record, demo):
    """EasyCache answers steps from earlier ones, other steps under each prompt."""
    cache = importlib.import_module("comfy_extras.nodes_easycache").EasyCacheNode
    cached = cache.execute(demo[0], 0.9, 0.0, 1.0, False).args[0]
    plain, found = (record(SCENE, model=model, steps=20, window_end=0.1)[0].activity for model in (demo[0], cached))
    assert all(torch.equal(rows, found.rows[key]) and rows.bool().all() for key, rows in plain.rows.items())
