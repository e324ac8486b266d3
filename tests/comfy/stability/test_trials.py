"""What looks like a LoRA's memory is drawn on trial without the LoRA's answer before anything is said of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from unmemorize_pack.unmemorize.pictures import stability_chart as chart
from unmemorize_pack.unmemorize.stability.agreement import AgreementRegion
from unmemorize_pack.unmemorize.stability.redrawn import UNMOVED, structure


@pytest.fixture
def keeps(monkeypatch):
    """keeps(agreement): the trial keeps the LoRA's answer from there on; below -1 at every step, above 1 at none."""
    return lambda value: monkeypatch.setattr(AgreementRegion, "keeps", property(lambda _: value))


@pytest.mark.parametrize("mode", ["detect", "correct"])
@pytest.mark.parametrize("reference", [False, True])
def test_where_the_prompt_asks_for_the_same_it_was_no_memory(lora_guard, draw, changed, encode, keeps, reference, mode):
    """No step's agreement is below -1: the trial is the LoRA's own run, to rounding; the picture keeps its bits."""
    keeps(-1.1)
    clone, record = lora_guard(mode, limit=-1e9, reference=encode("a ring") if reference else None)
    assert torch.equal(draw(clone, n=2), draw(changed, n=2))
    found = record.facts
    assert found["memorized"] == [False, False] and found["restarted"] == [] and found["redrawn"] == {}
    assert list(found["acquitted"]) == ["0", "1"] and min(found["acquitted"].values()) > 0.99
    assert "hardly changed" in " ".join(found["warnings"])
    assert "nothing found" in chart.verdict(found, 0) and "hardly changed" in chart.verdict(found, 0)


def test_where_it_asks_for_something_else_the_trial_leaves_the_leak_out(lora_guard, draw, monkeypatch, common, trial, host, keeps):
    """Every step's agreement is below 1.1: the trial is drawn as without any of the LoRA's answers."""
    keeps(1.1)
    monkeypatch.setattr(host("stability.methods"), "CommonChange", lambda lora: common.CommonChange(lora, 0.0, 1.0))
    monkeypatch.setattr(trial, "UNTIL", 1.0)
    tried = []
    monkeypatch.setattr(trial, "likeness", lambda _first, again, _region: tried.append(again) or torch.zeros(1))
    clone, record = lora_guard("correct", limit=-1e9)
    got = draw(clone)
    assert record.facts["memorized"] == [True] and record.facts["acquitted"] == {}
    assert torch.allclose(tried[0], got, atol=1e-4)


@pytest.mark.parametrize(("apart", "none"), [(0.5, True), (1.0, False), (2.0, False), (float("nan"), False)])
@pytest.mark.parametrize("mode", ["detect", "correct"])
def test_what_a_trial_hardly_changes_was_no_memory(lora_guard, draw, changed, monkeypatch, trial, apart, none, mode):
    """On trial the second of a batch comes with so much of another picture's structure: likeness .89, .71, .45; the first as it was."""
    plain, count = draw(changed, n=2), iter(range(9))
    other = torch.randn(plain[1:].shape, generator=torch.Generator().manual_seed(3))
    other *= structure(plain[1:]).norm() / structure(other).norm()

    def drawn(*_):
        i = next(count)
        return plain[i : i + 1] + i * apart * other if i else plain[:1]

    monkeypatch.setattr(trial, "drawn_without_leak", drawn)
    clone, record = lora_guard(mode, limit=-1e9)
    got = draw(clone, n=2)
    assert record.facts["memorized"] == [False, not none] and list(record.facts["acquitted"]) == (["0", "1"] if none else ["0"])
    assert torch.equal(got[0], plain[0]) and torch.equal(got[1], plain[1]) == (none or mode == "detect")
    assert record.facts["restarted"] == ([] if none or mode == "detect" else [1])


