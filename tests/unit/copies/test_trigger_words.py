"""Words of a prompt, prompts without them, and which one matters: closed forms."""

from __future__ import annotations

import math

import pytest
from unmemorize_pack.unmemorize.copies.trigger_words import (
    Significance,
    Word,
    alternatives,
    ranked,
    share,
    trigger,
    with_another,
    without,
    words_of,
)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a small red circle", ["a", "small", "red", "circle"]),
        ("(red:1.3) circle, embedding:mine, x2", ["red", "circle", "x2"]),
        ("Ann's well-known café — 4k", ["Ann's", "well-known", "café"]),
        ("<lora:mine:0.8> hat", ["hat"]),
        ("1, 2; ...", []),
        ("a photo, embedding:bad-hands-v4, cat", ["a", "photo", "cat"]),
        ("embedding:style/van_gogh.pt dog", ["dog"]),
        ("(embedding:bad-hands:1.2) hat", ["hat"]),
        ("hat <lora:foo-bar baz:0.8> cat", ["hat", "cat"]),
        ("photo: a cat", ["photo", "a", "cat"]),
        ("a cat:1.2", ["a", "cat"]),
        ("кот на столе", ["кот", "на", "столе"]),
        ("लाल बिल्ली", ["लाल", "बिल्ली"]),
        ("แมวสีแดง บนโต๊ะ", ["แมวสีแดง", "บนโต๊ะ"]),
        ("scho\u0308n cafe\u0301, \u2764\ufe0fcat", ["scho\u0308n", "cafe\u0301", "cat"]),
        ("artist:wlop, (style:watercolor:1.2)", ["artist", "wlop", "style", "watercolor"]),
    ],
)
def test_words_are_found_and_syntax_is_left_alone(prompt, words):
    assert [w.text for w in words_of(prompt)] == words
    assert all(prompt[w.start : w.end] == w.text for w in words_of(prompt))


@pytest.mark.parametrize(
    ("prompt", "at", "left"),
    [
        ("a small red circle", 1, "a red circle"),
        ("hat, cat, dog", 1, "hat, dog"),
        ("hat, cat", 0, "cat"),
        ("cat", 0, ""),
        ("a (red:1.3) hat", 1, "a hat"),
        ("a ((red:1.3)), hat", 1, "a, hat"),
        ("((red: 1.3)), hat", 0, "hat"),
        ("(red hat:1.3)", 0, "( hat:1.3)"),
        ("a \\(red\\) hat", 1, "a \\(\\) hat"),
        ("hat, , cat, dog,", 1, "hat, , dog,"),
    ],
)
def test_a_word_is_taken_out_with_what_it_leaves(prompt, at, left):
    assert without(prompt, words_of(prompt)[at]) == left


def test_another_word_stands_where_it_stood():
    prompt = "a (red:1.3) hat, red"
    assert with_another(prompt, words_of(prompt)[1], "blue") == "a (blue:1.3) hat, red"


def test_lists_give_all_others_of_a_line():
    found = alternatives("red, blue , green\n\ncat,dog\n")
    assert found["red"] == ["blue", "green"] and found["dog"] == ["cat"] and "hat" not in found


def test_the_word_with_the_largest_sure_fall_is_the_trigger():
    a, cat, hat = (Word(t, 0, 0) for t in ("a", "cat", "hat"))
    found = [Significance(a, 5.0), Significance(cat, 4.0, 0.5, "dog"), Significance(hat, 2.0)]
    assert found[1].fall == 0.5 and math.isnan(found[2].replaced) and found[2].fall == 2.0
    assert [s.word.text for s in ranked(found)] == ["hat", "cat"], "little words are no advice"
    assert trigger(found, 10.0).word is hat
    assert trigger(found, 100.0) is None, "nothing hangs on a single word"
    assert trigger([], 1.0) is None and trigger(found, 0.0) is None


def test_a_share_is_no_more_than_all_and_no_less_than_nothing():
    """Without the word a score may lie below 0."""
    cat = Word("cat", 0, 0)
    assert [share(Significance(cat, fall), 2.0) for fall in (5.7, 1.0, -3.0)] == [1.0, 0.5, 0.0]
    assert share(Significance(cat, 1.0), 0.0) == share(Significance(cat, 1.0), -1.0) == 0.0
