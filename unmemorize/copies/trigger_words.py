"""Which words call a memory up? The memorization signal of the prompt, minus that without a word, or with another in its place.

WEN's token significance (arXiv 2407.21720) asks the gradient of the same signal; here the words are really taken away, one at a time.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass

WORD = re.compile(r"(?<!\w)[^\W\d_][\w'’-]*")
"""Letters, and what may stand within a word: no weight, which begins with a digit."""
JOINERS = "\u200c\u200d"
"""Zero-width ones, which stand within words of Persian and Hindi."""
NAMES = re.compile(r"embedding:[^\s,)]+|<[^>]*>")
"""Of files, embeddings and LoRAs: none of the prompt's words, whatever they are made of."""
OPENED, CLOSED = re.compile(r"(?<!\\)\(\s*$"), re.compile(r"\s*(:\s*[-+.\d]*\s*)?\)")
"""Emphasis up to a word, and behind it."""
LITTLE = frozenset(
    re.findall(
        r"\w+",
        "a an the of on in at by to from with without and or but as is are was were be being been it its this that these those his her "
        "their my your our into onto over under up down out off for than then so very",
    )
)
"""English words that stand in every prompt: taking them away is measured too, but changing them is never suggested."""
LEAST_FALL = 0.1
"""Of the prompt's signal: a word that carries less calls nothing up."""


@dataclass(frozen=True)
class Word:
    """A word of a prompt, and where it stands."""

    text: str
    start: int
    end: int

    @property
    def little(self) -> bool:
        return self.text.lower() in LITTLE


@dataclass(frozen=True)
class Significance:
    """What hangs on a word: the prompt's signal minus that without it (`dropped`) and with another word in its place (`replaced`)."""

    word: Word
    dropped: float
    replaced: float = math.nan
    by: str = ""
    """The other word; "" if none is known."""

    @property
    def fall(self) -> float:
        """What changing the word is sure to take: the smaller of the two, where both are known."""
        return self.dropped if math.isnan(self.replaced) else min(self.dropped, self.replaced)


def words_of(prompt: str) -> list[Word]:
    """The words of a prompt in ComfyUI's syntax: emphasis, weights and embeddings are left alone."""
    without_names = NAMES.sub(lambda m: " " * len(m.group()), prompt)
    found = WORD.finditer(_with_marks_as_letters(without_names))
    return [Word(prompt[m.start() : m.end()], m.start(), m.end()) for m in found]


def _with_marks_as_letters(text: str) -> str:
    """Accents, vowel signs and joiners that stand apart from their letter (Hindi, Thai, decomposed accents) are within a word; as long."""
    seen: list[str] = []
    for c in text:
        mark = c in JOINERS or unicodedata.category(c).startswith("M")
        seen.append("_" if mark and seen and (seen[-1].isalnum() or seen[-1] == "_") else c)
    return "".join(seen)


def without(prompt: str, word: Word) -> str:
    """The prompt with a word taken out; what that leaves there goes too: emphasis on nothing, whose weight ComfyUI would read as a word,
    double spaces and commas."""
    before, after = prompt[: word.start], prompt[word.end :]
    while (opened := OPENED.search(before)) and (closed := CLOSED.match(after)):
        before, after = before[: opened.start()], after[closed.end() :]
    apart = before.endswith(" ") or after.startswith(" ")
    before, after = before.rstrip(" "), after.lstrip(" ")
    if after.startswith(",") and (not before or before.endswith(",")):
        after, apart = after[1:].lstrip(" "), True
    if not after:
        before = before.rstrip(" ,")
    return f"{before} {after}" if apart and before and after and not after.startswith(",") else before + after


def with_another(prompt: str, word: Word, other: str) -> str:
    """The prompt with another word in a word's place."""
    return prompt[: word.start] + other + prompt[word.end :]


def alternatives(text: str) -> dict[str, list[str]]:
    """Word -> words that may stand in its place, of lists of the user: one a line, with commas between the words."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        several = [w.strip() for w in line.split(",") if w.strip()]
        for word in several:
            found.setdefault(word.lower(), []).extend(other for other in several if other.lower() != word.lower())
    return found


def ranked(found: list[Significance]) -> list[Significance]:
    """Words worth changing first: not the little ones, the largest sure fall first."""
    return sorted((s for s in found if not s.word.little), key=lambda s: -s.fall)


def share(significance: Significance, signal: float) -> float:
    """What of a prompt's signal hangs on a word, 0 to 1. A score is a deviation, which may fall below 0 without the word: then all does."""
    return min(max(significance.fall / signal, 0.0), 1.0) if signal > 0 else 0.0


def trigger(found: list[Significance], signal: float) -> Significance | None:
    """The word on which most hangs; None if nothing hangs on any single word."""
    best = next(iter(ranked(found)), None)
    return best if best is not None and signal > 0 and best.fall >= LEAST_FALL * signal else None