def test_under_a_mask_no_trial_acquits(lora_guard, draw, monkeypatch, host):
    """What is kept would make whatever is drawn look like the first."""
    monkeypatch.setattr(host("stability.guard"), "acquitted", lambda *_: pytest.fail("tried"))
    mask = torch.ones(1, 1, 16, 16)
    mask[..., :4] = 0
    clone, record = lora_guard("detect", limit=-1e9)
    draw(clone, noise_mask=mask)
    assert record.facts["memorized"] == [True] and record.facts["acquitted"] == {}


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2s_ancestral", "lcm", "uni_pc"])
def test_a_trial_is_compared_with_the_same_noise(lora_guard, draw, changed, keeps, sampler):
    """Alone, a sample of a batch meets other noise at its steps, and UniPC writes into its sigmas: with nothing left out it is the LoRA's
    own picture all the same, and no second run is asked for what was alike in spite of its noise."""
    keeps(-1.1)
    clone, record = lora_guard("detect", limit=-1e9)
    assert torch.equal(draw(clone, n=2, sampler=sampler), draw(changed, n=2, sampler=sampler))
    alike = record.facts["acquitted"]
    assert list(alike) == ["0", "1"] and min(alike.values()) >= UNMOVED and max(alike.values()) > 0.99


@pytest.mark.parametrize("where", [slice(0, 8), slice(2, 6)])
def test_the_trial_asks_where_the_prompt_is(lora_guard, draw, encode, monkeypatch, where, common):
    """A prompt of a part of the picture: agreement counts there alone, in the trial as in the run."""
    seen, real = [], common.agreement
    monkeypatch.setattr(common, "agreement", lambda *given: seen.append(given[4]) or real(*given))
    mask = torch.zeros(1, 8, 8)
    mask[:, :, where] = 1
    clone, _ = lora_guard("detect", limit=-1e9)
    draw(clone, prompt=[[c, {**facts, "mask": mask, "mask_strength": 1.0}] for c, facts in encode("a red ring")])
    inside = [None if region is None else float(region.float().mean()) for region in seen]
    assert inside and all((1.0 if share is None else share) == pytest.approx(float(mask.mean())) for share in inside)


def test_each_sample_is_tried_where_it_counts(trial, monkeypatch):
    """A region of two rows: the second sample hardly changes there, and is another picture elsewhere."""
    first, other = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    region = torch.zeros(2, 1, 8, 8)
    region[0, ..., :4], region[1, ..., 4:] = 1, 1
    asked = []
    monkeypatch.setattr(trial, "CommonChange", lambda _: SimpleNamespace(obstacle=lambda *_: ""))
    monkeypatch.setattr(trial, "call_of_one", lambda call, i, _n: SimpleNamespace(i=i))
    monkeypatch.setattr(trial, "replace", lambda alone, **_: alone)
    monkeypatch.setattr(trial, "draws_noise", lambda _: False)

    def drawn(alone, _lora, _bare, _until, _keeps, inside):
        asked.append(inside)
        return torch.where(region[1:] > 0, first, other)[alone.i : alone.i + 1]

    monkeypatch.setattr(trial, "drawn_without_leak", drawn)
    call = SimpleNamespace(guider=None, sigmas=torch.linspace(1, 0, 5), noise=first, sampler=None)
    lora = SimpleNamespace(region=SimpleNamespace(keeps=0.2))
    found, trouble = trial.acquitted(call, lora, torch.tensor([True, True]), first, region)
    assert list(found) == [1] and found[1] == pytest.approx(1.0) and trouble == ""
    assert all(torch.equal(inside, region[i : i + 1]) for i, inside in enumerate(asked))


@pytest.mark.parametrize("mode", ["detect", "correct"])
def test_nobody_hears_of_a_trial(lora_guard, draw, keeps, mode):
    """What a sampler's callback heard last is the run's own x0: previews, denoised_output and the bar are of pictures that come out."""
    keeps(-1.1)
    heard, clones = [], [lora_guard("off")[0], lora_guard(mode, limit=-1e9)[0]]
    for clone in clones:
        heard.append([])
        draw(clone, n=2, callback=lambda step, x0, _x, _total: heard[-1].append((step, x0.clone())))
    assert [step for step, _ in heard[0]] == [step for step, _ in heard[1]]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(*heard, strict=True))


