"""Stability profiles: calibrate them on clean prompts, keep them in files, refuse them for another model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...unmemorize.pictures.pages import counted
from ...unmemorize.stability.agreement import AgreementRegion
from ...unmemorize.stability.profile import LEAST_SD, Profile, make_profile
from ...unmemorize.stability.signals import SIGNALS
from ..core import facts, influences, store
from ..core.identity import check_shows_weights, differences, identity, in_another_precision, shown
from ..core.latents import check_one_kind
from ..core.progress import Progress
from ..core.prompts import told_as
from ..core.sampling import draw, empty_of
from ..core.seeds import later_seed
from ..core.settings import check_sampling
from .watching import Watch, watched

Observer = Callable[[Any], tuple[Any, list[Watch]]]
PROFILES = store.user_store("stability profile", "profiles")
LEAST_RUNS = 5
NEAR_GUIDANCE = 1.25
"""A profile serves guidance scales up to this factor away; see benchmarks/RESULTS.md for what that costs."""
FACTS = {
    "kind": facts.text(), **facts.SAMPLING, "prompts": facts.COUNT, "seeds": facts.COUNT, "runs": facts.COUNT, "model": facts.IDENTITY,
    "shape": facts.several(facts.whole(1, 100_000), 1, 6),
}  # fmt: skip
"""Of a file."""
BEFORE = "before"
"""A further fact where a LoRA's changes were measured: what they were counted from."""
AGREEMENT = "agreement of prompts"
"""Tensor of a profile's file; files of before, which measured something else, have 'agreement'."""
ALWAYS = {"latent", "update", "prediction", "sharpness"}
"""Signals that every run has."""
MOST = 1e4
"""No norm, deviation or score of a model's runs comes near: with larger ones every memory would seem clean."""
ADDS_NOISE = ("ancestral", "sde", "lcm", "ddpm", "seeds", "sa_solver")
"""Parts of the names of samplers that add noise on the way: their updates are longer."""


@dataclass(frozen=True)
class StoredProfile:
    """A profile and what it was measured on: model identity, cfg, sampler, scheduler, steps, latent shape, prompts, seeds."""

    profile: Profile
    facts: dict[str, Any]


def calibrate(
    model: Any,
    positives: list[Any],
    negative: Any,
    latent: dict[str, Any],
    seeds: int,
    sampling: dict[str, Any],
    observe: Observer = watched,
) -> StoredProfile:
    """Sample each prompt with each seed (sampling["seed"] and those after it) and note the steps. ValueError before any work.

    The prompts are told the distilled guidance of the negative one, if that has any. `observe` gives a clone of the model and the list of
    its watches; one that knows the model before a LoRA measures agreement too.
    """
    if len(positives) * seeds < LEAST_RUNS:
        raise ValueError(
            f"{counted(len(positives), 'prompt')} with {counted(seeds, 'seed')} are {len(positives) * seeds} runs; at least {LEAST_RUNS} "
            "are needed, 50 are good. Write more ordinary prompts that are surely not memorized, one a line."
        )
    check_one_kind(latent)
    known = identity(model)
    check_shows_weights(known)
    check_sampling(sampling)
    positives = [told_as(positive, negative) for positive in positives]
    latent = {"samples": empty_of(model, latent)}  # whole pictures from noise, whatever picture or mask is connected
    progress = Progress(len(positives) * seeds * sampling["steps"])
    clone, heard = observe(model)
    for i, positive in enumerate(positives):
        for k in range(seeds):
            draw(clone, positive, negative, latent, {**sampling, "seed": later_seed(sampling["seed"], i * seeds + k)}, progress.advance)
    seen = [watch.observed() for watch in heard]
    if not seen or not seen[0]:
        raise ValueError("This sampler never evaluated the model at a step of its own schedule. Calibrate with another sampler.")
    observed = {name: torch.cat([o[name] for o in seen], 1) for name in seen[0]}
    profile = make_profile(torch.tensor(heard[0].angles[:-1]), observed)
    found = influences.influences(
        model.model_options, (extras for _, extras in [*negative, *(c for several in positives for c in several)])
    )
    kept = {k: sampling[k] for k in ("steps", "cfg", "sampler_name", "scheduler")}
    shape = list(latent["samples"].shape[1:])
    noted = {"kind": PROFILES.noun, **kept, "prompts": len(positives), "seeds": seeds, "shape": shape, "model": known}
    noted |= {influences.INFLUENCES: found} if found else {}
    noted |= {} if heard[0].told is None else {influences.DISTILLED: heard[0].told}
    return StoredProfile(profile, noted)


