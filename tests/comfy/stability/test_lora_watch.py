"""The guard watches a LoRA: what it changes for a prompt alone, against the model before it."""

from __future__ import annotations

import importlib

import pytest
import torch

from ..judging import STEPS
from ..loras import attention_patched

EARLY = 1.39
PROMPT, EMPTY = "a small red ring on a gray background", torch.zeros(1, 8, 8, 8)


@pytest.fixture
def watching(host):
    return host("stability.lora_watch")


def agreements(record, sample=0):
    """Of the first steps, those that are asked."""
    values = [row[sample] for row in record.facts["observed"]["agreement"]]
    early = [v for v, angle in zip(values, record.facts["angles"], strict=False) if angle >= EARLY]
    assert early and all(v is None for v in values[len(early) :])
    return early


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "uni_pc", "euler_ancestral"])
def test_detect_keeps_every_bit_and_needs_no_profile(lora_guard, draw, changed, sampler):
    plain = draw(changed, n=2, sampler=sampler)
    clone, record = lora_guard()
    assert torch.equal(draw(clone, n=2, sampler=sampler), plain)
    assert record.facts["detector"] == "agreement" and record.facts["not_judged"] == ["", ""] and record.facts["profile"] is None
    assert all(-1 <= a <= 1 for a in agreements(record) if a is not None) and any(a is not None for a in agreements(record))
    assert "fixed limit" in " ".join(record.facts["warnings"])


def test_each_sample_has_its_own_agreement(lora_guard, draw):
    """A batch gives what its parts give."""
    clone, record = lora_guard()
    draw(clone, n=2, seed=3)
    both = [agreements(record, i) for i in (0, 1)]
    assert both[0] != both[1]
    draw(clone, n=1, seed=3)
    assert agreements(record) == pytest.approx(both[0], abs=2e-3)


def test_agreement_is_that_of_the_two_models_predictions(lora_guard, draw, demo, changed, encode):
    """Against ComfyUI's own calls of both models at the first step, where the latent is known."""

    clone, record = lora_guard()
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


def test_a_reference_takes_the_empty_prompts_place(lora_guard, draw, encode):
    """What the prompt adds to the reference is compared, also in a run without guidance; a prompt adds nothing to itself."""
    found = []
    for cfg in (2.0, 1.0):
        clone, record = lora_guard(reference=encode("a ring"))
        draw(clone, prompt=PROMPT, cfg=cfg)
        found += agreements(record)
    plain, record = lora_guard()
    draw(plain, prompt=PROMPT)
    assert found[0] == pytest.approx(found[1], abs=1e-4) and abs(found[0] - agreements(record)[0]) > 1e-3
    clone, record = lora_guard(reference=encode(PROMPT))
    draw(clone, prompt=PROMPT)
    assert agreements(record) == [None] and "asks for nothing" in record.facts["not_judged"][0]


def test_a_lora_under_which_nothing_agrees_gives_no_verdict(lora_guard, draw, changed, demo, watching, monkeypatch):
    """Calibrated on prompts that hardly agree: said, with what to do."""
    agreement = importlib.import_module("unmemorize_pack.unmemorize.stability.agreement")
    monkeypatch.setattr(watching, "UNCALIBRATED", agreement.AgreementRegion(0.1, 0.1))
    clone, record = lora_guard()
    draw(clone)
    assert record.facts["memorized"] == [False] and "that word alone as reference" in record.facts["not_judged"][0]


def test_without_guidance_the_negative_prompt_is_asked_for(lora_guard, draw):
    clone, record = lora_guard()
    draw(clone, cfg=1.0)
    assert record.facts["not_judged"] == [""] and all(a is not None for a in agreements(record))


def test_a_lora_that_changes_nothing_is_not_called_clean(lora_guard, draw, demo):
    nothing = attention_patched(demo[0], lambda w, g: torch.zeros_like(w, dtype=torch.float32))
    clone, record = lora_guard(model=nothing)
    draw(clone)
    assert record.facts["scores"] == [None] and "changes nothing" in record.facts["not_judged"][0]


def test_the_same_model_as_parent_is_refused(lora_guard, demo, changed):
    with pytest.raises(ValueError, match="same model with the same LoRAs"):
        lora_guard(parent=changed)
    with pytest.raises(ValueError, match="the model does not have"):
        lora_guard(model=demo[0], parent=changed)
    with pytest.raises(ValueError, match="needs the model before the LoRA"):
        lora_guard(parent=None, reference=[[torch.zeros(1, 24, 128), {}]])


def test_another_checkpoint_as_parent_still_needs_a_profile(lora_guard, demo, changed, root):
    early = importlib.import_module("unmemorize_pack.host.demo").load_demo(root / "demo/lab/early.safetensors")[0]
    with pytest.raises(ValueError, match="needs a profile"):
        lora_guard(parent=early)


