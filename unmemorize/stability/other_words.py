"""A prompt's prediction without its exact words (ours, measured in benchmarks/)."""

from __future__ import annotations

from collections.abc import Sequence


def without_the_exact_words(order: Sequence[int], changed: int) -> list[tuple[tuple[int, ...], int]]:
    """(words that are others, weight) of variants whose predictions add up to the prompt's own, if words add up; the weights' sum is 1.

    With the first `changed` + 1 of `order` as S: each S without one of its words once, S itself minus `changed` times. Were the effect of a
    word the same whatever the others are, this were D(prompt); what only the exact words together call up, a memory, is not asked for.
    """
    chosen = tuple(sorted(order[: changed + 1]))
    return [(tuple(w for w in chosen if w != left), 1) for left in chosen] + [(chosen, -changed)]
