"""The profile of the connected model: one that is kept for it, the nearest that serves, or one that is measured now and kept."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import comfy.samplers

from ...unmemorize.stability.everyday import EVERYDAY
from ..core import store
from ..core.identity import differences, identity
from ..core.influences import influences
from ..core.latents import check_one_kind
from ..core.noise import noise_levels
from ..core.prompts import encoded, guidance_of
from ..core.sampling import first_of
from ..core.settings import check_sampling
from .profiles import (
    PROFILES,
    StoredProfile,
    calibrate,
    other_distilled,
    other_guidance,
    other_influences,
    read_profile,
    save_profile,
    warnings_for,
)
from .verdicts import MOST_STEPS_RATIO, early_steps, serves_steps

FOLDER = "auto"
"""Of what is measured here, among the user's profiles."""
SETTINGS = ("sampler_name", "scheduler", "steps", "cfg")

log = logging.getLogger("unmemorize")


@dataclass(frozen=True)
class Found:
    """A profile, its name in the list, and where it comes from, in words."""

    stored: StoredProfile
    name: str
    how: str


def profile_for(
    model: Any, clip: Any, negative: Any, latent: dict[str, Any], use: dict[str, Any], prompts: list[str] | None = None
) -> Found:
    """The profile of a MODEL for settings (seed, steps, cfg, sampler_name, scheduler); measured from `prompts`, or EVERYDAY, only if none
    serves. ValueError before any work on settings that ComfyUI does not have."""
    check_sampling(use)
    check_one_kind(latent)
    latent = first_of(model, latent)
    kept = _serving(model, negative, latent["samples"], use)
    if kept is not None:
        return kept
    texts = prompts or list(EVERYDAY)
    log.info("No stability profile of this model serves these settings: measuring one, %d runs of %d steps.", len(texts), use["steps"])
    stored = calibrate(model, encoded(clip, texts), negative, latent, 1, use)
    return Found(stored, save_profile(stored, name_of(stored)), f"measured now, {len(texts)} runs of {use['steps']} steps, and kept")


def name_of(stored: StoredProfile) -> str:
    """What a measured profile is kept as: model, LoRAs, settings."""
    facts, model = stored.facts, stored.facts["model"]
    patches = f"+{model['patches'][:6]}" if model["patches"] else ""
    return f"{FOLDER}/{model['architecture']}-{model['weights'][:8]}{patches}-{facts['sampler_name']}-{facts['steps']}-cfg{facts['cfg']:g}"


def _serving(model: Any, negative: Any, samples: Any, use: dict[str, Any]) -> Found | None:
    """The nearest of the profiles that are kept for this model, with these LoRAs, and serve these settings without a warning."""
    here, found, others = identity(model), [], influences(model.model_options, (extras for _, extras in negative))
    for name, path in store.paths(PROFILES).items():
        try:
            stored = read_profile(path)
            other = differences(stored.facts["model"], here)
        except ValueError as error:  # a damaged file of the folder, or one of an older version, serves nobody
            log.warning("Stability profile %s was left aside: %s", name, error)
            continue
        fits = not other and not other_guidance(stored, use["cfg"]) and not other_influences(stored, others)
        fits = fits and not warnings_for(stored, samples, use, here) and _guided_alike(stored, use)
        fits = fits and not other_distilled(stored, guidance_of(negative))
        if fits and _as_long(stored, model, use):
            found.append((_distance(stored, use), name, stored))
    if not found:
        return None
    distance, name, stored = min(found, key=lambda entry: entry[:2])
    facts = stored.facts
    near = "" if distance == 0 else f" (measured with {', '.join(f'{facts[k]:g}' if k == 'cfg' else str(facts[k]) for k in SETTINGS)})"
    return Found(stored, name, f"kept as {name}{near}")


def _guided_alike(stored: StoredProfile, use: dict[str, Any]) -> bool:
    """Without guidance (CFG 1) nobody asks the negative prompt: of such a run a guided one's profile tells nothing, nor the other way
    round, however near the scales."""
    without = stored.facts["cfg"] == 1, use["cfg"] == 1
    return all(without) or (not any(without) and "revision" in stored.profile.mean)


def _as_long(stored: StoredProfile, model: Any, use: dict[str, Any]) -> bool:
    """Does the profile serve so many steps, of them all and by the guard's own rule?"""
    there = stored.facts["steps"]
    if not there <= use["steps"] * MOST_STEPS_RATIO or not use["steps"] <= there * MOST_STEPS_RATIO:
        return False
    model_sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(model_sampling, use["scheduler"], use["steps"])[:-1]
    angles = [math.atan2(level.b, level.a) for level in noise_levels(model_sampling, sigmas)]
    return serves_steps(len(early_steps(angles)), len(early_steps(stored.profile.angles.tolist())))


def _distance(stored: StoredProfile, use: dict[str, Any]) -> float:
    """0 for the very settings; guidance counts most, since it changes the norms most."""
    other = sum(stored.facts[k] != use[k] for k in ("sampler_name", "scheduler", "steps"))
    there, here = float(stored.facts["cfg"]), use["cfg"]
    return (0.0 if there == here else abs(math.log(there / here))) + 0.01 * other
