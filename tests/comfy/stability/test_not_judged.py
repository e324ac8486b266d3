"""What cannot be judged is said, never called clean: runs seen in part, of latents that change their size, runs that break."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math

import pytest
import torch

from ..judging import EMPTY, PROMPT, STEPS, why


@pytest.fixture
def stages(advanced):
    """stages(model, cut): two of them, as users chain them."""
    return lambda model, cut: advanced(model, advanced(model, EMPTY, 0, cut), cut, STEPS, "disable")


def test_stages_of_one_run_are_judged_as_one(guard, stages, draw):
    """Wherever it is cut, the whole run is judged: the score is near that of the uncut run, and the steps are numbered through."""
    model, record = guard()
    draw(model, steps=STEPS)
    (whole,), sigmas = record.facts["scores"], record.facts["sigmas"]
    for cut in (2, 5, 8):
        model, record = guard()
        stages(model, cut)
        assert why(record) == "" and record.facts["sigmas"] == pytest.approx(sigmas)
        assert record.facts["scores"][0] == pytest.approx(whole, abs=0.5), cut  # one comparison is missing, at the cut
        assert any("several stages" in text for text in record.facts["warnings"])


def test_a_stage_alone_is_not_judged(guard, draw):
    model, record = guard()
    picture = draw(model, steps=STEPS, last_step=3)
    assert "stops at noise level" in why(record)
    model, record = guard()
    draw(model, steps=STEPS, start_step=STEPS - 2, latent=picture)
    assert "begins at noise level" in why(record)


def test_a_single_step_is_not_blamed_on_guidance(guard, draw):
    """There is nothing before it, and that is what is said."""
    model, record = guard()
    draw(model, steps=1)
    assert "Only the first step" in why(record) and "guidance" not in why(record)


@pytest.mark.parametrize(("steps", "judged"), [(3, True), (10, True), (15, False)])
def test_a_profile_serves_half_to_twice_its_steps(guard, draw, steps, judged):
    """Of five steps, four of them where memories show."""
    model, record = guard()
    draw(model, steps=steps)
    assert ("half to twice as many" in why(record)) != judged


@pytest.mark.parametrize(("here", "there", "serves"), [(6, 13, True), (9, 19, True), (27, 13, True), (4, 10, False), (28, 13, False)])
def test_twice_the_steps_is_told_up_to_rounding(host, here, there, serves):
    assert host("stability.verdicts").serves_steps(here, there) == serves == host("stability.verdicts").serves_steps(there, here)


def test_a_profile_of_many_steps_does_not_serve_few(guarding, draw, demo, stored):
    p = stored.profile
    mean, sd = ({name: values.repeat(2)[:7] for name, values in several.items()} for several in (p.mean, p.sd))
    profile = dataclasses.replace(p, angles=torch.linspace(0.6, 1.5, 7), mean=mean, sd=sd)
    model, record = guarding.guarded(demo[0], guarding.Guard(dataclasses.replace(stored, profile=profile), "detect"))
    draw(model, steps=3)
    assert "takes 2 steps where memories show, the runs of the stability profile took 7" in why(record)


def test_a_picture_that_is_drawn_over_is_not_judged_by_runs_from_noise(guard, draw):
    """Clean pictures over another one are called memorized by three in ten; an empty latent is none, wherever a schedule begins."""
    other = draw(seed=9)
    for denoise, judged in ((0.8, False), (1.0, True)):
        model, record = guard()
        draw(model, steps=STEPS, latent=other, denoise=denoise)
        assert ("from a picture" not in why(record)) == judged
    model, record = guard()
    draw(model, steps=STEPS, latent=EMPTY, denoise=0.8)
    assert "from a picture" not in why(record)


def test_a_schedule_that_begins_lower_is_no_lower_beginning_where_the_profile_has_it(guarding, draw, demo, encode, host):
    """ddim_uniform leaves out the highest levels, of the profile's runs as of this one."""
    use = {"seed": 7, "steps": 10, "cfg": 2.0, "sampler_name": "euler", "scheduler": "ddim_uniform"}
    prompts = [encode(f"a {colour} ring") for colour in ("red", "blue", "green", "yellow", "white")]
    stored = host("stability.profiles").calibrate(demo[0], prompts, encode(""), {"samples": EMPTY}, 1, use)
    model, record = guarding.guarded(demo[0], guarding.Guard(stored, "detect"))
    draw(model, steps=10, scheduler="ddim_uniform", latent=draw(seed=9))
    assert why(record) == "" and record.facts["sigmas"][0] < 0.9 * float(demo[0].get_model_object("model_sampling").sigma_max)


@pytest.mark.parametrize(("columns", "judged"), [(2, False), (4, True)])
def test_a_small_part_of_a_picture_is_not_judged(guard, draw, columns, judged):
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :columns] = 1
    model, record = guard()
    draw(model, steps=STEPS, latent=draw(seed=9), noise_mask=mask)
    assert ("Less than a third" not in why(record)) == judged


