"""A corrected picture is looked at again: the next way is tried, and the record speaks of the final picture."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
from types import SimpleNamespace

import pytest
import torch
from unmemorize_pack.tests.comfy.judging import PROMPT, STEPS

ALL = -1e30


@pytest.fixture
def strategies(comfy):
    return importlib.import_module("unmemorize_pack.host.stability.strategies")


@pytest.fixture
def with_ways(strategies, demo, guarding, stored, draw):
    """with_ways(ways, limit) -> latent, record: each way is (cfg, seed) of another run of the same prompt."""

    def run(*ways, limit=ALL, n=1):
        class Ways:
            redraws = same_prompt = True

            def obstacle(self, guider, sigmas):
                return ""

            def begin(self, watch):
                return strategies.Redrawing(*ways)

        model, record = guarding.guarded(demo[0], guarding.Guard(stored, "correct", limit=limit, strategy=Ways()))
        return draw(model, prompt=PROMPT, steps=STEPS, n=n), record

    return run


def again(call, scale=1.0):
    """The run once more from a scaled noise."""
    from unmemorize_pack.host.core.sampler_call import DRAWN_AGAIN

    guider = call.guider
    guider.model_options = {**guider.model_options, DRAWN_AGAIN: True}
    return guider.sample(scale * call.noise, call.latent, call.sampler, call.sigmas, call.mask, None, True, call.seed)


def test_a_picture_that_still_looks_like_a_memory_is_tried_the_next_way(with_ways):
    """With a limit below every score no way is good enough: all are tried, the least score is kept and named."""
    seen = []

    def way(scale):
        def draw(call):
            seen.append(scale)
            return again(call, scale)

        return draw

    latent, record = with_ways(way(0.9), way(0.7))
    look = record.facts["redrawn"]["0"]
    assert seen == [0.9, 0.7] and look["tries"] == 2 and look["memorized"] is True
    verdict = importlib.import_module("unmemorize_pack.unmemorize.pictures.stability_chart").verdict
    assert verdict(record.facts, 0) == "memorized, sampled again: still looks like a memory"


def test_the_first_way_that_is_clean_is_kept(with_ways, strategies, monkeypatch, guarding, stored, draw):
    """The judge's answers are planted: a memory first, then none."""
    methods = importlib.import_module("unmemorize_pack.host.stability.methods")
    real, answers = methods.Guard.judge, iter([True, True, False])

    def judge(self, watch, *more):
        found = real(self, watch, *more)
        return type(found)(
            found.score, torch.full_like(found.flagged, next(answers)), found.detector, found.observed, [""] * len(found.score)
        )

    monkeypatch.setattr(methods.Guard, "judge", judge)
    latent, record = with_ways(lambda call: again(call, 0.9), lambda call: again(call, 0.7), lambda call: pytest.fail("a third way"))
    assert record.facts["redrawn"]["0"]["tries"] == 2 and record.facts["redrawn"]["0"]["memorized"] is False
    verdict = importlib.import_module("unmemorize_pack.unmemorize.pictures.stability_chart").verdict
    assert verdict(record.facts, 0) == "memorized, sampled again: clean"
    assert record.facts["memorized"] == [True], "the first run's own verdict stays"


def test_what_is_seen_of_the_second_run_is_what_a_guard_would_see(with_ways, demo, guarding, stored, draw):
    """Its score is that of the same run under a guard of its own."""
    _, record = with_ways(again)
    model, own = guarding.guarded(demo[0], guarding.Guard(stored))
    draw(model, prompt=PROMPT, steps=STEPS)
    assert record.facts["redrawn"]["0"]["score"] == pytest.approx(own.facts["scores"][0], rel=1e-3)


def test_every_sample_is_looked_at_alone(with_ways):
    _, record = with_ways(lambda call: again(call, 0.8), n=2)
    assert set(record.facts["redrawn"]) == {"0", "1"}


