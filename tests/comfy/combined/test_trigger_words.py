"""Trigger Words against the real ComfyUI: what is measured, what it costs, neighbours, refusals."""

from __future__ import annotations

import importlib
import json

import pytest
import torch

USE = {"seed": 1, "steps": 8, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
EMPTY = {"samples": torch.zeros(1, 8, 8, 8)}
PROMPT = "a large red circle"


@pytest.fixture(scope="module")
def tool(comfy):
    return importlib.import_module("unmemorize_pack.host.combined.trigger_words")


@pytest.fixture
def ask(tool, demo, encode):
    def run(prompt=PROMPT, **changes):
        facts = {"model": demo[0], "clip": demo[1], "negative": encode(""), "latent": EMPTY, "use": USE, "seeds": 1}
        question = tool.Question(**(facts | {"prompt": prompt} | changes))
        return tool.words_that_trigger(question), question

    return run


def test_at_cfg_1_the_negative_prompt_is_asked_all_the_same(ask, demo, stored):
    """As Flux generates: the run is the prompt's alone, the signal what it asks for beyond the negative prompt."""
    one, _ = ask(use=USE | {"cfg": 1.0})
    two, _ = ask(use=USE | {"cfg": 1.0 + 1e-4})
    assert one.kind == "guidance norm" and one.signal == pytest.approx(two.signal, rel=1e-2) and one.signal > 0
    assert "disable_cfg1_optimization" not in demo[0].model_options


def test_a_fall_is_the_difference_of_two_runs(ask, demo, encode, sample):
    """The signal is the mean norm of D_c - D_u over the first steps, recomputed here by a plain hook."""

    def norm(prompt):
        seen, clone = [], demo[0].clone()

        def hear(facts):
            difference = (facts["cond_denoised"] - facts["uncond_denoised"])[0]
            seen.append(float(difference.square().mean().sqrt()))
            return facts["denoised"]

        clone.set_model_sampler_post_cfg_function(hear)
        import comfy.sample

        latent = EMPTY["samples"]
        with torch.inference_mode():
            comfy.sample.sample(
                clone, comfy.sample.prepare_noise(latent, 1), 8, 2.0, "euler", "normal", encode(prompt), encode(""), latent, seed=1,
                disable_pbar=True,
            )  # fmt: skip
        return seen

    answer, _question = ask(word_list="red, blue")
    steps = answer.evaluations // (
        2 * len({PROMPT, "large red circle", "a red circle", "a large circle", "a large red", *_replaced(answer)})
    )
    whole = sum(norm(PROMPT)[:steps]) / steps
    assert answer.kind == "guidance norm" and answer.signal == pytest.approx(whole, rel=1e-4)
    red = next(s for s in answer.words if s.word.text == "red")
    assert red.dropped == pytest.approx(whole - sum(norm("a large circle")[:steps]) / steps, abs=1e-4)
    assert red.by == "blue" and red.replaced == pytest.approx(whole - sum(norm("a large blue circle")[:steps]) / steps, abs=1e-4)


def _replaced(answer):
    return {PROMPT[: s.word.start] + s.by + PROMPT[s.word.end :] for s in answer.words if s.by}


def test_neighbours_are_other_whole_words(demo):
    neighbours = importlib.import_module("unmemorize_pack.host.combined.neighbours")
    vocabulary = neighbours.vocabulary_of(demo[1])
    assert {"red", "circle", "navy"} <= set(vocabulary.words)
    assert vocabulary.nearest("red") in set(vocabulary.words) - {"red"} and vocabulary.nearest("nobody") == ""


@pytest.mark.parametrize(
    ("module", "tokenizer", "encoder", "form"),
    [("sd1_clip", "SD1Tokenizer", "clip_l", "{}</w>"), ("text_encoders.qwen_image", "QwenImageTokenizer", "qwen25_7b", "\u0120{}")],
)
def test_clip_l_and_qwen_are_read(comfy, module, tokenizer, encoder, form):
    """The core's own classes, their embeddings random: whole words only, and the neighbour by the embedding."""
    neighbours = importlib.import_module("unmemorize_pack.host.combined.neighbours")
    known = getattr(importlib.import_module(f"comfy.{module}"), tokenizer)()
    ids = {w: i for i, w in getattr(known, encoder).inv_vocab.items()}
    table = torch.zeros(max(ids.values()) + 1, 4)
    for k, word in enumerate(("cat", "kitten", "cats", "house")):
        table[ids[form.format(word)]] = torch.tensor([1.0, 0.1 * k, 0.0, 0.0])
    holder = type("M", (), {"get_input_embeddings": lambda self: type("E", (), {"weight": table})()})()
    model = type("C", (), {encoder: type("L", (), {"transformer": holder})()})()
    vocabulary = neighbours.vocabulary_of(type("Clip", (), {"tokenizer": known, "cond_stage_model": model})())
    assert vocabulary is not None and vocabulary.nearest("cat") == "kitten", "not cats, which is the same word"
    assert "cat" in vocabulary.words and all(word.isalpha() and word.islower() for word in vocabulary.words)


