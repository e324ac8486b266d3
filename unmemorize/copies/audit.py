"""An audit's numbers: how much a prompt's pictures agree from seed to seed, and how much of that is no property of such prompts anyway.

Many seeds of a memorized prompt give the same picture (Carlini et al. 2023); but so do many seeds of a plain prompt in a model that hardly
varies. So the agreement of a base model, or of prompts that differ in one word, is subtracted, and none of it is a verdict by itself.
"""

from __future__ import annotations

import statistics
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


def summary(rows: list[dict[str, Any]]) -> str:
    """The audit in a sentence."""
    counts: dict[str, int] = {}
    for row in rows:
        word = FAILED if row.get("error") else verdict(row)
        counts[word] = counts.get(word, 0) + 1
    return ", ".join(f"{n} {word}" for word, n in sorted(counts.items(), key=lambda c: -c[1])) or "nothing was audited"


def finished(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as a page shows them: the most suspicious first, each with its `verdict` in words, whether it is `fine`, and whether its picture
    was `found` to come back."""

    def told(row: dict[str, Any]) -> dict[str, Any]:
        word = verdict(row)
        failed = f"{FAILED}: {row['error']}" if row.get("error") else ""
        return {**row, "verdict": failed or word, "fine": word == NOTHING, "found": word in (MEMORIZED, COPIED)}

    return [told(row) for row in ranked(rows)]


def ranked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The most suspicious first: copies, then what the guard flags, then by agreement."""
    order = {COPIED: 0, MEMORIZED: 1, NOT_JUDGED: 2, NOTHING: 2}

    def key(row: dict[str, Any]) -> tuple[int, float, float]:
        seen = row["agreement"] if row.get("beyond") is None else row["beyond"]
        return order[verdict(row)], -(row.get("guard_score") or 0.0), -(seen or 0.0)

    return sorted(rows, key=key)