def check_profile(stored: Any, model: Any) -> None:
    """ValueError, naming what differs, unless the profile was measured on this model."""
    if stored is None:
        raise ValueError(
            "The stability guard needs a profile of this model: connect Stability Profile for This Model, which finds the one that is kept "
            "for it or measures one. Or set mode to off."
        )
    if not isinstance(stored, StoredProfile):
        raise ValueError("This is not a stability profile. Connect Load Stability Profile or Calibrate Stability Profile.")
    other = differences(stored.facts["model"], identity(model))
    if other:
        raise ValueError(
            f"This stability profile belongs to another model: the two differ in {', '.join(other)}. Connect "
            "Stability Profile for This Model, which finds the right one or measures it."
        )


def check_guidance(stored: StoredProfile, cfg: float) -> None:
    """ValueError if a run's guidance is far from the profile's."""
    mismatch = other_guidance(stored, cfg)
    if mismatch:
        raise ValueError(mismatch)


def other_guidance(stored: StoredProfile, cfg: float) -> str:
    """How a run's guidance is too far from the profile's, in words; "" if it is near."""
    there = float(stored.facts["cfg"])
    if there / NEAR_GUIDANCE <= cfg <= there * NEAR_GUIDANCE:
        return ""
    return (
        f"The run's CFG is {cfg:g}, the stability profile was measured at {there:g}; it serves {there / NEAR_GUIDANCE:.3g} to "
        f"{there * NEAR_GUIDANCE:.3g}. Change the CFG, or let Stability Profile for This Model measure one for it."
    )


def other_distilled(stored: StoredProfile, told: float | None) -> str:
    """How the guidance that a distilled model (Flux) is told in a run is too far from the profile's, in words; "" if it is near, or one of
    them is not known, as in files of before."""
    there = stored.facts.get(influences.DISTILLED)
    if told is None or there is None or there / NEAR_GUIDANCE <= told <= there * NEAR_GUIDANCE:
        return ""
    return (
        f"The model is told the distilled guidance {told:g} (FluxGuidance), it was told {there:g} when the stability profile was measured. "
        f"Change it to {there:g}, or measure a profile with a negative prompt that goes through FluxGuidance with {told:g}."
    )


def other_influences(stored: StoredProfile, here: list[str]) -> str:
    """How what other nodes do to a run (see `influences`) is not what they did when the profile was measured, in words, or "": they move
    the score of ordinary runs as far as a memory does (the demo model under FreeU with its defaults: 10 of 48 honest pictures flagged,
    without it 1)."""
    differs = influences.other_influences(here, stored.facts.get(influences.INFLUENCES, []))
    if not differs:
        return ""
    return (
        f"Other nodes change what the model predicts, but not as they did when the stability profile was measured ({differs}). Let "
        "Stability Profile for This Model measure one with the same nodes before it, or leave them out."
    )


def warnings_for(stored: StoredProfile, samples: Tensor, sampling: dict[str, Any], here: dict[str, str]) -> list[str]:
    """What makes a profile fit a run less well, in words; `here` is the identity of the run's model."""
    found = []
    if list(samples.shape[1:]) != stored.facts["shape"]:
        found.append(f"The profile was measured on latents of shape {stored.facts['shape']}, this one is {list(samples.shape[1:])}.")
    name, theirs = sampling.get("sampler_name"), stored.facts["sampler_name"]
    if name is not None and name != theirs and (_adds_noise(name) or _adds_noise(theirs)):
        found.append(f"The profile was measured with {theirs}, this run used {name}: one of them adds noise on the way.")
    if here["patches"] != stored.facts["model"]["patches"]:
        found.append("The model carries other patches (LoRAs) than when the profile was measured.")
    return [*found, *filter(None, [in_another_precision(stored.facts["model"], here)])]


