"""Variants of a prompt in which some words are others."""

from __future__ import annotations

import itertools

from unmemorize_pack.unmemorize.copies.loosened import WORDS, Variant, loosened

NEAR = {"cat": ["dog", "fox", "cow"], "red": ["pink"], "sits": [], "the": ["a"], "of": ["on"]}


def near(word, count):
    return NEAR.get(word.lower(), [])[:count]


def test_each_word_alone_and_each_two_together_and_little_ones_never():
    """The nearest other of each; emphasis and what the encoder does not know stay."""
    assert loosened("the (red:1.2) cat sits", "", near) == [
        Variant("the (pink:1.2) cat sits", (0,)), Variant("the (red:1.2) dog sits", (1,)), Variant("the (pink:1.2) dog sits", (0, 1)),
    ]  # fmt: skip


def test_a_word_list_changes_its_own_words_alone():
    found = loosened("the red cat sits", "cat, mouse, dog\nthe, a", near)
    assert [v.text for v in found] == ["a red cat sits", "the red mouse sits", "a red mouse sits"]
    assert loosened("the red cat sits", "horse, mule", near) == []


def test_a_word_that_stands_alone_has_several_others():
    assert [v.text for v in loosened("the cat sits", "", near)] == ["the dog sits", "the fox sits", "the cow sits"]


def test_no_word_no_variant():
    assert loosened("the of", "", near) == [] and loosened("", "", near) == []


def test_long_prompts_give_a_bounded_number_spread_over_all_words():
    words = [f"w{chr(97 + i % 26)}{chr(97 + i // 26)}x" for i in range(50)]
    found = loosened(" ".join(words), "", lambda word, count: [f"{word}other"][:count])
    changed = [tuple(i for i, w in enumerate(v.text.split()) if w.endswith("other")) for v in found]
    places = [i for (i,) in changed[:WORDS]]
    assert places == sorted(set(places)) and places[0] == 0 and places[-1] >= 40
    assert changed == [tuple(places[i] for i in v.changed) for v in found], "three together at most, each set once"
    assert len(found) == sum(1 for size in (1, 2, 3) for _ in itertools.combinations(range(WORDS), size))
