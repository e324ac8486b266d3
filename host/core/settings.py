"""Settings as they arrive: widgets keep to their limits, programs that use the API need not."""

from __future__ import annotations

import math
from typing import Any

import comfy.samplers

from .facts import shortened


def check_range(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    """ValueError unless a setting is a number in its range; NaN is in none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not (low <= value <= high) or math.isinf(value):
        wanted = "a finite number" if math.isinf(low) and math.isinf(high) else f"a number from {low:g} to {high:g}"
        raise ValueError(f"{name} is {shortened(value)}; it must be {wanted}.")


def check_sampling(use: dict[str, Any]) -> None:
    """ValueError on steps, guidance, sampler or scheduler that ComfyUI does not have: it would run with others."""
    check_range("steps", use["steps"], 1, 10_000)
    check_range("cfg", use["cfg"], -1000, 1000)
    known = {"sampler_name": comfy.samplers.KSampler.SAMPLERS, "scheduler": comfy.samplers.KSampler.SCHEDULERS}
    for name, options in known.items():
        if use[name] not in options:
            raise ValueError(f"This ComfyUI has no {name} {shortened(use[name])}. Choose one of its list, for instance {options[0]}.")
