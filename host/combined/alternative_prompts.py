"""A prompt and its variants, encoded."""

from __future__ import annotations

from typing import Any

from ...unmemorize.copies.loosened import loosened
from ..core.prompts import encoded
from ..stability.other_words import CHANGED
from .neighbours import vocabulary_of


def with_alternatives(clip: Any, text: str, word_list: str) -> tuple[Any, Any, str]:
    """CONDITIONING of the prompt, of its variants (a list of them, each with the words that it changes), and the variants, one a line.

    ValueError if there is no word that could be another.
    """
    vocabulary = vocabulary_of(clip)
    if vocabulary is None and not word_list.strip():
        raise ValueError(
            "This text encoder's words cannot be read, so that none is known that could stand for another. Write a word list: words that "
            "may stand for each other, one group a line."
        )
    variants = loosened(text, word_list, vocabulary.near if vocabulary is not None else lambda _word, _count: [])
    if not variants:
        raise ValueError(
            "No word of the prompt could be another: none stands in the word list, or the text encoder knows none of them. Write other "
            "groups of words, or another prompt."
        )
    positive, *others = encoded(clip, [text, *(v.text for v in variants)])
    marked = [
        [tensor, {**facts, CHANGED: variant.changed}]
        for variant, conditioning in zip(variants, others, strict=True)
        for tensor, facts in conditioning
    ]
    return positive, marked, "\n".join(v.text for v in variants)