def test_a_prompt_of_strength_0_is_no_memory(guard, draw, encode):
    """ComfyUI predicts zero for it."""
    without = [[tokens, {**facts, "strength": 0.0}] for tokens, facts in encode("a red ring")]
    model, record = guard()
    draw(model, steps=STEPS, prompt=without)
    assert why(record) != ""


@pytest.mark.parametrize("kind", ["EasyCacheNode", "LazyCacheNode"])
def test_a_cache_that_answers_for_the_model_gives_no_verdict(guarding, stored, draw, demo, host, kind):
    cached = getattr(importlib.import_module("comfy_extras.nodes_easycache"), kind).execute(demo[0], 0.2, 0.15, 0.95, False).args[0]
    model, record = guarding.guarded(cached, guarding.Guard(stored, "detect"))
    draw(model, steps=STEPS)
    assert "answers some steps from earlier ones" in why(record)
    with pytest.raises(ValueError, match="Bypass it"):
        draw(host("stability.watching").watched(cached)[0])


def test_a_broken_run_can_be_shown(guard, draw, nodes):
    """By its report and by its record: the reason is said."""
    model, record = guard()
    model.set_model_unet_function_wrapper(lambda predict, a: predict(a["input"], a["timestep"], **a["c"]) * math.nan)
    latent = {"samples": draw(model)}
    for given in ({"report": json.dumps(record.facts)}, {"record": record, "latent": latent}):
        _, memorized, score, text = nodes["UnmemorizeStabilityChart"].execute(0, **given).args
        assert not memorized and math.isnan(score) and "not numbers" in json.loads(text)["not_judged"][0]


def test_a_sampler_that_takes_no_step_is_not_judged(nodes, demo, encode, stored):
    """Denoise 0: the core gives the latent back, and nothing was watched."""
    node = nodes["UnmemorizeKSamplerStabilityGuard"]
    arguments = (demo[0], 1, 5, 2.0, "euler", "normal", encode(PROMPT), encode(""), {"samples": EMPTY + 1}, 0.0)
    latent, memorized, score, text = node.execute(*arguments, "detect", "recommended", stored).args
    assert torch.equal(latent["samples"], EMPTY + 1) and not memorized and math.isnan(score) and json.loads(text) == {}
    result = node.execute(*arguments, "detect", "recommended", stored)
    assert result.ui["unmemorize_report"][0]["verdict"].startswith("not judged")
    assert node.execute(*arguments, "off", "recommended", stored).args[1:3] == (False, 0.0)


def test_another_latent_is_no_second_stage(guard, advanced):
    """A run in between belongs to another picture."""
    model, record = guard()
    advanced(model, EMPTY, 0, 8)
    advanced(model, EMPTY + 1, 8, STEPS)
    assert "first steps were not watched" in why(record) and len(record.facts["sigmas"]) == 3


def test_both_stages_of_a_memory_are_drawn_again(guard, stages, demo, nodes):
    """With a parent for all of it, the stages together are the parent's own picture."""
    early = nodes["UnmemorizeLoadDemoCheckpoint"].execute("early").args[0]
    restart = importlib.import_module("unmemorize_pack.host.stability.restart")
    how = restart.Restart((restart.Phase(1.0, parent=True),), early)
    model, record = guard("correct", strategy=how, limit=-1e9)
    assert torch.allclose(stages(model, 8), stages(early, 8), atol=1e-5)
    assert record.facts["restarted"] == [0] and not any("no verdict yet" in text for text in record.facts["warnings"])
    model, record = guard("correct", strategy=how, limit=-1e9)
    stages(model, 3)
    assert record.facts["restarted"] == [0] and any("no verdict yet" in text for text in record.facts["warnings"])


def test_little_denoising_is_not_judged(nodes, demo, encode, stored):
    """The node: same bits, no score, and the reason in report and verdict."""
    given = {"model": demo[0], "seed": 1, "steps": 20, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 0.15}
    given |= {"positive": encode(PROMPT), "negative": encode(""), "latent_image": {"samples": torch.ones(1, 8, 8, 8)}}
    result = nodes["UnmemorizeKSamplerStabilityGuard"].execute(**given, mode="detect", method="recommended", profile=stored)
    latent, memorized, score, report = result.args
    stock = importlib.import_module("nodes").KSampler().sample(*(given[k] for k in (
        "model", "seed", "steps", "cfg", "sampler_name", "scheduler", "positive", "negative", "latent_image", "denoise"
    )))[0]  # fmt: skip
    assert torch.equal(latent["samples"], stock["samples"])
    assert memorized is False and math.isnan(score) and "begins at noise level" in json.loads(report)["not_judged"][0]
    assert result.ui["unmemorize_report"][0]["verdict"].startswith("not judged")
    assert result.ui["unmemorize_guard"][0]["judged"] == [False]
    chart = nodes["UnmemorizeStabilityChart"].execute(0, report=report)
    assert math.isnan(chart.args[2]) and chart.args[1] is False


