"""The guard watches a LoRA: what it changes for a prompt alone, against the model before it."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch

from ..judging import STEPS

EARLY = 1.39
PROMPT, EMPTY = "a small red ring on a gray background", torch.zeros(1, 8, 8, 8)


def lora_of(model, change):
    """MODEL under a patch of every attention's output, `change(weight, generator)` of each."""
    generator = torch.Generator().manual_seed(5)
    names = [k for k in model.model.state_dict() if k.startswith("diffusion_model.") and k.endswith("attn2.to_out.0.weight")]
    clone = model.clone()
    clone.add_patches({k: (change(model.model.state_dict()[k], generator),) for k in names})
    return clone


@pytest.fixture(scope="module")
def changed(demo):
    """The demo model under a LoRA that changes something."""
    return lora_of(demo[0], lambda w, g: 0.5 * w.float().std() * torch.randn(w.shape, generator=g))


@pytest.fixture
def watching():
    return importlib.import_module("unmemorize_pack.host.stability.lora_watch")


@pytest.fixture
def guard(demo, changed, guarding):
    """guard(mode, ...) -> the changed model under guard by its parent, without a profile; and the record."""

    def make(mode="detect", model=None, **more):
        methods = importlib.import_module("unmemorize_pack.host.stability.methods")
        asked = methods.Guard(more.pop("stored", None), mode, parent=more.pop("parent", demo[0]), **more)
        methods.check(asked, model or changed)
        return guarding.guarded(model or changed, asked)

    return make


def agreements(record, sample=0):
    """Of the first steps, those that are asked."""
    values = [row[sample] for row in record.facts["observed"]["agreement"]]
    early = [v for v, angle in zip(values, record.facts["angles"], strict=False) if angle >= EARLY]
    assert early and all(v is None for v in values[len(early) :])
    return early


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "uni_pc", "euler_ancestral"])
def test_detect_keeps_every_bit_and_needs_no_profile(guard, draw, changed, sampler):
    plain = draw(changed, n=2, sampler=sampler)
    clone, record = guard()
    assert torch.equal(draw(clone, n=2, sampler=sampler), plain)
    assert record.facts["detector"] == "agreement" and record.facts["not_judged"] == ["", ""] and record.facts["profile"] is None
    assert all(-1 <= a <= 1 for a in agreements(record) if a is not None) and any(a is not None for a in agreements(record))
    assert "fixed limit" in " ".join(record.facts["warnings"])


def test_each_sample_has_its_own_agreement(guard, draw):
    """A batch gives what its parts give."""
    clone, record = guard()
    draw(clone, n=2, seed=3)
    both = [agreements(record, i) for i in (0, 1)]
    assert both[0] != both[1]
    draw(clone, n=1, seed=3)
    assert agreements(record) == pytest.approx(both[0], abs=2e-3)


def test_agreement_is_that_of_the_two_models_predictions(guard, draw, demo, changed, encode):
    """Against ComfyUI's own calls of both models at the first step, where the latent is known."""

    clone, record = guard()
    draw(clone, prompt=PROMPT, steps=5)
    seen = {}
    for name, model in (("lora", changed), ("base", demo[0])):

        def listen(facts, name=name):
            seen.setdefault(name, (facts["cond_denoised"].clone(), facts["uncond_denoised"].clone()))
            return facts["denoised"]

        heard = model.clone()
        heard.set_model_sampler_post_cfg_function(listen)
        draw(heard, prompt=PROMPT, steps=5)
    a, b = ((seen[name][0] - seen[name][1])[0] for name in ("lora", "base"))
    a, b = ((x - torch.nn.functional.avg_pool2d(x, 2).repeat_interleave(2, -1).repeat_interleave(2, -2)).flatten() for x in (a, b))
    assert agreements(record)[0] == pytest.approx(float(torch.nn.functional.cosine_similarity(a, b, dim=0)), abs=1e-4)