def test_the_browser_hears_that_a_picture_is_tried(lora_guard, draw, host, monkeypatch):
    """And which; nothing where none is suspected."""
    sent = []
    monkeypatch.setattr(host("stability.live_view").Live, "send", lambda _self, kind, data, *_: sent.append((kind, data.get("samples"))))
    for limit in (-1e9, 1e9):
        sent.append(limit)
        draw(lora_guard("detect", limit=limit)[0], n=2)
    assert [one for one in sent if one == ("trial", [0, 1])] == [("trial", [0, 1])] and sent.index(("trial", [0, 1])) < sent.index(1e9)


def test_what_cannot_be_tried_is_judged_by_the_limit(lora_guard, draw, monkeypatch, trial):
    """A prompt that cannot be cut to one sample ends no run in mode detect."""

    def refuse(*_):
        raise ValueError("One picture of this batch cannot be sampled again alone.")

    monkeypatch.setattr(trial, "call_of_one", refuse)
    clone, record = lora_guard("detect", limit=-1e9)
    draw(clone, n=2)
    assert record.facts["memorized"] == [True, True] and record.facts["acquitted"] == {}
    assert "could not be tried" in " ".join(record.facts["warnings"])


def test_the_score_of_an_acquitted_picture_is_its_trials(host, monkeypatch):
    """By the likeness that was left: at the edge the limit, at 1 nothing; never above what is called memorized."""
    verdicts = host("stability.verdicts")
    monkeypatch.setattr(verdicts, "_seen_in_part", lambda _: "")
    watch = SimpleNamespace(
        samples=3, observed=lambda: {"agreement": torch.tensor([[0.0, 0.0, 0.0]])}, empty=lambda: [False] * 3, broken=lambda: [False] * 3
    )
    found = verdicts.judged_by_agreement(watch, AgreementRegion(0.4, 0.05), verdicts.LIMIT, acquitted={0: 1.0, 1: 0.8})
    assert found.score[0] == 0 and found.score[1] == pytest.approx(verdicts.LIMIT) and found.score[2] > verdicts.LIMIT
    assert found.flagged.tolist() == [False, False, True] == found.by_lora.tolist()


def test_a_memory_of_the_models_own_is_not_acquitted_with_the_loras(lora_guard, draw, changed, keeps, stored):
    """Flagged by both detectors, acquitted of the LoRA's: still memorized, and drawn again without it."""
    keeps(-1.1)
    clone, record = lora_guard("correct", limit=-1e9, stored=stored)
    assert not torch.equal(draw(clone), draw(changed))
    assert record.facts["memorized"] == [True] and list(record.facts["acquitted"]) == ["0"] and record.facts["restarted"] == [0]
    assert "stays as it was" not in " ".join(record.facts["warnings"])
    assert chart.verdict(record.facts, 0).startswith("memorized, sampled again")
    clone, record = lora_guard("detect", limit=-1e9, stored=stored)
    draw(clone)
    assert list(record.facts["acquitted"]) == ["0"] and chart.verdict(record.facts, 0) == "memorized" and chart.final(record.facts, 0) == ""


def test_what_was_not_tried_is_said(lora_guard, changed, draw):
    """Attention patches hold the picture, so that the limit alone decides: the report says so."""
    patched = changed.clone()
    patched.set_model_attn2_output_patch(lambda n, _: n)
    model, record = lora_guard(model=patched, limit=-1e30)
    draw(model)
    assert record.facts["memorized"] == [True] and record.facts["acquitted"] == {}
    assert any("could not be tried" in text and "attn2_output_patch" in text for text in record.facts["warnings"])
