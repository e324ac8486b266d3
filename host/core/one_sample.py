"""One sample out of a batch: its share of everything ComfyUI carries along."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import comfy.utils
from torch import Tensor


def one(x: Any, i: int, n: int) -> Any:
    """Sample i of n, [1, ...], of a tensor; fewer rows are repeated over the batch as the core does it. What is no batch stays as it is."""
    if not isinstance(x, Tensor) or x.ndim == 0 or n == 1 or len(x) == 0:
        return x
    if x.ndim == 1 and len(x) != n:  # numbers that belong to all samples
        return x
    return comfy.utils.repeat_to_batch_size(x, n)[i : i + 1]


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