def test_what_a_parent_draws_is_compared_with_the_first_picture(demo, guarding, stored, draw, root):
    early = importlib.import_module("unmemorize_pack.host.demo").load_demo(root / "demo/lab/early.safetensors")[0]
    model, record = guarding.guarded(demo[0], guarding.Guard(stored, "correct", parent=early, limit=ALL))
    draw(model, prompt=PROMPT, steps=STEPS)
    look = record.facts["redrawn"]["0"]
    first = draw(demo[0], prompt=PROMPT, steps=STEPS)
    again = draw(model, prompt=PROMPT, steps=STEPS)
    redrawn = importlib.import_module("unmemorize_pack.unmemorize.stability.redrawn")
    assert record.facts["restarted"] == [0] and look["score"] is None
    # the first run ended when its score was complete: it is known by what it was on the way to
    assert look["likeness"] == pytest.approx(float(redrawn.likeness(first, again)), abs=0.1)
    verdict = importlib.import_module("unmemorize_pack.unmemorize.pictures.stability_chart").verdict
    words = "still the same picture" if look["likeness"] >= redrawn.STILL_ALIKE else "another picture"
    assert verdict(record.facts, 0) == f"memorized, sampled again: {words}"


def test_the_same_picture_again_is_never_called_another(strategies, demo, guarding, stored, draw):
    """A way that other words are said to draw, and that draws the flagged picture: of two ways the less alike is kept."""

    class Same:
        redraws, same_prompt = True, False

        def obstacle(self, guider, sigmas):
            return ""

        def begin(self, watch):
            return strategies.Redrawing(again, lambda call: again(call, 0.999))

    model, record = guarding.guarded(demo[0], guarding.Guard(stored, "correct", limit=ALL, strategy=Same()))
    draw(model, prompt=PROMPT, steps=STEPS, n=2, sampler="heun")
    verdict = importlib.import_module("unmemorize_pack.unmemorize.pictures.stability_chart").verdict
    for i in (0, 1):
        look = record.facts["redrawn"][str(i)]
        assert look["tries"] == 2 and look["memorized"] is True and look["likeness"] > 0.9
        assert verdict(record.facts, i) == "memorized, sampled again: still the same picture"
    assert any("Picture 0, 1" in w and "Connect Alternative Prompts" in w for w in record.facts["warnings"])


def test_more_guidance_is_not_judged(demo, guarding, stored, draw, strategies):
    """The profile does not serve it."""
    restart = importlib.import_module("unmemorize_pack.host.stability.restart")
    verdict = importlib.import_module("unmemorize_pack.unmemorize.pictures.stability_chart").verdict
    stronger = restart.Restart((restart.Phase(1.0, cfg=2.0),))
    model, record = guarding.guarded(demo[0], guarding.Guard(stored, "correct", limit=ALL, strategy=stronger))
    draw(model, prompt=PROMPT, steps=STEPS)
    assert record.facts["redrawn"] == {"0": {"tries": 1, "memorized": None, "score": None}}
    assert verdict(record.facts, 0) == "memorized, sampled again"


def test_a_run_that_only_records_is_not_seen(with_ways, demo, guarding, stored, draw):
    """A way may run the model more than once; only the run that draws counts."""
    core = importlib.import_module("unmemorize_pack.host.core.sampler_call")

    def way(call):
        noisy = dataclasses.replace(call, guider=copy.copy(call.guider))
        noisy.guider.model_options = {**call.guider.model_options, core.RECORDING: True}
        again(noisy, 0.5)
        return again(call)

    _, record = with_ways(way)
    model, own = guarding.guarded(demo[0], guarding.Guard(stored))
    draw(model, prompt=PROMPT, steps=STEPS)
    assert record.facts["redrawn"]["0"]["score"] == pytest.approx(own.facts["scores"][0], rel=1e-3)


