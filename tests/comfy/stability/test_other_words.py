"""Correction with other words early: which are taken, when, and what stays as it was."""

from __future__ import annotations

import importlib
import itertools

import pytest
import torch

PROMPT = "a small red ring on a gray background"
OTHERS = ("a small blue ring on a gray background", "a large red ring on a gray background", "a small red star on a gray background")


@pytest.fixture(scope="module")
def words(comfy):
    return importlib.import_module("unmemorize_pack.host.stability.other_words")


@pytest.fixture
def alternatives(encode):
    return [entry for text in OTHERS for entry in encode(text)]


@pytest.fixture
def heard(words, monkeypatch):
    """The calls that a correction was asked with."""
    calls, real = [], words.drawn_with_others
    monkeypatch.setattr(words, "drawn_with_others", lambda call, *more: calls.append(call) or real(call, *more))
    return calls


def test_a_flagged_picture_is_another_and_its_neighbours_keep_their_bits(guard, draw, demo, alternatives):
    plain = draw(demo[0], prompt=PROMPT, n=2)
    clone, record = guard(limit=-1e9)
    draw(clone, prompt=PROMPT, n=2)
    limit = sum(record.facts["scores"]) / 2
    clone, record = guard("correct", limit=limit, alternatives=alternatives)
    got = draw(clone, prompt=PROMPT, n=2)
    hit = record.facts["memorized"].index(True)
    assert record.facts["restarted"] == [hit] and record.facts["memorized"].count(True) == 1
    assert torch.equal(got[1 - hit], plain[1 - hit]) and not torch.allclose(got[hit], plain[hit], atol=1e-2)


def test_what_the_watched_run_was_told_is_not_asked_again(words, guard, draw, alternatives, monkeypatch):
    """For each sample of a batch its own: the same as if it were asked."""
    calls, real = [], words.drawn_with_others
    monkeypatch.setattr(words, "drawn_with_others", lambda call, how, watch: calls.append((call, watch)) or real(call, how, watch))
    clone, _ = guard("correct", limit=-1e9, alternatives=alternatives)
    draw(clone, prompt=PROMPT, n=2)
    first = dict((call.index, (call, watch)) for call, watch in calls)
    assert set(first) == {0, 1}
    for call, watch in first.values():
        conds = call.guider.original_conds
        asked = words.predict_at_start(call, [conds["negative"], conds["positive"]])
        known = words._seen_at_start(call, watch)
        assert all(torch.allclose(a, b.to(a), atol=1e-4) for a, b in zip(asked, known, strict=True))
    assert words._seen_at_start(call, None) == []


def test_what_is_asked_at_the_start_is_what_the_sampler_asks_there(guard, draw, demo, alternatives, heard, comfy):
    """D of each prompt against ComfyUI's own first call of a run under that prompt."""
    predictions = importlib.import_module("unmemorize_pack.host.core.predictions")
    clone, _ = guard("correct", limit=-1e9, alternatives=alternatives)
    draw(clone, prompt=PROMPT)
    call = heard[0]
    found = predictions.predict_at_start(call, [call.guider.original_conds["positive"], call.guider.original_conds["negative"]])
    seen = []

    def listen(facts):
        seen.append((facts["cond_denoised"].clone(), facts["uncond_denoised"].clone()))
        return facts["denoised"]

    model = demo[0].clone()
    model.set_model_sampler_post_cfg_function(listen)
    draw(model, prompt=PROMPT)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, seen[0], strict=True))


def test_those_that_call_least_up_are_taken(words, monkeypatch):
    """Predictions whose distance from the negative prompt's is known: the nearest ones first."""
    levels = {"negative": 0.0, "a": 3.0, "b": 1.0, "c": 2.0, "d": 0.5}
    monkeypatch.setattr(words, "predict_at_start", lambda _call, prompts: [torch.full((1, 4, 2, 2), levels[p[0]["name"]]) for p in prompts])
    call = type("Call", (), {"guider": type("Guider", (), {"original_conds": {"negative": [{"name": "negative"}]}})()})()
    others = [{"name": n} for n in "abcd"]
    assert [o["name"] for o in words.calling_least_up(call, others)] == list("dbca")


