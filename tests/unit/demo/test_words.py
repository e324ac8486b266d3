"""Tokens of the demo text encoder."""

from __future__ import annotations

from unmemorize_pack.demo import words

VOCABULARY = words.index_vocabulary(words.make_vocabulary(["a red ring", "a blue cross"]))


def test_window_is_bos_words_eos_padding():
    ids = words.encode("a red  RING!", VOCABULARY)
    assert len(ids) == words.CONTEXT_LENGTH
    assert ids[0] == words.BOS and ids[4:] == [words.EOS] * (words.CONTEXT_LENGTH - 4)
    assert ids[1:4] == [VOCABULARY[w] for w in ("a", "red", "ring")]


def test_unknown_words_share_hashed_rows_of_the_table():
    ids = {words.word_id(w, VOCABULARY) for w in ("zebra", "quartz", "zebra")}
    size = words.table_size(list(VOCABULARY))
    assert len(ids) == 2 and all(words.FIRST_WORD + len(VOCABULARY) <= i < size for i in ids)


def test_long_prompts_are_cut_to_the_window():
    assert len(words.encode("red " * 100, VOCABULARY)) == words.CONTEXT_LENGTH