def test_a_reference_takes_the_empty_prompts_place(guard, draw, encode):
    """What the prompt adds to the reference is compared, also in a run without guidance; a prompt adds nothing to itself."""
    found = []
    for cfg in (2.0, 1.0):
        clone, record = guard(reference=encode("a ring"))
        draw(clone, prompt=PROMPT, cfg=cfg)
        found += agreements(record)
    plain, record = guard()
    draw(plain, prompt=PROMPT)
    assert found[0] == pytest.approx(found[1], abs=1e-4) and abs(found[0] - agreements(record)[0]) > 1e-3
    clone, record = guard(reference=encode(PROMPT))
    draw(clone, prompt=PROMPT)
    assert agreements(record) == [None] and "asks for nothing" in record.facts["not_judged"][0]


def test_a_lora_under_which_nothing_agrees_gives_no_verdict(guard, draw, changed, demo, watching, monkeypatch):
    """Calibrated on prompts that hardly agree: said, with what to do."""
    agreement = importlib.import_module("unmemorize_pack.unmemorize.stability.agreement")
    monkeypatch.setattr(watching, "UNCALIBRATED", agreement.AgreementRegion(0.1, 0.1))
    clone, record = guard()
    draw(clone)
    assert record.facts["memorized"] == [False] and "that word alone as reference" in record.facts["not_judged"][0]


def test_without_guidance_the_negative_prompt_is_asked_for(guard, draw):
    clone, record = guard()
    draw(clone, cfg=1.0)
    assert record.facts["not_judged"] == [""] and all(a is not None for a in agreements(record))


def test_a_lora_that_changes_nothing_is_not_called_clean(guard, draw, demo):
    nothing = lora_of(demo[0], lambda w, g: torch.zeros_like(w, dtype=torch.float32))
    clone, record = guard(model=nothing)
    draw(clone)
    assert record.facts["scores"] == [None] and "changes nothing" in record.facts["not_judged"][0]


def test_the_same_model_as_parent_is_refused(guard, demo, changed):
    with pytest.raises(ValueError, match="same model with the same LoRAs"):
        guard(parent=changed)
    with pytest.raises(ValueError, match="the model does not have"):
        guard(model=demo[0], parent=changed)
    with pytest.raises(ValueError, match="needs the model before the LoRA"):
        guard(parent=None, reference=[[torch.zeros(1, 24, 128), {}]])


def test_another_checkpoint_as_parent_still_needs_a_profile(guard, demo, changed, root):
    early = importlib.import_module("unmemorize_pack.host.demo").load_demo(root / "demo/lab/early.safetensors")[0]
    with pytest.raises(ValueError, match="needs a profile"):
        guard(parent=early)


@pytest.fixture
def common(comfy):
    """The module that corrects."""
    return importlib.import_module("unmemorize_pack.host.stability.common_change")


@pytest.fixture
def guilty(common, monkeypatch):
    """No trial acquits."""
    monkeypatch.setattr(common, "UNMOVED", 2.0)


@pytest.mark.usefixtures("guilty")
def test_correct_draws_flagged_pictures_again_and_no_other(guard, draw, changed):
    """Limits that flag one of two: the other keeps its bits, the flagged one is what the base makes plus the common change."""
    clone, record = guard(limit=-1e9)
    draw(clone, n=2)
    low, high = sorted(record.facts["scores"])
    clone, record = guard("correct", limit=(low + high) / 2)
    plain, got = draw(changed, n=2), draw(clone, n=2)
    hit = record.facts["memorized"].index(True)
    assert record.facts["memorized"].count(True) == 1 and record.facts["restarted"] == [hit]
    assert torch.equal(got[1 - hit], plain[1 - hit]) and not torch.equal(got[hit], plain[hit])


@pytest.mark.usefixtures("guilty")
def test_a_correction_leaves_both_models_as_they_were(guard, draw, demo, changed, untouched):
    clone, _ = guard("correct", limit=-1e9)
    plain = draw(changed)
    with untouched(demo[0], changed):
        draw(clone)
        after = draw(changed)  # both share their weights: what was loaded before is loaded again
    assert torch.equal(after, plain)


