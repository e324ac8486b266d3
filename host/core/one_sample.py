"""One sample out of a batch: its share of everything ComfyUI carries along.

Whatever has fewer rows than the batch is first repeated over it as the core does it, also inside of dicts, lists and ControlNets. What
cannot be cut is an error: a sample must never be drawn again from another sample's prompt.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import comfy.conds
import comfy.controlnet
import comfy.sampler_helpers
import comfy.utils
from torch import Tensor

from .sampler_call import RunCall, callback_of_one

WHOLE = ("unclip_conditioning", "hooks", "default")
"""Parts of a prompt that the core mixes for the whole batch, however many rows they have."""
FILLED = ("cond_hint", "extra_concat", "control_input")
"""Attributes of a ControlNet that it fills for a batch while sampling."""


def one(x: Any, i: int, n: int) -> Any:
    """Sample i of n, [1, ...], of a tensor; fewer rows are repeated over the batch as the core does it. What is no batch stays as it is."""
    if not isinstance(x, Tensor) or x.ndim == 0 or n == 1 or len(x) == 0:
        return x
    if x.ndim == 1 and len(x) != n:  # numbers that belong to all samples
        return x
    return comfy.utils.repeat_to_batch_size(x, n)[i : i + 1]


def conds_of_one(conds: dict[str, list[dict[str, Any]]], i: int, n: int) -> dict[str, list[dict[str, Any]]]:
    """Prompts of a batch, as ComfyUI's guiders hold them, cut to sample i of n; the originals stay. ValueError if a part cannot be cut."""
    return {side: [_cond_of_one(c, i, n) for c in several] for side, several in conds.items()}


def _cond_of_one(cond: dict[str, Any], i: int, n: int) -> dict[str, Any]:
    return {k: v if k in WHOLE else _part_of_one(k, v, i, n) for k, v in cond.items()}


def _part_of_one(name: str, value: Any, i: int, n: int) -> Any:
    """A part of a prompt, whatever it is made of."""
    if n == 1 or isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, Tensor):
        return one(value, i, n)
    if isinstance(value, dict):
        return {k: _part_of_one(f"{name}.{k}", v, i, n) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_part_of_one(name, v, i, n) for v in value)
    if isinstance(value, comfy.controlnet.ControlBase):
        return _control_of_one(value, i, n)
    if hasattr(value, "cond"):  # one of the core's conds, or a pack's own
        return _model_cond_of_one(name, value, i, n)
    return _checked_whole(name, value, n, known=())


def _model_cond_of_one(name: str, value: Any, i: int, n: int) -> Any:
    if isinstance(value, comfy.conds.CONDConstant):  # of the whole batch
        return value
    changed = copy.copy(value)
    changed.cond = _part_of_one(name, value.cond, i, n)
    return changed


def _control_of_one(control: Any, i: int, n: int) -> Any:
    """A ControlNet with the hint that the core would give to sample i of n; what it computed for the batch is forgotten."""
    _checked_whole("control", control, n, known=("cond_hint_original", *FILLED))
    changed, hints = copy.copy(control), control.cond_hint_original
    if isinstance(hints, Tensor):
        at = i % len(hints[:n])
        changed.cond_hint_original = hints[at : at + 1]
        extra = getattr(control, "extra_concat_orig", None) or []
        changed.extra_concat_orig = [comfy.utils.repeat_to_batch_size(e, len(hints))[at : at + 1] for e in extra]
    for name in FILLED:
        if hasattr(changed, name):
            setattr(changed, name, None)
    if control.previous_controlnet is not None:
        changed.previous_controlnet = _control_of_one(control.previous_controlnet, i, n)
    return changed


def _checked_whole(name: str, value: Any, n: int, known: tuple[str, ...]) -> Any:
    """The value itself; ValueError if it holds rows of a batch in a place that is not known."""
    for attribute, held in getattr(value, "__dict__", {}).items():
        if attribute not in known and isinstance(held, Tensor) and held.ndim > 1 and len(held) > 1:
            raise ValueError(
                f"One picture of this batch of {n} cannot be sampled again alone: the part {name!r} of its prompt ({type(value).__name__}) "
                f"holds several rows ({attribute!r}), and nobody says which picture they belong to. Sample one picture at a time."
            )
    return value


@contextlib.contextmanager
def prompts_of_one(guider: Any, i: int, n: int) -> Iterator[None]:
    """Inside, a guider that is sampling holds the prompts of sample i alone."""
    conds = guider.conds
    guider.conds = conds_of_one(conds, i, n)
    try:
        yield
    finally:
        guider.conds = conds


def call_of_one(call: RunCall, i: int, n: int) -> RunCall:
    """The run of sample i alone."""
    guider = copy.copy(call.guider)
    guider.original_conds = conds_of_one(guider.original_conds, i, n)
    mask = call.mask
    if mask is not None and mask.shape != call.noise.shape:
        # as older cores hand it on, frames or rows of pixels may stand where samples are expected; newer ones have given it this shape
        mask = comfy.sampler_helpers.prepare_mask(mask, call.noise.shape, mask.device)
    parts = {"noise": one(call.noise, i, n), "latent": one(call.latent, i, n), "mask": one(mask, i, n)}
    return dataclasses.replace(call, guider=guider, callback=callback_of_one(call.callback, i), index=i, **parts)
