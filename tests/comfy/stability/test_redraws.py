"""What a redraw may never do: take a good picture's place with a broken one, or forget which steps a prompt was for."""

from __future__ import annotations

import importlib

import pytest
import torch

ALL = -1e30
STEPS = 5


@pytest.fixture
def strategy(comfy):
    """strategy(ways...): draws every flagged sample again in these ways."""
    strategies = importlib.import_module("unmemorize_pack.host.stability.strategies")

    def make(*ways):
        class Ways:
            redraws, same_prompt = True, False

            def obstacle(self, guider, sigmas):
                return ""

            def begin(self, watch):
                return strategies.Redrawing(*ways)

        return Ways()

    return make


def broken(call):
    return torch.full_like(call.latent, torch.nan)


def test_a_broken_redraw_leaves_the_picture_as_it_was(guard, draw, strategy):
    """Though the run that was flagged ended early, since all of it was to be drawn again: it is drawn to its end then."""
    plain = draw(n=2, sampler="heun")
    clone, record = guard("correct", limit=ALL, strategy=strategy(broken))
    assert torch.allclose(draw(clone, n=2, sampler="heun"), plain, atol=1e-4)
    assert record.facts["restarted"] == [] and record.facts["redrawn"] == {}
    assert "came out broken" in " ".join(record.facts["warnings"])


def test_the_next_way_is_taken_where_one_is_broken(guard, draw, strategy):
    clone, record = guard("correct", limit=ALL, strategy=strategy(broken, lambda call: torch.full_like(call.latent, 0.5)))
    assert torch.equal(draw(clone), torch.full((1, 8, 8, 8), 0.5))
    assert record.facts["restarted"] == [0] and record.facts["redrawn"]["0"]["tries"] == 1


@pytest.mark.parametrize("ranges", [((0.0, 0.5), (0.5, 1.0)), ((0.0, 1.0),)])
def test_prompts_for_some_steps_are_heard_there_alone(guarding, under, demo, draw, encode, ranges):
    """The default redraw gives every step a prompt of its own: one part of the prompt a call, as in the first run."""
    from node_helpers import conditioning_set_values

    texts = ("a red ring", "a blue star")
    positive = [
        entry
        for text, (start, end) in zip(texts, ranges, strict=False)
        for entry in conditioning_set_values(encode(text), {"start_percent": start, "end_percent": end})
    ]
    heard: list[int] = []
    model = demo[0].clone()

    def count(apply, given):
        heard.append(given["cond_or_uncond"].count(0))
        return apply(given["input"], given["timestep"], **given["c"])

    model.set_model_unet_function_wrapper(count)
    draw(model, prompt=positive, steps=STEPS)
    plain = sum(heard)
    heard.clear()
    clone, record = guarding.guarded(model, guarding.Guard(under("model_function_wrapper"), "correct", limit=ALL))
    draw(clone, prompt=positive, steps=STEPS)
    assert record.facts["restarted"] == [0]
    assert plain <= STEPS + 1, "where two ranges meet both are heard"
    assert plain < sum(heard) <= 2 * plain, "the first run, and one more"


def test_several_latents_at_once_are_not_judged(guard, draw, guarding, monkeypatch):
    """As the core samples video and audio together: one tensor of both."""
    calls = importlib.import_module("unmemorize_pack.host.core.sampler_call")
    assert calls.run_arguments_of(None, 1, 2, 3, 4, latent_shapes=[(1, 8, 8, 8), (1, 4, 8)]).packed
    assert not calls.run_arguments_of(None, 1, 2, 3, 4, latent_shapes=[(1, 8, 8, 8)]).packed
    real = guarding.run_arguments_of
    monkeypatch.setattr(guarding, "run_arguments_of", lambda *a, **m: real(*a, **(m | {"latent_shapes": [0, 1]})))
    clone, record = guard("correct", limit=ALL)
    draw(clone)
    assert "several kinds of latents" in record.facts["not_judged"][0] and record.facts["memorized"] == [False]