@pytest.mark.usefixtures("guilty")
def test_a_redraw_begins_with_the_model_before_the_lora_alone(guard, draw, demo, monkeypatch, common):
    """Of five steps the first two; the LoRA is asked at the third, and draws the last two. On trial it was asked at the first two."""
    asked, real = [], common._Lent.corrected
    monkeypatch.setattr(common._Lent, "corrected", lambda self, guider, facts: asked.append(facts["sigma"]) or real(self, guider, facts))
    clone, record = guard("correct", limit=-1e9)
    draw(clone)
    levels = [float(sigma.max()) for sigma in asked[:3]]
    assert levels == pytest.approx(record.facts["sigmas"][:3], rel=1e-3)
    methods = importlib.import_module("unmemorize_pack.host.stability.methods")
    monkeypatch.setattr(common._Lent, "corrected", lambda _self, _guider, facts: facts["denoised"])
    monkeypatch.setattr(methods, "CommonChange", lambda lora: common.CommonChange(lora, 0.4, 1.0))
    clone, _ = guard("correct", limit=-1e9)
    assert torch.allclose(draw(clone), draw(demo[0]), atol=1e-4), "all of it by the model before the LoRA"


@pytest.mark.usefixtures("guilty")
def test_redrawn_is_the_base_where_the_lora_moves_no_empty_prompt(guard, draw, demo, changed, monkeypatch, encode):
    """With the reference that the base itself answers alike under both models, the common change is nothing: the base's own run."""
    methods, common = (importlib.import_module(f"unmemorize_pack.host.stability.{n}") for n in ("methods", "common_change"))
    monkeypatch.setattr(methods, "CommonChange", lambda lora: common.CommonChange(lora, 0.0, 1.0))
    monkeypatch.setattr(common, "with_change", lambda guided, *_: guided)
    clone, _ = guard("correct", limit=-1e9)
    assert torch.allclose(draw(clone), draw(demo[0]), atol=1e-4)


@pytest.mark.parametrize("mode", ["detect", "correct"])
@pytest.mark.parametrize("reference", [False, True])
def test_where_the_prompt_asks_for_the_same_it_was_no_memory(guard, draw, changed, monkeypatch, encode, reference, mode):
    """No step's agreement is below -1: the trial is the LoRA's own run, to rounding; the picture keeps its bits."""
    agreement = importlib.import_module("unmemorize_pack.unmemorize.stability.agreement")
    monkeypatch.setattr(agreement.AgreementRegion, "keeps", property(lambda _: -1.1))
    clone, record = guard(mode, limit=-1e9, reference=encode("a ring") if reference else None)
    assert torch.equal(draw(clone, n=2), draw(changed, n=2))
    found = record.facts
    assert found["memorized"] == [False, False] and found["restarted"] == [] and found["redrawn"] == {}
    assert list(found["acquitted"]) == ["0", "1"] and min(found["acquitted"].values()) > 0.99
    assert "hardly changed" in " ".join(found["warnings"])
    chart = importlib.import_module("unmemorize_pack.unmemorize.pictures.stability_chart")
    assert "nothing found" in chart.verdict(found, 0) and "hardly changed" in chart.verdict(found, 0)


def test_where_it_asks_for_something_else_the_trial_leaves_the_leak_out(guard, draw, monkeypatch, common):
    """Every step's agreement is below 1.1: the trial is drawn as without any of the LoRA's answers."""
    methods, agreement = (
        importlib.import_module(f"unmemorize_pack.{n}") for n in ("host.stability.methods", "unmemorize.stability.agreement")
    )
    monkeypatch.setattr(agreement.AgreementRegion, "keeps", property(lambda _: 1.1))
    monkeypatch.setattr(methods, "CommonChange", lambda lora: common.CommonChange(lora, 0.0, 1.0))
    monkeypatch.setattr(common, "UNTIL", 1.0)
    tried = []
    monkeypatch.setattr(common, "likeness", lambda _first, again, _region: tried.append(again) or torch.zeros(1))
    clone, record = guard("correct", limit=-1e9)
    got = draw(clone)
    assert record.facts["memorized"] == [True] and record.facts["acquitted"] == {}
    assert torch.allclose(tried[0], got, atol=1e-4)