def test_the_words_are_changed_without_which_the_memory_is_not_asked_for(words, monkeypatch):
    """The memory comes while neither word 0 nor word 2 is another: of any other two, a variant still calls it up. A third word last."""
    memory, scene, nothing = (torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(k)) for k in range(3))
    asked = []

    def predict(_call, prompts):
        asked.append(len(prompts))
        answers = {"negative": nothing, "exact": nothing + memory}
        return [answers[w] if (w := p[0]["name"]) in answers else nothing + (scene if set(w) & {0, 2} else memory) for p in prompts]

    monkeypatch.setattr(words, "predict_at_start", predict)
    conds = {"negative": [{"name": "negative"}], "positive": [{"name": "exact"}]}
    call = type("Call", (), {"guider": type("Guider", (), {"original_conds": conds})()})()
    several = {w: {"name": w} for size in (1, 2, 3) for w in itertools.combinations(range(4), size)}
    assert words.asking_for_something_else(call, several, 1) == (0, 2) and asked == [6, 2]
    asked.clear()
    assert set(words.asking_for_something_else(call, several, 2)) > {0, 2} and asked == [6, 2, 5]
    assert words.asking_for_something_else(call, {(0,): {"name": (0,)}}, 1) == ()
    del several[0, 2]
    assert words.asking_for_something_else(call, several, 1) != (0, 2), "a variant that is missing is not put together"


def _asked(guard, draw, alternatives, heard):
    """The call of a run that is flagged."""
    clone, _ = guard("correct", limit=-1e9, alternatives=alternatives)
    draw(clone, prompt=PROMPT)
    return heard[0]


def test_a_picture_that_stays_is_drawn_by_other_words_for_longer(words, guard, draw, alternatives, monkeypatch):
    """The first way is planted to bring the flagged picture back."""
    seen, real = [], words.drawn_with_others

    def drawn(call, how, *_):
        seen.append((how.mixed_until, how.changed))
        return real(call, words.OtherWords(alternatives, mixed_until=0.0 if len(seen) == 1 else how.mixed_until))

    monkeypatch.setattr(words, "drawn_with_others", drawn)
    clone, record = guard("correct", limit=-1e9, alternatives=alternatives)
    draw(clone, prompt=PROMPT, sampler="heun")
    assert seen == [(0.3, 1), (0.8, 2)] and record.facts["redrawn"]["0"]["tries"] == 2


def test_the_exact_words_draw_the_end(words, guard, draw, alternatives, heard):
    """Until 0 nothing changes; until 1 the end is drawn by other words too."""
    results = {}
    for until in (0.0, 0.6, 1.0):
        call = heard[0] if heard else _asked(guard, draw, alternatives, heard)
        results[until] = words.drawn_with_others(call, words.OtherWords(alternatives, mixed_until=until))
    plain, _ = guard()
    assert torch.allclose(results[0.0], draw(plain, prompt=PROMPT), atol=1e-5)
    assert not torch.allclose(results[0.6], results[1.0], atol=1e-3)


def test_what_hangs_on_the_prompt_goes_with_the_other_words(words, draw, guard, encode, alternatives, monkeypatch):
    """A ControlNet, a strength: they stand in the run's prompt, and alternatives know nothing of them."""
    seen = []
    monkeypatch.setattr(words, "calling_least_up", lambda _call, others: seen.extend(others) or others)
    clone, _ = guard("correct", limit=-1e9, alternatives=alternatives)
    positive = [[embedding, {**facts, "strength": 0.5}] for embedding, facts in encode(PROMPT)]
    draw(clone, prompt=positive)
    assert len(seen) in (len(OTHERS), 2 * len(OTHERS)) and all(other["strength"] == 0.5 for other in seen)
    assert not torch.equal(seen[0]["cross_attn"], seen[1]["cross_attn"])


def test_a_prompt_in_parts_is_left_alone_and_says_so(guard, draw, encode, alternatives):
    clone, record = guard("correct", limit=-1e9, alternatives=alternatives)
    draw(clone, prompt=[*encode(PROMPT), *encode("a blue star")])
    assert record.facts["restarted"] == [] and any("several parts" in warning for warning in record.facts["warnings"])


@pytest.fixture
def marked(nodes, demo):
    """What Alternative Prompts gives: which words each variant changes is known."""
    return nodes["UnmemorizeAlternativePrompts"].execute(demo[1], PROMPT, "red, blue\nring, star\nsmall, large").args[1]