def _adds_noise(sampler_name: str) -> bool:
    return any(part in sampler_name for part in ADDS_NOISE)


def save_profile(stored: Any, name: str) -> str:
    """Write a profile into the user's folder; returns the name it got."""
    if not isinstance(stored, StoredProfile):
        raise ValueError("This is not a stability profile. Connect Calibrate Stability Profile.")
    return store.save(PROFILES, name, *as_file(stored))


def load_profile(name: str) -> StoredProfile:
    """Read a profile by its name in the list."""
    return read_profile(store.find(PROFILES, name))


def report(stored: StoredProfile) -> dict[str, Any]:
    """What it was measured on; JSON-able."""
    return {**stored.facts, "model": shown(stored.facts["model"]), "runs": stored.profile.runs}


def as_file(stored: StoredProfile) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata, as `read_profile` expects them."""
    p = stored.profile
    tensors = {"angles": p.angles, "score": torch.tensor([p.score_centre, p.score_spread], dtype=torch.float64)}
    if p.agreement is not None:
        tensors[AGREEMENT] = torch.tensor([p.agreement.centre, p.agreement.spread], dtype=torch.float64)
    tensors |= {f"{part}.{k}": v for part, several in (("mean", p.mean), ("sd", p.sd)) for k, v in several.items()}
    return tensors, store.facts_as_metadata({**stored.facts, "runs": p.runs})


def read_profile(path: Path) -> StoredProfile:
    """Read a profile from a file; ValueError if it is none."""
    file, (tensors, found) = path.name, store.read(path, PROFILES.noun)
    more = {k: fact for k, fact in (influences.FACT | influences.DISTILLED_FACT).items() if k in found}
    kept = facts.checked(file, found, FACTS | more | ({BEFORE: facts.text()} if AGREEMENT in tensors else {}))
    angles = facts.tensor(file, tensors, "angles", (None,), low=0.0, high=math.pi / 2 + 1e-6)
    if (angles.diff() < 0).any():
        facts.damaged(file, "its angles do not ascend")
    centre, spread = facts.tensor(file, tensors, "score", (2,)).tolist()
    if not 0 < spread <= MOST or abs(centre) > MOST:
        facts.damaged(file, f"its scores have centre {centre:g} and spread {spread:g}, out of all bounds")
    names = [k.removeprefix("mean.") for k in tensors if k.startswith("mean.")]
    needed = ALWAYS | ({"guidance", "revision"} if kept["cfg"] != 1 and kept["steps"] > 1 else set())
    if not needed <= set(names) <= set(SIGNALS):
        facts.damaged(file, f"its signals are {facts.shortened(names)}: {', '.join(sorted(needed))} are needed, of {', '.join(SIGNALS)}")
    mean = {name: facts.tensor(file, tensors, f"mean.{name}", tuple(angles.shape), low=-MOST, high=MOST) for name in names}
    sd = {name: facts.tensor(file, tensors, f"sd.{name}", tuple(angles.shape), low=LEAST_SD / 2, high=MOST) for name in names}
    mean, sd = ({name: values.float() for name, values in several.items()} for several in (mean, sd))
    return StoredProfile(Profile(angles.float(), mean, sd, int(kept.pop("runs")), centre, spread, _agreement(file, tensors)), kept)


def _agreement(file: str, tensors: dict[str, Tensor]) -> AgreementRegion | None:
    """Of a LoRA's changes, where the profile was measured with the model before it."""
    if AGREEMENT not in tensors:
        return None
    centre, spread = facts.tensor(file, tensors, AGREEMENT, (2,)).tolist()
    if not (-1 <= centre <= 1 and 0 < spread <= 2):
        facts.damaged(file, f"its agreement has centre {centre:g} and spread {spread:g}, out of all bounds")
    return AgreementRegion(centre, spread)
