"""What else than weights, words and noise decides a run: what other nodes do to a model or its predictions, pictures in a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from . import facts
from .hooks import is_ours

INFLUENCES = "influences"
FACT = {INFLUENCES: facts.several(facts.text(), 1, 100)}
"""Of what was measured: its influences, noted only where there were any. Files of before had none."""

HOLDING = (
    "control", "gligen", "concat_latent_image", "concat_image", "reference_latents", "reference_latents_text_embeds",
    "unclip_conditioning", "clip_vision_output", "clip_vision_outputs", "clip_vision_output_ref", "clip_vision_output_pose",
    "vace_frames", "time_dim_concat", "time_dim_replace", "control_video", "context_latents", "reference_motion", "ref_latent",
    "pose_video_latent", "face_video_pixels", "camera_conditions", "driving_mask_28ch", "keyframe_idxs", "generated_keyframes",
    "guide_attention_entries", "guiding_frame_index", "minimax_keyframes", "minimax_refs", "lq_latent", "condition", "embeds",
    "stable_cascade_prior", "audio_embed", "audio_codes", "ref_audio", "reference_audio_timbre_latents",
)  # fmt: skip
"""What a prompt may carry beside words that holds a picture, or sound: ControlNet, places, what an editing or video model goes by."""
DISTILLED = "distilled_guidance"
DISTILLED_FACT = {DISTILLED: facts.number(-1e4, 1e4)}
"""Of what was measured: the guidance that the model was told with the prompt, where it is told any."""
CHANGED = ("rope_options",)
"""In a model's transformer_options: settings of its own that other nodes change."""
INSIDE = ("patches", "patches_replace")
"""In a model's transformer_options: what other nodes do inside of it, a reference picture's attention among others."""
AROUND = (
    "sampler_cfg_function", "sampler_pre_cfg_function", "sampler_calc_cond_batch_function", "sampler_post_cfg_function",
    "model_function_wrapper", "context_handler",
)  # fmt: skip
"""In a model's options: what changes its predictions, or how the two are put together; or asks for a picture in windows."""
EXCHANGING = ("sampler_pre_cfg_function", "sampler_calc_cond_batch_function")
"""Of these, what puts other predictions in the place of the model's before guidance sees them."""


def influences(options: Mapping[str, Any], conds: Iterable[Mapping[str, Any]]) -> list[str]:
    """ComfyUI's own names of what is set, sorted: of a model's options, and of what prompts (dicts) carry. Our own hooks only listen."""
    changed = (name for name in CHANGED if options.get("transformer_options", {}).get(name))
    return sorted({*inside(options), *changed, *_around(options), *holding(conds)})


def other_influences(here: list[str], there: list[str]) -> str:
    """How what other nodes do here is not what they did while something was measured, in words; "" if it is."""
    sides = ((here, there, "only now"), (there, here, "only while it was measured"))
    return " and ".join(f"{', '.join(sorted(set(a) - set(b)))} {when}" for a, b, when in sides if set(a) - set(b))


def distilled_guidance(network: Any, conds: Iterable[Mapping[str, Any]]) -> float | None:
    """The guidance that a distilled model (Flux) is told with a prompt, a side of a guider's while it samples; None: it is told none."""
    if not getattr(getattr(network, "params", None), "guidance_embed", False):
        return None
    told = (cond.get("model_conds", {}).get("guidance") for cond in conds)
    # the core keeps it on the CPU, where looking at it waits for no device
    return next((float(value.cond.detach().float().cpu().numpy().flat[0]) for value in told if value is not None), None)


def inside(options: Mapping[str, Any]) -> list[str]:
    """What other nodes do inside of a model."""
    there = options.get("transformer_options", {})
    return sorted(name for kind in INSIDE for name, several in there.get(kind, {}).items() if several)


def exchanging(options: Mapping[str, Any]) -> list[str]:
    """What other nodes have set of EXCHANGING."""
    return _around(options, EXCHANGING)


def _around(options: Mapping[str, Any], names: Iterable[str] = AROUND) -> list[str]:
    found = []
    for name in names:
        value = options.get(name)
        several = value if isinstance(value, list) else [] if value is None else [value]
        if any(not is_ours(function) for function in several):
            found.append(name)
    return found


def holding(conds: Iterable[Mapping[str, Any]]) -> list[str]:
    """What of HOLDING prompts carry."""
    return sorted({name for cond in conds for name in HOLDING if cond.get(name) is not None})