@pytest.mark.parametrize(
    "limit", [{"end_percent": 0.5}, {"start_percent": 0.1}, {"area": (8, 4, 0, 0)}, {"mask": torch.ones(1, 8, 8)}, None]
)
def test_alternatives_that_are_no_whole_prompts_are_refused_before_work(host, demo, stored, alternatives, limit):
    """Where none is active ComfyUI predicts nothing: the picture would come out broken, and be called corrected."""
    methods = host("stability.methods")
    whole = {"start_percent": 0.0, "end_percent": 1.0}
    several = [] if limit is None else [alternatives[0], [alternatives[1][0], alternatives[1][1] | whole | limit]]
    with pytest.raises(ValueError, match="no prompt" if limit is None else "whole prompt.s place"):
        methods.check(methods.Guard(stored, "correct", alternatives=several), demo[0])
    methods.check(methods.Guard(stored, "correct", alternatives=[[e, facts | whole] for e, facts in alternatives]), demo[0])
    methods.check(methods.Guard(stored, "detect", alternatives=several), demo[0])


def test_variants_of_known_words_are_put_together(words, guard, draw, encode, marked, heard, monkeypatch):
    """D = D(blue) + D(star) - D(blue star) while the layout forms, ComfyUI's own mean of three prompts: as by hand, step by step."""
    monkeypatch.setattr(words, "asking_for_something_else", lambda *_: (1, 2))  # red, ring
    call = _asked(guard, draw, marked, heard)
    texts = {(1,): PROMPT.replace("red", "blue"), (2,): PROMPT.replace("ring", "star")}
    texts[1, 2] = texts[1,].replace("ring", "star")
    seen = []

    def listen(facts):
        seen.append((facts["input"].clone(), facts["sigma"].clone(), facts["cond_denoised"].clone()))
        return facts["denoised"]

    call.guider.model_options = {**call.guider.model_options, "sampler_post_cfg_function": [listen], "disable_cfg1_optimization": True}
    words.drawn_with_others(call, words.OtherWords(marked, until=0.5))
    predictions = importlib.import_module("unmemorize_pack.host.core.predictions")
    points = [predictions.Point(x, float(sigma[0])) for x, sigma, _ in seen]

    def of(text):
        found = []
        convert = importlib.import_module("comfy.sampler_helpers").convert_cond
        predictions.predict_along(
            call.guider.model_patcher, convert(encode(text)), convert(encode("")), call, points, lambda _k, d: found.append(d[0])
        )
        return torch.cat(found)

    together, exact = of(texts[1,]) + of(texts[2,]) - of(texts[1, 2]), of(PROMPT)
    asked = torch.cat([d for *_, d in seen])
    half = len(seen) // 2
    assert torch.allclose(asked[:half], together[:half], atol=1e-3) and torch.allclose(asked[half:], exact[half:], atol=1e-3)
    assert not torch.allclose(together[:half], exact[:half], atol=1e-2)


def test_variants_of_two_prompts_are_no_set_and_are_mixed(words, guard, draw, marked, heard, monkeypatch):
    """Combined by a stock node: whose words are whose is not known any more."""
    mixed, real = [], words.others_early
    monkeypatch.setattr(words, "others_early", lambda several, until: mixed.append(len(several)) or real(several, until))
    call = _asked(guard, draw, [*marked, *marked], heard)
    words.drawn_with_others(call, words.OtherWords(marked))
    assert mixed and not words.drawn_with_others(call, words.OtherWords(marked)).isnan().any()
    before = len(mixed)
    words.drawn_with_others(call, words.OtherWords(marked[:3]))
    assert len(mixed) == before + 1, "variants that are missing"


def test_the_node_gives_a_prompt_and_its_variants(nodes, demo, encode):
    positive, others, text = nodes["UnmemorizeAlternativePrompts"].execute(demo[1], PROMPT, "red, blue, green\nring, star").args
    lines = text.splitlines()
    blue = PROMPT.replace("red", "blue")
    assert lines == [blue, PROMPT.replace("ring", "star"), blue.replace("ring", "star")] and len(others) == 3
    assert torch.equal(positive[0][0], encode(PROMPT)[0][0]) and torch.equal(others[1][0], encode(lines[1])[0][0])
    assert len(nodes["UnmemorizeAlternativePrompts"].execute(demo[1], PROMPT, "").args[2].splitlines()) > 4
    with pytest.raises(ValueError, match="No word of the prompt"):
        nodes["UnmemorizeAlternativePrompts"].execute(demo[1], "the of", "")