@pytest.mark.parametrize(("apart", "none"), [(0.5, True), (1.0, False), (2.0, False), (float("nan"), False)])
@pytest.mark.parametrize("mode", ["detect", "correct"])
def test_what_a_trial_hardly_changes_was_no_memory(guard, draw, changed, monkeypatch, common, apart, none, mode):
    """On trial the second of a batch comes with so much of another picture's structure: likeness .89, .71, .45; the first as it was."""
    redrawn = importlib.import_module("unmemorize_pack.unmemorize.stability.redrawn")
    plain, count = draw(changed, n=2), iter(range(9))
    other = torch.randn(plain[1:].shape, generator=torch.Generator().manual_seed(3))
    other *= redrawn.structure(plain[1:]).norm() / redrawn.structure(other).norm()
    real = common.drawn_without_leak

    def drawn(call, lora, bare, until, keeps=None, region=None):
        if keeps is None:
            return real(call, lora, bare, until)
        i = next(count)
        return plain[i : i + 1] + i * apart * other if i else plain[:1]

    monkeypatch.setattr(common, "drawn_without_leak", drawn)
    clone, record = guard(mode, limit=-1e9)
    got = draw(clone, n=2)
    assert record.facts["memorized"] == [False, not none] and list(record.facts["acquitted"]) == (["0", "1"] if none else ["0"])
    assert torch.equal(got[0], plain[0]) and torch.equal(got[1], plain[1]) == (none or mode == "detect")
    assert record.facts["restarted"] == ([] if none or mode == "detect" else [1])


def test_under_a_mask_no_trial_acquits(guard, draw, monkeypatch):
    """What is kept would make whatever is drawn look like the first."""
    guards = importlib.import_module("unmemorize_pack.host.stability.guard")
    monkeypatch.setattr(guards, "acquitted", lambda *_: pytest.fail("tried"))
    mask = torch.ones(1, 1, 16, 16)
    mask[..., :4] = 0
    clone, record = guard("detect", limit=-1e9)
    draw(clone, noise_mask=mask)
    assert record.facts["memorized"] == [True] and record.facts["acquitted"] == {}


def test_a_trial_is_compared_with_the_same_noise(guard, draw, changed, monkeypatch):
    """Alone, a sample of a batch meets other noise at its steps: with nothing left out it is the LoRA's own picture all the same."""
    agreement = importlib.import_module("unmemorize_pack.unmemorize.stability.agreement")
    monkeypatch.setattr(agreement.AgreementRegion, "keeps", property(lambda _: -1.1))
    clone, record = guard("detect", limit=-1e9)
    assert torch.equal(draw(clone, n=2, sampler="euler_ancestral"), draw(changed, n=2, sampler="euler_ancestral"))
    assert list(record.facts["acquitted"]) == ["0", "1"] and min(record.facts["acquitted"].values()) > 0.99


@pytest.mark.parametrize("where", [slice(0, 8), slice(2, 6)])
def test_the_trial_asks_where_the_prompt_is(guard, draw, encode, monkeypatch, where, common):
    """A prompt of a part of the picture: agreement counts there alone, in the trial as in the run."""
    seen, real = [], common.agreement
    monkeypatch.setattr(common, "agreement", lambda *given: seen.append(given[4]) or real(*given))
    mask = torch.zeros(1, 8, 8)
    mask[:, :, where] = 1
    clone, _ = guard("detect", limit=-1e9)
    draw(clone, prompt=[[c, {**facts, "mask": mask, "mask_strength": 1.0}] for c, facts in encode("a red ring")])
    inside = [None if region is None else float(region.float().mean()) for region in seen]
    assert inside and all((1.0 if share is None else share) == pytest.approx(float(mask.mean())) for share in inside)


