"""Record score differences while any sampler runs: no extra model call, and the picture stays the same to the bit."""

from __future__ import annotations

from typing import Any

import comfy.patcher_extension
import torch
from torch import Tensor

from ...unmemorize.curvature.differences import channel_sum, score_difference
from ...unmemorize.curvature.maps import make_map
from ..core.noise import noise_level
from .measuring import check_picture, generated

KEY = "unmemorize_score_difference"
MARKS = 64


def record(model: Any, start: float, end: float) -> tuple[Any, dict[str, Any]]:
    """A clone of MODEL that fills the returned recording with b^2 ds_0 of the steps between two shares of a run.

    The recording holds sums, never single steps. A run of a sampler replaces it when it ends; one that is cancelled, or that
    only measures, leaves it as it was.
    """
    recording: dict[str, Any] = {"start": start, "end": end}
    running: list[dict[str, Any]] = []
    clone = model.clone()

    def whole_run(executor: Any, *arguments: Any, **more: Any) -> Tensor:
        running.append({"sum": None, "steps": set(), "channels": 0, "count": 0, "unguided": False})
        try:
            result = executor(*arguments, **more)
            if running[-1]["sum"] is not None or running[-1]["unguided"]:
                recording.update(running[-1], marks=marks(result), shape=tuple(result.shape))
            return result
        finally:
            running.pop()

    def listen(facts: dict[str, Any]) -> Tensor:
        if running:
            _add(running[-1], start, end, facts)
        return facts["denoised"]

    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, KEY, whole_run)
    clone.set_model_sampler_post_cfg_function(listen)
    return clone, recording


def marks(samples: Tensor) -> Tensor:
    """A few values of every sample, by which its latent is known again, [n, <= 64]."""
    flat = samples.detach().flatten(1)
    return flat[:, :: max(1, flat.shape[1] // MARKS)][:, :MARKS].float().cpu()


def _add(run: dict[str, Any], start: float, end: float, facts: dict[str, Any]) -> None:
    sigmas = facts["model_options"].get("transformer_options", {}).get("sample_sigmas")
    sigma = facts["sigma"].reshape(-1)[0]
    steps = 1 if sigmas is None else max(len(sigmas) - 1, 1)
    step = 0 if sigmas is None else min(int((sigmas.to(sigma) - sigma).abs().argmin()), steps - 1)
    if not start <= step / max(steps - 1, 1) <= end:
        return
    if facts["uncond"] is None:  # CFG 1: ComfyUI skips the empty prompt and hands out zeros in its place
        run["unguided"] = True
        return
    level = noise_level(facts["model"].model_sampling, float(sigma))
    values = channel_sum(score_difference(facts["cond_denoised"].float(), facts["uncond_denoised"].float(), level)).cpu()
    run["channels"] = facts["cond_denoised"].shape[1]
    run["sum"] = values if run["sum"] is None else run["sum"] + values
    run["count"] += 1
    run["steps"].add(step)


def recorded_map(recording: dict[str, Any], latent: dict[str, Any]) -> dict[str, Any]:
    """The map of a finished run: mean over the recorded evaluations. ValueError if nothing fitting was recorded."""
    if not isinstance(recording, dict) or "start" not in recording:
        raise ValueError("This is not a recording of Unmemorize. Connect the recording of Record Score Difference.")
    if recording.get("unguided"):
        raise ValueError(
            "The sampler ran without guidance (CFG 1), so the model never saw the empty prompt and there is nothing to compare. "
            "Use Curvature Difference Map, which asks for the empty prompt itself."
        )
    total = recording.get("sum")
    if total is None:
        raise ValueError(
            "Nothing was recorded. The MODEL of Record Score Difference must go into the sampler that made this latent, and the "
            "range from start to end must hold at least one of its steps. If that is so already, change the seed and run again."
        )
    if not torch.isfinite(total).all():
        raise ValueError("The run that was recorded produced values that are not numbers (NaN or infinite). Check its precision.")
    samples = latent["samples"]
    check_picture(samples)
    if recording["shape"] != tuple(samples.shape) or not torch.allclose(recording["marks"], marks(samples), rtol=1e-2, atol=1e-2):
        raise ValueError(
            "This latent is not the one that the recorded sampler made last. Connect the latent of the sampler that uses the recorded "
            "MODEL, unchanged, and give each sampler a recorder of its own. If that is so already, change the seed and run again."
        )
    values = (total if total.ndim == 3 else total[:, 0]) / recording["count"]
    settings = {
        "method": "ds_0", "estimator": "recorded while sampling", "steps": sorted(recording["steps"]), "start": recording["start"],
        "end": recording["end"], "evaluations": 0,
    }  # fmt: skip
    return make_map(values, recording["channels"], settings, generated(latent, values.shape))
