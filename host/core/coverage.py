"""Where a prompt is. ComfyUI predicts zero where no part of a prompt is active, and that looks like a memory."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import torch
from torch import Tensor

LIMITS = ("area", "mask", "mask_strength", "strength", "timestep_start", "timestep_end")
"""What decides where, and when, a part of a prompt is active."""

Conds = list[dict[str, Any]]


def covered(sides: list[Conds], x: Tensor, sigma: Tensor) -> Tensor | None:
    """1 where each side (positive, negative) has a prompt at this noise level, else 0: [n, 1, ..., h, w]; None: everywhere.

    `sides` as guiders hold them while sampling; a part marked as default fills what the others of its side leave.
    """
    limited = any(limit in cond for side in sides for cond in side for limit in ("area", "mask", "timestep_start", "timestep_end"))
    if not limited and all(cond.get("strength", 1.0) != 0 for side in sides for cond in side):
        return None
    whole = torch.ones_like(x[:, :1], dtype=torch.float32)
    for side in sides:
        whole = whole * (_weights(side, x, sigma) > 0)
    return None if bool(whole.all()) else whole


def _weights(side: Conds, x: Tensor, sigma: Tensor) -> Tensor:
    """How much the parts of one side count, summed, [n, 1, ..., h, w]."""
    total = torch.zeros_like(x[:, :1], dtype=torch.float32)
    dims = x.ndim - 2
    for cond in side:
        kept = {k: cond[k] for k in LIMITS if k in cond}
        # the core's own rule for areas, masks, strengths and ranges; nothing of the prompt itself is needed
        part = comfy.samplers.get_area_and_mult({**kept, "model_conds": {}, "uuid": None}, x[:, :1], sigma)
        if part is None:
            continue
        if cond.get("default", False):
            return torch.ones_like(total)
        where = total
        if part.area is not None:
            for i in range(dims):
                where = where.narrow(i + 2, part.area[dims + i], part.area[i])
        where += part.mult
    return total
