"""Prompts that say nearly the same: with other words in the place of one, two or three (ours)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .trigger_words import Word, alternatives, with_another, words_of

WORDS = 6
"""Words that are changed, spread over the prompt; how many others of it are tried, if there is one such word."""
TOGETHER = 3
"""Most words that are changed in one variant."""


@dataclass(frozen=True)
class Variant:
    """A prompt in which some words are others."""

    text: str
    changed: tuple[int, ...]
    """Places of these words among all that are changed in one variant or another."""


def loosened(text: str, word_list: str, near: Callable[[str, int], list[str]]) -> list[Variant]:
    """Variants of a prompt, each word alone first, then each two, each three; `near(word, count)` gives the nearest others of a word.

    With a word list, only words that stand in it are changed, to others of their line. No variant: there is no word that could be.
    """
    listed = alternatives(word_list)
    words = [w for w in words_of(text) if (w.text.lower() in listed if listed else not w.little)]
    others = {w: listed[w.text.lower()][:WORDS] if listed else near(w.text, WORDS) for w in words}
    known = [w for w in words if others[w]]
    known = [known[i * len(known) // WORDS] for i in range(WORDS)] if len(known) > WORDS else known
    if len(known) == 1:
        return [Variant(with_another(text, known[0], other), (0,)) for other in others[known[0]]]
    sets = (s for size in range(1, TOGETHER + 1) for s in itertools.combinations(range(len(known)), size))
    return [Variant(_changed(text, [(known[i], others[known[i]][0]) for i in s]), s) for s in sets]


def _changed(text: str, changes: Sequence[tuple[Word, str]]) -> str:
    """From the last word to the first, so that places stay."""
    for word, other in reversed(changes):
        text = with_another(text, word, other)
    return text
