"""Variants of a prompt in which one word is another."""

from __future__ import annotations

from unmemorize_pack.unmemorize.copies.loosened import MOST, loosened

NEAR = {"cat": ["dog", "fox", "cow"], "red": ["pink"], "sits": [], "the": ["a"], "of": ["on"]}


def near(word, count):
    return NEAR.get(word.lower(), [])[:count]


def test_every_word_in_turn_and_little_ones_never():
    """The nearest of each first, then the second; emphasis and what the encoder does not know stay."""
    assert loosened("the (red:1.2) cat sits", "", near) == ["the (pink:1.2) cat sits", "the (red:1.2) dog sits", "the (red:1.2) fox sits"]


def test_a_word_list_changes_its_own_words_alone():
    found = loosened("the red cat sits", "cat, dog\nthe, a", near)
    assert found == ["a red cat sits", "the red dog sits"] or set(found) == {"a red cat sits", "the red dog sits"}
    assert loosened("the red cat sits", "horse, mule", near) == []


def test_no_word_no_variant():
    assert loosened("the of", "", near) == [] and loosened("", "", near) == []


def test_long_prompts_give_a_bounded_number_spread_over_all_words():
    words = [f"w{chr(97 + i % 26)}{chr(97 + i // 26)}x" for i in range(50)]
    found = loosened(" ".join(words), "", lambda word, count: [f"{word}other"][:count])
    assert len(found) == MOST == len(set(found))
    changed = [next(i for i, w in enumerate(text.split()) if w.endswith("other")) for text in found]
    assert changed == sorted(changed) and changed[0] == 0 and changed[-1] >= 45
