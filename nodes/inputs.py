"""Widgets that nodes of several families share."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..host.core.sampling import samplers, schedulers


def sampling_inputs(how: str) -> list[Any]:
    """Seed, steps, cfg, sampler and scheduler: KSampler's, in its order."""
    return [
        io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True, tooltip=f"Seed of the noise, {how}."),
        io.Int.Input("steps", default=20, min=1, max=10000, tooltip=f"Sampling steps, {how}."),
        io.Float.Input("cfg", default=8.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=f"Guidance, {how}."),
        io.Combo.Input("sampler_name", options=samplers(), tooltip=f"Sampler, {how}."),
        io.Combo.Input("scheduler", options=schedulers(), tooltip=f"Scheduler, {how}."),
    ]
