"""Prompt -> token ids for the demo text encoder: BOS, one id a word, EOS, padded with EOS as CLIP is."""

from __future__ import annotations

import re
import zlib

BOS, EOS = 0, 1
FIRST_WORD = 2
HASH_BUCKETS = 256
CONTEXT_LENGTH = 24

_WORD = re.compile(r"[a-z0-9]+")


def words(text: str) -> list[str]:
    """Lower-case words and numbers of `text`; punctuation is dropped."""
    return _WORD.findall(text.lower())


def word_id(word: str, vocabulary: dict[str, int]) -> int:
    """Id of a known word, or one of HASH_BUCKETS shared ids for a word never seen in training."""
    known = vocabulary.get(word)
    if known is not None:
        return known
    return FIRST_WORD + len(vocabulary) + zlib.crc32(word.encode()) % HASH_BUCKETS


def make_vocabulary(captions: list[str]) -> list[str]:
    """Sorted distinct words of all captions."""
    return sorted({w for caption in captions for w in words(caption)})


def index_vocabulary(vocabulary: list[str]) -> dict[str, int]:
    """Word -> id, ids starting after BOS and EOS."""
    return {w: FIRST_WORD + i for i, w in enumerate(vocabulary)}


def table_size(vocabulary: list[str]) -> int:
    """Rows of the embedding table: BOS, EOS, the words, the hash buckets."""
    return FIRST_WORD + len(vocabulary) + HASH_BUCKETS


def encode(text: str, vocabulary: dict[str, int]) -> list[int]:
    """One window of CONTEXT_LENGTH ids; words beyond the window are cut."""
    ids = [word_id(w, vocabulary) for w in words(text)][: CONTEXT_LENGTH - 2]
    return [BOS, *ids, *[EOS] * (CONTEXT_LENGTH - 1 - len(ids))]