@pytest.mark.usefixtures("guilty")
def test_correct_draws_flagged_pictures_again_and_no_other(lora_guard, draw, changed):
    """Limits that flag one of two: the other keeps its bits, the flagged one is what the base makes plus the common change."""
    clone, record = lora_guard(limit=-1e9)
    draw(clone, n=2)
    low, high = sorted(record.facts["scores"])
    clone, record = lora_guard("correct", limit=(low + high) / 2)
    plain, got = draw(changed, n=2), draw(clone, n=2)
    hit = record.facts["memorized"].index(True)
    assert record.facts["memorized"].count(True) == 1 and record.facts["restarted"] == [hit]
    assert torch.equal(got[1 - hit], plain[1 - hit]) and not torch.equal(got[hit], plain[hit])


@pytest.mark.usefixtures("guilty")
def test_a_correction_leaves_both_models_as_they_were(lora_guard, draw, demo, changed, untouched):
    clone, _ = lora_guard("correct", limit=-1e9)
    plain = draw(changed)
    with untouched(demo[0], changed):
        draw(clone)
        after = draw(changed)  # both share their weights: what was loaded before is loaded again
    assert torch.equal(after, plain)


@pytest.mark.usefixtures("guilty")
def test_a_redraw_begins_with_the_model_before_the_lora_alone(lora_guard, draw, demo, monkeypatch, common):
    """Of five steps the first two; the LoRA is asked at the third, and draws the last two. On trial it was asked at the first two."""
    asked, real = [], common._Lent.corrected
    monkeypatch.setattr(common._Lent, "corrected", lambda self, guider, facts: asked.append(facts["sigma"]) or real(self, guider, facts))
    clone, record = lora_guard("correct", limit=-1e9)
    draw(clone)
    levels = [float(sigma.max()) for sigma in asked[:3]]
    assert levels == pytest.approx(record.facts["sigmas"][:3], rel=1e-3)
    methods = importlib.import_module("unmemorize_pack.host.stability.methods")
    monkeypatch.setattr(common._Lent, "corrected", lambda _self, _guider, facts: facts["denoised"])
    monkeypatch.setattr(methods, "CommonChange", lambda lora: common.CommonChange(lora, 0.4, 1.0))
    clone, _ = lora_guard("correct", limit=-1e9)
    assert torch.allclose(draw(clone), draw(demo[0]), atol=1e-4), "all of it by the model before the LoRA"


@pytest.mark.usefixtures("guilty")
def test_redrawn_is_the_base_where_the_lora_moves_no_empty_prompt(lora_guard, draw, demo, changed, monkeypatch, encode):
    """With the reference that the base itself answers alike under both models, the common change is nothing: the base's own run."""
    methods, common = (importlib.import_module(f"unmemorize_pack.host.stability.{n}") for n in ("methods", "common_change"))
    monkeypatch.setattr(methods, "CommonChange", lambda lora: common.CommonChange(lora, 0.0, 1.0))
    monkeypatch.setattr(common, "with_change", lambda guided, *_: guided)
    clone, _ = lora_guard("correct", limit=-1e9)
    assert torch.allclose(draw(clone), draw(demo[0]), atol=1e-4)