def test_the_report_keeps_looks_and_a_forged_one_is_refused(nodes, with_ways):
    _, record = with_ways(lambda call: again(call, 0.8))
    read = importlib.import_module("unmemorize_pack.host.stability.records").read_record
    assert read(json.dumps(record.facts), None, None)["redrawn"] == record.facts["redrawn"]
    forged = {**record.facts, "redrawn": {"0": {"memorized": "no"}}}
    with pytest.raises(ValueError, match="redrawn"):
        read(json.dumps(forged), None, None)


PLAIN = {
    "mask": None,
    "latent": torch.zeros(1, 4, 8, 8),
    "noise": torch.ones(1, 4, 8, 8),
    "sigmas": torch.tensor([14.6, 3.0, 0.0]),
    "conds": {},
    "inside": {},
}


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({}, True), ({"latent": torch.full((1, 16, 8, 8), 0.06)}, True), ({"conds": {"control": None}}, True),
        ({"mask": torch.ones(1, 1, 8, 8)}, False), ({"latent": torch.arange(256.0).view(1, 4, 8, 8)}, False),
        ({"sigmas": torch.tensor([5.0, 3.0, 0.0])}, True), ({"sigmas": torch.tensor([14.6, 3.0])}, False),
        ({"noise": torch.zeros(1, 4, 8, 8)}, False),
        ({"conds": {"control": object()}}, False), ({"conds": {"reference_latents": [torch.zeros(1)]}}, False),
        ({"before": object()}, False), ({"inside": {"patches": {}}}, True), ({"inside": {"patches": {"attn1_patch": [1]}}}, False),
        ({"inside": {"patches_replace": {"attn2": {1: 1}}}}, False), ({"conds": {"unclip_conditioning": [1]}}, False),
    ],
)  # fmt: skip
def test_a_trial_is_for_pictures_drawn_from_nothing(comfy, changes, fits):
    """Some schedules begin below the model's highest level: from an empty latent that is noise alone too."""
    runs = importlib.import_module("unmemorize_pack.host.stability.runs")
    given = PLAIN | changes
    conds = {"positive": [given["conds"]], "negative": [{}]}
    guider = SimpleNamespace(original_conds=conds, model_options={"transformer_options": given["inside"]})
    call = SimpleNamespace(guider=guider, **{k: given[k] for k in ("mask", "latent", "noise")})
    watch = SimpleNamespace(sigmas=given["sigmas"].tolist())
    assert (runs.Run(watch, None, given.get("before")).held_by(call) == "") == fits


def test_a_likeness_is_of_the_places_that_count(strategies):
    """The second sample of a batch: one half is kept, the other another picture's."""
    first, other = torch.randn(2, 1, 4, 16, 16, generator=torch.Generator().manual_seed(5)).expand(2, 2, 4, 16, 16)
    region = torch.ones(2, 1, 16, 16)
    region[1, ..., 8:] = 0
    mixed = torch.where(region > 0, other, first)
    alike = [strategies.compared_with(first, where)(None, lambda _: mixed[1:], 1)[1].likeness for where in (region, region[1:], None)]
    assert max(map(abs, alike[:2])) < 0.3 < 0.4 < alike[2]


@pytest.mark.parametrize(("steps", "bare", "until"), [(1, 0.0, 1.0), (2, 0.5, 1.0), (3, 1 / 3, 2 / 3), (5, 0.4, 0.6), (20, 0.3, 0.5)])
def test_of_the_fewest_steps_one_is_drawn_with_the_common_change(comfy, monkeypatch, steps, bare, until):
    common = importlib.import_module("unmemorize_pack.host.stability.common_change")
    monkeypatch.setattr(common, "options_of_another_run", lambda _: {})
    monkeypatch.setattr(common, "in_phases", lambda _, phases: [share for share, _ in phases])
    call = SimpleNamespace(guider=SimpleNamespace(), sigmas=torch.linspace(1, 0, steps + 1))
    assert common.drawn_without_leak(call, None, 0.3, 0.5) == pytest.approx([bare, until, 1.0])
