"""The nearest whole word to a word, by the text encoder's own token embeddings."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SHORTEST = 3
"""Letters of a word that may be suggested."""
SAME_STEM = 4
"""Words that begin with as many letters alike are the same word in another form."""
LOOKED_AT = 200
"""Nearest words among which those of the same stem are left out."""
WORD_ENDS, WORD_BEGINS, WORD_OF_BYTES = "</w>", "\u2581", "\u0120"
"""How byte-pair tokenizers mark a whole word: at its end (CLIP), or at its beginning (T5, Gemma; Qwen, Llama, Mistral, whose letters stand
for bytes: only ASCII words can be read)."""


@dataclass(frozen=True)
class Vocabulary:
    """Whole words of a text encoder, and the embedding of each, [words, d] of unit length."""

    words: list[str]
    embeddings: Tensor

    def nearest(self, word: str) -> str:
        """The nearest other word, no form of the same; "" if the word is none of the vocabulary."""
        return next(iter(self.near(word, 1)), "")

    def near(self, word: str, count: int) -> list[str]:
        """At most so many other words, the nearest first."""
        at = self._index.get(word.lower())
        if at is None:
            return []
        order = (self.embeddings @ self.embeddings[at]).argsort(descending=True)
        others = (self.words[int(i)] for i in order[: LOOKED_AT + count])
        return list(itertools.islice((w for w in others if not _same(w, word)), count))

    @property
    def _index(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words)}


def _same(one: str, other: str) -> bool:
    a, b = one.lower(), other.lower()
    return a in b or b in a or a[:SAME_STEM] == b[:SAME_STEM]


def vocabulary_of(clip: Any) -> Vocabulary | None:
    """Of a CLIP's first text encoder whose tokens and embeddings can be read; None if there is none."""
    for name, tokenizer in _tokenizers(clip.tokenizer):
        table = _embeddings(clip.cond_stage_model, name)
        tokens = _tokens(tokenizer)
        if table is None or not tokens:
            continue
        known = {word: i for word, i in tokens.items() if i < len(table)}
        rows = torch.nn.functional.normalize(table.detach()[list(known.values())].float().cpu(), dim=1)
        return Vocabulary(list(known), rows)
    return None


def _tokenizers(tokenizer: Any) -> list[tuple[str, Any]]:
    """(name of the encoder, tokenizer): the parts of the core's tokenizers, or the whole."""
    parts = [(name, part) for name, part in vars(tokenizer).items() if hasattr(part, "tokenizer") or hasattr(part, "inv_vocab")]
    return parts or [("", tokenizer)]


def _tokens(tokenizer: Any) -> dict[str, int]:
    """Whole lower-case words -> ids."""
    by_id: dict[int, str] = getattr(tokenizer, "inv_vocab", None) or {}
    marked = any(str(t).endswith(WORD_ENDS) for t in by_id.values())
    words: dict[str, int] = {}
    for i, token in by_id.items():
        text = str(token)
        if marked and text.endswith(WORD_ENDS):
            word = text.removesuffix(WORD_ENDS)
        elif not marked and text.startswith(WORD_BEGINS):
            word = text.removeprefix(WORD_BEGINS)
        elif not marked and text.startswith(WORD_OF_BYTES) and text[1:].isascii():
            word = text.removeprefix(WORD_OF_BYTES)
        else:
            continue
        if word.isalpha() and word.islower() and len(word) >= SHORTEST:
            words.setdefault(word, int(i))
    return words


def _embeddings(model: Any, name: str) -> Tensor | None:
    """Token embeddings [tokens, d] of an encoder."""
    encoder = getattr(model, name, model) if name else model
    for holder in (getattr(encoder, "transformer", None), encoder):
        get = getattr(holder, "get_input_embeddings", None)
        if callable(get):
            weight = get().weight
            return weight if isinstance(weight, Tensor) else None
    return None