def test_a_profile_measured_under_the_lora_calibrates_it(watching, demo, changed, encode, draw, lora_guard, tmp_path):
    prompts = [encode(f"a {colour} ring") for colour in ("red", "blue", "green", "yellow", "white")]
    use = {"seed": 7, "steps": 5, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
    with torch.inference_mode():
        stored = watching.calibrated(changed, demo[0], None, prompts, encode(""), {"samples": EMPTY}, 1, use)
    region = stored.profile.agreement
    assert -1 <= region.centre <= 1 and region.spread > 0 and "agreement" in stored.profile.mean
    clone, record = lora_guard(stored=stored)
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


def test_a_profile_of_another_lora_does_not_calibrate_this_one(lora_guard, draw, stored):
    clone, record = lora_guard(stored=stored)
    draw(clone)
    assert "fixed limit" in " ".join(record.facts["warnings"])


def shifted(model):
    """A node between LoRA loader and guard: half of every attention's output."""
    clone = model.clone()
    clone.set_model_attn1_output_patch(lambda n, _options: 0.5 * n)
    return clone


def test_what_other_nodes_add_is_no_change_of_the_lora(lora_guard, draw, changed, demo):
    """The parent is what goes into the LoRA loader: attention patches behind that belong to both."""
    found = []
    for parent in (demo[0], shifted(demo[0])):
        model, record = lora_guard(model=shifted(changed), parent=parent)
        draw(model)
        found.append([a for a in agreements(record) if a is not None])
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_predictions_that_a_node_rewrites_are_asked_for_again(lora_guard, draw, changed):
    """A large constant on both predictions would look like a change that agrees."""
    model = changed.clone()
    model.set_model_sampler_pre_cfg_function(lambda facts: [c + 50.0 for c in facts["conds_out"]])
    clone, record = lora_guard(model=model)
    draw(clone)
    assert max(a for a in agreements(record) if a is not None) < 0.999


def test_a_parent_with_another_lora_is_refused(watching, demo, changed):
    other = attention_patched(demo[0], lambda w, g: torch.ones_like(w))
    with pytest.raises(ValueError, match="the model does not have"):
        watching.lora_between(changed, other, None, None)
    both = changed.clone()
    both.add_patches({k: (torch.ones_like(demo[0].model.state_dict()[k]),) for k in other.patches})
    assert watching.lora_between(both, changed, None, None) is not None


@pytest.mark.usefixtures("guilty")
def test_the_models_own_memories_are_corrected_without_the_parent(lora_guard, guarding, draw, demo, stored, monkeypatch):
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
    model, record = lora_guard("correct", stored=stored, sampling={})
    result = draw(model, n=2, sampler="heun")
    assert drawn == ["parent", "words"] and record.facts["restarted"] == [0, 1]
    assert set(record.facts["redrawn"]) == {"0", "1"}, "what became of both is told"
    assert float(result[0].min()) == 2 and float(result[1].max()) == 1


def test_a_run_that_the_profile_flags_early_is_still_asked_whose_memory_it_is(lora_guard, guarding, draw, stored, monkeypatch):
    """Cut short, it would be taken for the model's own, and be drawn again without its parent."""
    asked, real = [], guarding.note_agreement
    monkeypatch.setattr(guarding, "note_agreement", lambda watch, *more: asked.append(watch) or real(watch, *more))
    model, record = lora_guard("correct", stored=stored, limit=-1e30)
    draw(model, steps=8)
    assert len(asked) == 1 and record.facts["detector"] == "default + agreement"
    assert any(a is not None for row in record.facts["observed"]["agreement"] for a in row)


def test_a_second_stage_is_judged_by_the_first_ones_steps(lora_guard, advanced):
    """KSampler (Advanced) twice: only the first stage comes by the steps in which a LoRA's memories show."""
    model, record = lora_guard()
    half = advanced(model, EMPTY, 0, 5)
    first = [row for row in record.facts["observed"]["agreement"] if row[0] is not None]
    advanced(model, half, 5, STEPS, "disable")
    assert record.facts["not_judged"] == [""] and record.facts["detector"] == "agreement"
    assert first and [row for row in record.facts["observed"]["agreement"] if row[0] is not None] == first


def test_no_latent_outlives_the_run(lora_guard, guarding, draw, monkeypatch):
    seen, real = [], guarding.note_agreement
    monkeypatch.setattr(guarding, "note_agreement", lambda watch, *more: seen.append((watch, len(watch.kept))) or real(watch, *more))
    model, _ = lora_guard()
    draw(model)
    assert seen[0][1] > 0 and not seen[0][0].kept


@pytest.mark.usefixtures("guilty")
def test_a_profile_for_other_guidance_does_not_silence_the_lora(lora_guard, draw, stored):
    model, record = lora_guard(stored=stored, limit=-1e30)
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


def test_a_lora_that_nobody_watched_is_never_called_clean(lora_guard, demo, changed, guarding, stored, wide, draw):
    """By a profile alone: the verdict is of the checkpoint, and says so; beside the model before the LoRA it is of both."""
    verdict = importlib.import_module("unmemorize_pack.unmemorize.pictures.stability_chart").verdict
    for profile in (wide, stored):
        clone, record = guarding.guarded(changed, guarding.Guard(profile, limit=1e30))
        draw(clone)
        assert record.facts["unwatched"] and verdict(record.facts, 0) == "nothing found of the checkpoint"
        assert "was not watched" in " ".join(record.facts["warnings"])
    clone, record = lora_guard(stored=stored, limit=1e30)
    draw(clone)
    assert not record.facts["unwatched"] and verdict(record.facts, 0) == "nothing found"
    clone, record = guarding.guarded(demo[0], guarding.Guard(stored, limit=1e30))
    draw(clone)
    assert not record.facts["unwatched"]


def test_a_reference_for_other_steps_is_another(host, encode):
    """A profile that was measured with one tells nothing of the other."""
    watch, (embedding, facts) = host("stability.lora_watch"), encode("a red ring")[0]
    known = host("core.prompts").digest_of([[embedding, facts]])
    assert known == host("core.prompts").digest_of([[embedding, dict(facts)]])
    for more in ({"start_percent": 0.5}, {"strength": 0.2}, {"area": (4, 4, 0, 0)}):
        assert host("core.prompts").digest_of([[embedding, {**facts, **more}]]) != known
    assert watch.digest_of is host("core.prompts").digest_of