@pytest.mark.parametrize("mode", ["detect", "correct"])
def test_nobody_hears_of_a_trial(guard, draw, monkeypatch, mode):
    """What a sampler's callback heard last is the run's own x0: previews, denoised_output and the bar are of pictures that come out."""
    agreement = importlib.import_module("unmemorize_pack.unmemorize.stability.agreement")
    monkeypatch.setattr(agreement.AgreementRegion, "keeps", property(lambda _: -1.1))
    heard, clones = [], [guard("off")[0], guard(mode, limit=-1e9)[0]]
    for clone in clones:
        heard.append([])
        draw(clone, n=2, callback=lambda step, x0, _x, _total: heard[-1].append((step, x0.clone())))
    assert [step for step, _ in heard[0]] == [step for step, _ in heard[1]]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(*heard, strict=True))


def test_what_cannot_be_tried_is_judged_by_the_limit(guard, draw, monkeypatch, common):
    """A prompt that cannot be cut to one sample ends no run in mode detect."""

    def refuse(*_):
        raise ValueError("One picture of this batch cannot be sampled again alone.")

    monkeypatch.setattr(common, "call_of_one", refuse)
    clone, record = guard("detect", limit=-1e9)
    draw(clone, n=2)
    assert record.facts["memorized"] == [True, True] and record.facts["acquitted"] == {}
    assert "could not be tried" in " ".join(record.facts["warnings"])


def test_the_score_of_an_acquitted_picture_is_its_trials(watching):
    """By the likeness that was left: at the edge the limit, at 1 nothing; never above what is called memorized."""
    verdicts = importlib.import_module("unmemorize_pack.host.stability.verdicts")
    regions = importlib.import_module("unmemorize_pack.unmemorize.stability.agreement").AgreementRegion
    watch = SimpleNamespace(
        samples=3, observed=lambda: {"agreement": torch.tensor([[0.0, 0.0, 0.0]])}, empty=lambda: [False] * 3, broken=lambda: [False] * 3
    )
    verdicts_of = lambda acquitted: verdicts.judged_by_agreement(watch, regions(0.4, 0.05), verdicts.LIMIT, "", acquitted)  # noqa: E731
    original, verdicts._seen_in_part = verdicts._seen_in_part, lambda _: ""
    try:
        found = verdicts_of({0: 1.0, 1: 0.8})
    finally:
        verdicts._seen_in_part = original
    assert found.score[0] == 0 and found.score[1] == pytest.approx(verdicts.LIMIT) and found.score[2] > verdicts.LIMIT
    assert found.flagged.tolist() == [False, False, True] == found.by_lora.tolist()


def test_a_memory_of_the_models_own_is_not_acquitted_with_the_loras(guard, draw, changed, monkeypatch, stored):
    """Flagged by both detectors, acquitted of the LoRA's: still memorized, and drawn again without it."""
    agreement = importlib.import_module("unmemorize_pack.unmemorize.stability.agreement")
    monkeypatch.setattr(agreement.AgreementRegion, "keeps", property(lambda _: -1.1))
    clone, record = guard("correct", limit=-1e9, stored=stored)
    assert not torch.equal(draw(clone), draw(changed))
    assert record.facts["memorized"] == [True] and list(record.facts["acquitted"]) == ["0"] and record.facts["restarted"] == [0]
    assert "stays as it was" not in " ".join(record.facts["warnings"])
    chart = importlib.import_module("unmemorize_pack.unmemorize.pictures.stability_chart")
    assert chart.verdict(record.facts, 0).startswith("memorized, sampled again")