def test_a_latent_that_grows_on_the_way(demo, encode, guard, nodes):
    """LCM upscale enlarges it: the run goes through as it is, in every mode."""
    advanced = pytest.importorskip("comfy_extras.nodes_advanced_samplers")
    samplers = importlib.import_module("comfy.samplers")
    sampler = advanced.SamplerLCMUpscale.execute(2.0, 3, "bilinear").args[0]
    sigmas = samplers.calculate_sigmas(demo[0].get_model_object("model_sampling"), "normal", 8)

    def run(model):
        cfg = samplers.CFGGuider(model)
        cfg.set_conds(encode(PROMPT), encode(""))
        cfg.set_cfg(2.0)
        noise = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
        torch.manual_seed(5)  # this sampler adds noise of its own
        with torch.inference_mode():
            return cfg.sample(noise, torch.zeros(1, 8, 8, 8), sampler, sigmas, disable_pbar=True, seed=1)

    stock = run(demo[0])
    assert stock.shape[-1] == 16
    for mode, method in (("detect", "recommended"), ("correct", "recommended"), ("correct", "paper")):
        model, record = guard(mode, method=method, limit=-1e9)
        assert torch.equal(run(model), stock) and "changed the latent's size" in why(record)
    recorded, recording = nodes["UnmemorizeRecordScoreDifference"].execute(demo[0], 0.0, 1.0).args
    latent = run(recorded)
    with pytest.raises(ValueError, match="changed the latent's size"):
        nodes["UnmemorizeScoreDifferenceMap"].execute(recording, {"samples": latent})


def test_another_guidance_than_the_profiles(guard, draw):
    """The model patch learns the CFG only while sampling: the run goes on, and has no verdict."""
    model, record = guard()
    assert torch.equal(draw(model, cfg=7.0), draw(cfg=7.0)) and "CFG is 7" in why(record)
    model, record = guard()
    assert torch.equal(draw(model, cfg=1.0), draw(cfg=1.0)) and "no guidance" in why(record)


def test_a_run_that_breaks_is_not_clean(guard, draw, demo):
    """A model that puts out NaN: no verdict, and the blame is the model's."""
    model, record = guard()
    model.set_model_unet_function_wrapper(lambda predict, a: predict(a["input"], a["timestep"], **a["c"]) * math.nan)
    draw(model)
    assert "not numbers" in why(record)


RANGES = {
    "the prompt from the second step on": ({"positive": (0.05, 1.0)}, {}, "first step was not seen"),
    "the prompt from a fifth on": ({"positive": (0.2, 1.0)}, {}, "first step was not seen"),
    "the empty prompt until a fifth": ({"negative": (0.0, 0.2)}, {}, "could be compared"),
    "a mask that keeps everything": ({}, {"noise_mask": torch.zeros(1, 1, 8, 8)}, "Hardly anything"),
}


@pytest.mark.parametrize("name", RANGES)
def test_places_and_steps_without_a_prompt(guard, draw, encode, name):
    """Where ComfyUI predicts zero, or keeps what was there, nothing is known: no score is taken from it."""
    ranges, more, reason = RANGES[name]
    limited = importlib.import_module("nodes").ConditioningSetTimestepRange().set_range
    sides = {"positive": encode("a red ring"), "negative": encode("")}
    sides |= {side: limited(sides[side], *span)[0] for side, span in ranges.items()}
    given = {"prompt": sides["positive"], "negative": sides["negative"], "steps": STEPS, "latent": EMPTY, **more}
    model, record = guard()
    assert torch.equal(draw(model, **given), draw(**given))
    assert reason in why(record), record.facts["scores"]


def test_a_soft_mask_counts_as_generated(guard, draw):
    """Differential diffusion and the like: .4 everywhere is judged, and much as without a mask."""
    model, record = guard()
    draw(model, steps=STEPS, latent=EMPTY, noise_mask=torch.full((1, 1, 8, 8), 0.4))
    assert why(record) == "" and abs(record.facts["scores"][0]) < 50


@pytest.mark.parametrize("method", ["recommended", "paper"])
@pytest.mark.parametrize("after", [2, 6])
def test_a_run_that_breaks_on_the_way_is_not_clean(guard, draw, method, after):
    calls = []

    def breaks(predict, a):
        calls.append(1)
        return predict(a["input"], a["timestep"], **a["c"]) * (math.nan if len(calls) > after else 1.0)

    model, record = guard(method=method)
    model.set_model_unet_function_wrapper(breaks)
    draw(model, steps=STEPS)
    assert "not numbers" in why(record)


