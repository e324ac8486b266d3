"""An audit's numbers: how much a prompt's pictures agree from seed to seed, and how much of that is no property of such prompts anyway.

Many seeds of a memorized prompt give the same picture (Carlini et al. 2023); but so do many seeds of a plain prompt in a model that hardly
varies. So the agreement of a base model, or of prompts that differ in one word, is subtracted, and none of it is a verdict by itself.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .probe import pairs_of

MEMORIZED, COPIED, NOT_JUDGED, NOTHING = "memorized", "copied", "not judged", "nothing found"
FAILED = "failed"


def agreement(similarity: Tensor) -> float:
    """Median likeness of all pairs of a prompt's pictures, of a symmetric [n, n], n >= 2."""
    return float(pairs_of(similarity).median())


def beyond(own: float, others: Sequence[float]) -> float | None:
    """Agreement beyond the median of others'; None where there are none."""
    return own - statistics.median(others) if others else None


def verdict(row: dict[str, Any]) -> str:
    """Of one prompt: what the guard and the references say, of all that were asked. Agreement alone says nothing."""
    if row.get("copies"):
        return COPIED
    if row.get("memorized"):
        return MEMORIZED
    asked = [row[name] for name in ("memorized", "copies") if name in row]
    return NOTHING if asked and None not in asked else NOT_JUDGED


def outcome(row: dict[str, Any]) -> str:
    """The verdict of a row, or that it failed and has none."""
    return FAILED if row.get("error") else verdict(row)


def counts(rows: list[dict[str, Any]]) -> dict[str, int]:
    """How many rows came out in each way: outcome -> number, the commonest first."""
    return dict(Counter(map(outcome, rows)).most_common())


def summary(rows: list[dict[str, Any]]) -> str:
    """The audit in a sentence."""
    return ", ".join(f"{n} {word}" for word, n in counts(rows).items()) or "nothing was audited"


def finished(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as a page shows them: the most suspicious first, each with its `verdict` in words, whether it is `fine`, and whether its picture
    was `found` to come back."""

    def told(row: dict[str, Any]) -> dict[str, Any]:
        word = outcome(row)
        said = f"{FAILED}: {row['error']}" if word == FAILED else word
        return {**row, "verdict": said, "fine": word == NOTHING, "found": word in (MEMORIZED, COPIED)}

    return [told(row) for row in ranked(rows)]


def ranked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The most suspicious first: copies, what the guard flags, what has no verdict, and last where nothing was found; each by agreement."""
    order = {COPIED: 0, MEMORIZED: 1, NOT_JUDGED: 2, FAILED: 2, NOTHING: 3}

    def key(row: dict[str, Any]) -> tuple[int, float, float]:
        seen = row["agreement"] if row.get("beyond") is None else row["beyond"]
        return order[outcome(row)], -(row.get("guard_score") or 0.0), -(seen or 0.0)

    return sorted(rows, key=key)