def test_a_profile_measured_under_the_lora_calibrates_it(watching, demo, changed, encode, draw, guard, tmp_path):
    prompts = [encode(f"a {colour} ring") for colour in ("red", "blue", "green", "yellow", "white")]
    use = {"seed": 7, "steps": 5, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
    with torch.inference_mode():
        stored = watching.calibrated(changed, demo[0], None, prompts, encode(""), {"samples": EMPTY}, 1, use)
    region = stored.profile.agreement
    assert -1 <= region.centre <= 1 and region.spread > 0 and "agreement" in stored.profile.mean
    clone, record = guard(stored=stored)
    draw(clone)
    assert record.facts["detector"] == "default + agreement" and "fixed limit" not in " ".join(record.facts["warnings"])
    profiles = importlib.import_module("unmemorize_pack.host.stability.profiles")
    files = importlib.import_module("unmemorize_pack.host.core.files")
    files.replace(tmp_path / "p.safetensors", *profiles.as_file(stored))
    assert profiles.read_profile(tmp_path / "p.safetensors").profile.agreement == region
    tensors, noted = profiles.as_file(stored)
    tensors["agreement"] = tensors.pop(profiles.AGREEMENT)  # as files of before have it: that of the LoRA's changes
    files.replace(tmp_path / "old.safetensors", tensors, noted)
    assert profiles.read_profile(tmp_path / "old.safetensors").profile.agreement is None


def test_a_profile_of_another_lora_does_not_calibrate_this_one(guard, draw, stored):
    clone, record = guard(stored=stored)
    draw(clone)
    assert "fixed limit" in " ".join(record.facts["warnings"])


def shifted(model):
    """A node between LoRA loader and guard: half of every attention's output."""
    clone = model.clone()
    clone.set_model_attn1_output_patch(lambda n, _options: 0.5 * n)
    return clone


def test_what_other_nodes_add_is_no_change_of_the_lora(guard, draw, changed, demo):
    """The parent is what goes into the LoRA loader: attention patches behind that belong to both."""
    found = []
    for parent in (demo[0], shifted(demo[0])):
        model, record = guard(model=shifted(changed), parent=parent)
        draw(model)
        found.append([a for a in agreements(record) if a is not None])
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_predictions_that_a_node_rewrites_are_asked_for_again(guard, draw, changed):
    """A large constant on both predictions would look like a change that agrees."""
    model = changed.clone()
    model.set_model_sampler_pre_cfg_function(lambda facts: [c + 50.0 for c in facts["conds_out"]])
    clone, record = guard(model=model)
    draw(clone)
    assert max(a for a in agreements(record) if a is not None) < 0.999


def test_a_parent_with_another_lora_is_refused(watching, demo, changed):
    other = lora_of(demo[0], lambda w, g: torch.ones_like(w))
    with pytest.raises(ValueError, match="the model does not have"):
        watching.lora_between(changed, other, None, None)
    both = changed.clone()
    both.add_patches({k: (torch.ones_like(demo[0].model.state_dict()[k]),) for k in other.patches})
    assert watching.lora_between(both, changed, None, None) is not None


def test_the_models_own_memories_are_corrected_without_the_parent(guard, guarding, draw, demo, stored, monkeypatch):
    """Of two flagged samples one is flagged by the LoRA's changes; its trial is a flat picture, which tells nothing."""
    methods, common, restart = (
        importlib.import_module(f"unmemorize_pack.host.stability.{n}") for n in ("methods", "common_change", "restart")
    )
    real, drawn = methods.Guard.judge, []

    def judge(self, watch, *more):
        found = real(self, watch, *more)
        yes = torch.ones_like(found.flagged)
        return type(found)(found.score, yes, found.detector, found.observed, ["", ""], torch.tensor([True, False]))

    monkeypatch.setattr(methods.Guard, "judge", judge)
    monkeypatch.setattr(common, "drawn_without_leak", lambda call, *_: drawn.append("parent") or torch.full_like(call.noise, 2))
    monkeypatch.setattr(restart, "restarted", lambda call, _: drawn.append("words") or torch.ones_like(call.noise))
    model, record = guard("correct", stored=stored, sampling={})
    result = draw(model, n=2, sampler="heun")
    assert drawn == ["parent", "parent", "words"] and record.facts["restarted"] == [0, 1]
    assert set(record.facts["redrawn"]) == {"0", "1"}, "what became of both is told"
    assert float(result[0].min()) == 2 and float(result[1].max()) == 1


def test_a_run_that_the_profile_flags_early_is_still_asked_whose_memory_it_is(guard, guarding, draw, stored, monkeypatch):
    """Cut short, it would be taken for the model's own, and be drawn again without its parent."""
    asked, real = [], guarding.note_agreement
    monkeypatch.setattr(guarding, "note_agreement", lambda watch, *more: asked.append(watch) or real(watch, *more))
    model, record = guard("correct", stored=stored, limit=-1e30)
    draw(model, steps=8)
    assert len(asked) == 1 and record.facts["detector"] == "default + agreement"
    assert any(a is not None for row in record.facts["observed"]["agreement"] for a in row)


def test_a_second_stage_is_judged_by_the_first_ones_steps(guard, advanced):
    """KSampler (Advanced) twice: only the first stage comes by the steps in which a LoRA's memories show."""
    model, record = guard()
    half = advanced(model, EMPTY, 0, 5)
    first = [row for row in record.facts["observed"]["agreement"] if row[0] is not None]
    advanced(model, half, 5, STEPS, "disable")
    assert record.facts["not_judged"] == [""] and record.facts["detector"] == "agreement"
    assert first and [row for row in record.facts["observed"]["agreement"] if row[0] is not None] == first


def test_no_latent_outlives_the_run(guard, guarding, draw, monkeypatch):
    seen, real = [], guarding.note_agreement
    monkeypatch.setattr(guarding, "note_agreement", lambda watch, *more: seen.append((watch, len(watch.kept))) or real(watch, *more))
    model, _ = guard()
    draw(model)
    assert seen[0][1] > 0 and not seen[0][0].kept


@pytest.mark.usefixtures("guilty")
def test_a_profile_for_other_guidance_does_not_silence_the_lora(guard, draw, stored):
    model, record = guard(stored=stored, limit=-1e30)
    draw(model, cfg=20.0)
    assert record.facts["memorized"] == [True], "the LoRA's changes are judged at any guidance"


def test_a_measured_region_serves_its_own_reference_alone(watching, changed, demo, encode):
    use = {"seed": 1, "steps": 4, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
    prompts = [encode(p) for p in ("a red ring", "a blue star", "a green cross", "a white square", "a yellow circle")]
    stored = watching.calibrated(changed, demo[0], None, prompts, encode(""), {"samples": EMPTY}, 1, use)
    assert watching.lora_between(changed, demo[0], None, stored).calibrated
    assert not watching.lora_between(changed, demo[0], encode("a ring"), stored).calibrated
    profiles = importlib.import_module("unmemorize_pack.host.stability.profiles")
    assert stored.facts[profiles.BEFORE] == watching.before_of(demo[0], None)
    said = " ".join(watching.lora_between(changed, demo[0], None, stored).warnings())
    assert "text encoder" in said and "fixed limit" not in said


def test_a_lora_that_nobody_watched_is_never_called_clean(guard, demo, changed, guarding, stored, wide, draw):
    """By a profile alone: the verdict is of the checkpoint, and says so; beside the model before the LoRA it is of both."""
    verdict = importlib.import_module("unmemorize_pack.unmemorize.pictures.stability_chart").verdict
    for profile in (wide, stored):
        clone, record = guarding.guarded(changed, guarding.Guard(profile, limit=1e30))
        draw(clone)
        assert record.facts["unwatched"] and verdict(record.facts, 0) == "nothing found of the checkpoint"
        assert "was not watched" in " ".join(record.facts["warnings"])
    clone, record = guard(stored=stored, limit=1e30)
    draw(clone)
    assert not record.facts["unwatched"] and verdict(record.facts, 0) == "nothing found"
    clone, record = guarding.guarded(demo[0], guarding.Guard(stored, limit=1e30))
    draw(clone)
    assert not record.facts["unwatched"]