def test_a_sampler_that_draws_one_picture_after_another(guard, demo, encode):
    """Two in the batch, sampled apart: no verdict of one may stand for both, and nothing ends the run."""
    samplers = importlib.import_module("comfy.samplers")
    euler = samplers.sampler_object("euler")

    class OneByOne(samplers.Sampler):
        def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False):
            parts = zip(noise.split(1), latent_image.split(1), strict=True)
            return torch.cat([euler.sample(model_wrap, sigmas, extra_args, None, a, b, None, True) for a, b in parts])

    sigmas = samplers.calculate_sigmas(demo[0].get_model_object("model_sampling"), "normal", STEPS)
    guider, (model, record) = samplers.CFGGuider, guard()
    cfg = guider(model)
    cfg.set_conds(encode(PROMPT), encode(""))
    cfg.set_cfg(2.0)
    with torch.inference_mode():
        cfg.sample(torch.randn(2, 8, 8, 8), torch.zeros(2, 8, 8, 8), OneByOne(), sigmas, disable_pbar=True, seed=1)
    assert record.facts["memorized"] == [False, False] and all("1 of the 2 pictures" in reason for reason in record.facts["not_judged"])


@pytest.mark.parametrize("method", ["recommended", "paper"])
def test_the_custom_samplers_denoised_output_keeps_the_batch(guard, demo, encode, method, nodes):
    """Both outputs of SamplerCustomAdvanced, when one picture of two is drawn again or edited: two pictures each, the other's untouched."""
    custom, samplers = (importlib.import_module(n) for n in ("comfy_extras.nodes_custom_sampler", "comfy.samplers"))
    early = nodes["UnmemorizeLoadDemoCheckpoint"].execute("early").args[0]
    sigmas = samplers.calculate_sigmas(demo[0].get_model_object("model_sampling"), "normal", STEPS)
    everything = importlib.import_module("unmemorize_pack.unmemorize.stability.rule").Rule(tau_mild=0.0, tau_strong=0.0)

    def run(model):
        cfg = samplers.CFGGuider(model)
        cfg.set_conds(encode(PROMPT), encode(""))
        cfg.set_cfg(2.0)
        latent = {"samples": torch.zeros(2, 8, 8, 8)}
        return custom.SamplerCustomAdvanced.execute(custom.Noise_RandomNoise(1), cfg, samplers.sampler_object("euler"), sigmas, latent).args

    stock = run(demo[0])
    _, record = pair = guard("detect")
    run(pair[0])
    limit = sum(record.facts["scores"]) / 2  # between the two
    more = {"limit": limit, "parent": early} if method == "recommended" else {"rule": everything}
    model, record = guard("correct", method=method, **more)
    found = run(model)
    changed = [i for i in range(2) if not torch.equal(found[0]["samples"][i], stock[0]["samples"][i])]
    assert found[1]["samples"].shape == stock[1]["samples"].shape == (2, 8, 8, 8)
    for i in range(2):
        assert torch.equal(found[1]["samples"][i], stock[1]["samples"][i]) == (i not in changed)
    assert method == "paper" or changed == record.facts["restarted"] and len(changed) == 1


def test_a_second_stage_can_be_run_again(guard, advanced):
    """The first stage's latent is cached, and only the second runs, with other settings: it is judged with the first each time."""
    model, record = guard()
    picture = advanced(model, EMPTY, 0, 6)
    for _ in range(2):
        advanced(model, picture, 6, STEPS, "disable")
        assert why(record) == "" and len(record.facts["sigmas"]) == STEPS + 1


def test_two_guards_on_one_model(demo, guarding, stored, draw, nodes):
    """Whichever is nearer: each records the run itself, not the other's restart."""
    early = nodes["UnmemorizeLoadDemoCheckpoint"].execute("early").args[0]
    for order in ((0, 1), (1, 0)):
        guards = [guarding.Guard(stored, "correct", parent=early, limit=-1e9), guarding.Guard(stored, "detect")]
        model, records = demo[0], {}
        for k in order:
            model, records[k] = guarding.guarded(model, guards[k])
        draw(model, n=2, steps=STEPS)
        assert records[0].facts["restarted"] == [0, 1]
        assert len(records[1].facts["scores"]) == 2 and records[1].facts["not_judged"] == ["", ""], order


def test_the_same_words_twice_are_no_correction(guard, draw, demo, guarding, stored):
    """Positive and negative prompt alike: loosening changes nothing."""
    model, record = guard("correct", limit=-1e9)
    assert torch.equal(draw(model, prompt="", steps=STEPS), draw(prompt="", steps=STEPS))
    assert record.facts["restarted"] == [] and any("just as it was" in text for text in record.facts["warnings"])
