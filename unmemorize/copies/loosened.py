"""Prompts that say nearly the same: each with another word in the place of one (for corrections without a parent, METHODS.md 6b.3)."""

from __future__ import annotations

from collections.abc import Callable

from .trigger_words import Word, alternatives, with_another, words_of

NEIGHBOURS = 2
"""Other words that are tried in a word's place."""
MOST = 16
"""Prompts, each of which costs an evaluation of the model."""


def loosened(text: str, word_list: str, near: Callable[[str, int], list[str]]) -> list[str]:
    """Variants of a prompt, the words changed in turn; `near(word, count)` gives the nearest others of a word.

    With a word list, only words that stand in it are changed, to others of their line. No variant: there is no word that could be.
    """
    listed = alternatives(word_list)
    words = [w for w in words_of(text) if (w.text.lower() in listed if listed else not w.little)]
    others = {w: listed[w.text.lower()][:MOST] if listed else near(w.text, NEIGHBOURS) for w in words}
    found = list(dict.fromkeys(with_another(text, w, other) for w, other in _in_turn(others)))
    return [found[i * len(found) // MOST] for i in range(MOST)] if len(found) > MOST else found


def _in_turn(others: dict[Word, list[str]]) -> list[tuple[Word, str]]:
    """The first other of every word, then the second ..."""
    depth = max((len(several) for several in others.values()), default=0)
    return [(w, several[k]) for k in range(depth) for w, several in others.items() if k < len(several)]