def test_a_profile_makes_the_guards_score_the_signal(ask, stored):
    answer, _ = ask(profile=stored)
    assert answer.kind == "guard score"


def test_the_node_shows_word_share_and_changed_prompt(nodes, demo, encode):
    result = nodes["UnmemorizeTriggerWords"].execute(
        model=demo[0], clip=demo[1], negative=encode(""), latent=EMPTY, prompt=PROMPT, seeds=1, word_list="red, blue\ncircle, star", **USE
    )
    word, share, changed, text = result.args
    facts, (view,) = json.loads(text), result.ui["unmemorize_words"]
    assert facts["trigger"] == word and (changed != PROMPT) == bool(word) and share >= 0
    assert "".join(piece["text"] for piece in view["pieces"]) == PROMPT and view["verdict"] == facts["verdict"]
    assert [row["word"] for row in facts["words"]] == PROMPT.split()


def test_bad_input_is_refused_before_any_work(ask, tool, stored, monkeypatch):
    monkeypatch.setattr(tool, "_signals", lambda *_: pytest.fail("work began"))
    for prompt, changes, words in (
        ("", {}, "no word"),
        ("red " * 100, {}, "100 words"),
        (PROMPT, {"use": USE | {"cfg": 7.0}, "profile": stored}, "CFG is 7"),
        (PROMPT, {"seeds": 0}, "seeds"),
    ):
        with pytest.raises(ValueError, match=words):
            ask(prompt, **changes)


def test_a_broken_run_says_nothing_of_its_words(ask, demo):
    broken = demo[0].clone()
    key = "diffusion_model.out.2.weight"
    broken.add_patches({key: (torch.full_like(demo[0].model.state_dict()[key], torch.nan),)})
    with pytest.raises(ValueError, match="no number"):
        ask(model=broken)


def test_a_profile_of_other_steps_gives_no_score(ask, stored):
    """The guard refuses it too."""
    with pytest.raises(ValueError, match="another number of steps.*guidance norm needs none"):
        ask(profile=stored, use=USE | {"steps": 100})


@pytest.fixture
def scored(tool):
    """scored([..], {word: ..}) -> the answer where the guard scores the prompt's runs, and those without a word, so."""

    def run(whole, falls):
        a, red, ring = tool.words_of("a red ring")
        found = [tool.Significance(w, sum(whole) / len(whole) - falls[w.text]) for w in (a, red, ring)]
        return tool.Answer(sum(whole) / len(whole), found, tool.SCORE, 0, max(whole))

    return run


def test_a_prompt_in_which_the_guard_finds_nothing_has_no_word_to_change(tool, ask, scored):
    """A score around 0 is chance, and so are words whose lack lowers it by more than all of it."""
    _, question = ask()
    answer = scored([0.6, 0.9], {"a": 0.5, "red": -1.2, "ring": 0.4})
    facts, view = tool.report(answer, question), tool.shown(answer, tool.Question(**{**vars(question), "prompt": "a red ring"}))
    assert tool.suggestion(answer, "a red ring") == ("", 0.0, "a red ring")
    assert "finds no memory in this prompt (score 0.9, memorized from 3)" in facts["verdict"]
    assert view["verdict"] == facts["verdict"]
    assert facts["trigger"] == "" and facts["worth_changing"] == [] and {p["share"] for p in view["pieces"]} <= {0.0, None}


def test_a_share_of_the_score_is_at_most_all_of_it(tool, scored):
    """One of the seeds is a memory, and without the word the score lies below 0."""
    answer = scored([2.0, 9.0], {"a": 5.0, "red": -6.0, "ring": 5.4})
    word, share, changed = tool.suggestion(answer, "a red ring")
    assert (word, share, changed) == ("red", 1.0, "a ring") and "100% of the signal hangs on 'red'" in tool.in_words(answer)


def test_a_clean_prompt_under_the_guard_of_its_model(tool, ask, encode):
    """The bundled profile, measured as a graph would use it."""
    profiles = importlib.import_module("unmemorize_pack.host.stability.profiles")
    use, size = USE | {"steps": 20, "cfg": 3.0}, {"samples": torch.zeros(1, 8, 16, 16)}
    answer, question = ask("a purple ring", use=use, latent=size, profile=profiles.load_profile("demo/demo"))
    assert answer.highest < 3 and tool.suggestion(answer, question.prompt)[:2] == ("", 0.0)
