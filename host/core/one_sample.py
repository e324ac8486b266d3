"""One sample out of a batch: its share of everything ComfyUI carries along."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor


def one(x: Any, i: int, n: int) -> Any:
    """Sample i of a tensor that has a row for each of n samples; whatever serves all samples, or is no tensor, stays as it is."""
    return x[i : i + 1] if isinstance(x, Tensor) and x.ndim > 0 and n > 1 and x.shape[0] == n else x


def conds_of_one(conds: dict[str, list[dict[str, Any]]], i: int, n: int) -> dict[str, list[dict[str, Any]]]:
    """Prompts of a batch, as ComfyUI's guiders hold them, cut to sample i of n; the originals stay."""
    return {side: [_cond_of_one(c, i, n) for c in several] for side, several in conds.items()}


def _cond_of_one(cond: dict[str, Any], i: int, n: int) -> dict[str, Any]:
    cut = {k: one(v, i, n) for k, v in cond.items()}
    if "model_conds" in cut:
        cut["model_conds"] = {k: _model_cond_of_one(v, i, n) for k, v in cut["model_conds"].items()}
    return cut


def _model_cond_of_one(value: Any, i: int, n: int) -> Any:
    if not isinstance(getattr(value, "cond", None), Tensor):
        return value
    changed = copy.copy(value)
    changed.cond = one(value.cond, i, n)
    return changed


@contextlib.contextmanager
def prompts_of_one(guider: Any, i: int, n: int) -> Iterator[None]:
    """Inside, a guider that is sampling holds the prompts of sample i alone."""
    conds = guider.conds
    guider.conds = conds_of_one(conds, i, n)
    try:
        yield
    finally:
        guider.conds = conds
