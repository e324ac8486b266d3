"""Pictures in pairs, before and after: which belong together, and how far they are apart."""

from __future__ import annotations

import math

from torch import Tensor


def differences(before: Tensor, after: Tensor) -> list[float | None]:
    """Mean absolute difference of each pair of IMAGE batches [n, h, w, c] and [m, h, w, c] in [0, 1]; 0 only if they are the same to the
    bit, None where there is none (other sizes, values that are no numbers). One picture is paired with all of the other side.

    ValueError if neither side is one picture and they are not as many.
    """
    n, m = len(before), len(after)
    if not (n and m):
        raise ValueError(f"No picture came in as {'after' if n else 'before'}. Connect one, or as many as on the other side.")
    if n != m and 1 not in (n, m):
        raise ValueError(
            f"{n} pictures before, {m} after: it is not clear which belong together. Connect as many on both sides, or one on one side."
        )
    return [_apart(before[i % n], after[i % m]) for i in range(max(n, m))]


def _apart(one: Tensor, other: Tensor) -> float | None:
    if one.shape != other.shape:
        return None
    found = float((one.double() - other.double()).abs().mean())
    return found if math.isfinite(found) else None
