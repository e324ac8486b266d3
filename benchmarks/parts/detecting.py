"""Watched runs, and what every detector says about them: the guard's two, WEN's norm, anisotropy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...host.stability.profiles import StoredProfile
from ...host.stability.profiles import calibrate as calibrate_profile
from ...host.stability.watching import watched
from ...unmemorize.stability.profile import Profile, default_score, deviations, paper_score
from ...unmemorize.stability.rule import Rule, severity
from . import published
from .common import auc, log, shared_out
from .guarding import Bench, lent

CALIBRATION_SEED = 300


def profile_of(bench: Bench, captions: list[str], **changes: Any) -> StoredProfile:
    """A profile of clean captions, one seed each, at the lab's settings."""
    use = {"seed": CALIBRATION_SEED, **sampling_of(bench), **changes}
    positives = [bench.final.condition(c) for c in captions]
    with torch.inference_mode():
        return calibrate_profile(bench.final.model, positives, bench.final.condition(""), {"samples": torch.zeros(1, 8, 16, 16)}, 1, use)


def sampling_of(bench: Bench) -> dict[str, Any]:
    """The lab's settings, named as KSampler names them."""
    s = bench.lab.facts["settings"]
    return {"steps": s["steps"], "cfg": s["cfg"], "sampler_name": s["sampler"], "scheduler": s["scheduler"]}


def watch(bench: Bench, captions: list[str], seeds: list[int], what: str, **changes: Any) -> dict[str, dict[str, Any]]:
    """For each caption: angles, observed signals [steps, n], other detectors' values, and which generations copy any fixed picture."""

    def work(part: list[str]) -> dict[str, dict[str, Any]]:
        found = {}
        for i, caption in enumerate(part):
            model, runs = watched(bench.final.model)
            with lent(bench.final, model), published.Recorder(bench.final) as recorder:
                pictures = bench.final.pictures(caption, seeds, **changes)
            found[caption] = {
                "angles": torch.tensor(runs[0].angles[:-1]), "observed": runs[0].observed(), "wen": torch.stack(recorder.steps),
                "anisotropy": published.anisotropy(bench.final, caption, seeds, {**bench.lab.facts["settings"], **changes}),
                "copied": torch.tensor([bench.lab.copied(p) is not None for p in pictures]),
            }  # fmt: skip
            if i % 10 == 0:
                log.info("%s: %d of %d", what, i, len(part))
        return found

    return shared_out(work, captions)


def scores(run: dict[str, Any], profile: Profile, detector: str) -> Tensor:
    """A detector's value for each generation of a caption, large = memorized, [n]."""
    angles, observed = run["angles"], run["observed"]
    rules = {
        "guard_default": lambda: default_score(profile, angles, observed),
        "guard_default_first3": lambda: default_score(profile, angles, observed, first=3),
        "guard_paper": lambda: paper_score(profile, angles, observed),
        "guard_paper_first3": lambda: paper_score(profile, angles, observed, first=3),
        "guard_paper_mean": lambda: paper_score(profile, angles, observed, average=True),
        "wen": lambda: run["wen"].mean(0),
        "wen_first": lambda: run["wen"][0],
        "anisotropy": lambda: run["anisotropy"],
    }
    return rules[detector]()


DETECTORS = (
    "guard_default", "guard_default_first3", "guard_paper", "guard_paper_first3", "guard_paper_mean", "wen", "wen_first", "anisotropy",
)  # fmt: skip
SPLITS = {
    "pooled": (("MV", "MC", "TV"), ("scene", "card")),
    "mc_vs_scene": (("MC",), ("scene",)),
    "mv_vs_scene": (("MV",), ("scene",)),
    "tv_vs_card": (("TV",), ("card",)),
    "mild": (("medium", "mild"), ("scene",)),
}


def aucs(runs: dict[str, dict[str, Any]], groups: dict[str, list[str]], profile: Profile, detector: str) -> dict[str, float]:
    """auc_<detector>_<split>; a memory counts only where the generation really copied."""

    def values(names: tuple[str, ...], copied: bool) -> Tensor:
        parts = [scores(runs[c], profile, detector)[runs[c]["copied"] == copied] for g in names for c in groups[g]]
        return torch.cat(parts)

    found = {}
    for split, (memories, clean) in SPLITS.items():
        positive, negative = values(memories, True), values(clean, False)
        if len(positive) and len(negative):
            found[f"auc_{detector}_{split}"] = auc(positive, negative)
    return found


def conditionals(runs: dict[str, dict[str, Any]], captions: list[str], profile: Profile, limit: float) -> dict[str, float]:
    """Does brokenness imply memorization, and the reverse? For the default detector and for the paper's region."""
    rule = Rule()
    copied = torch.cat([runs[c]["copied"] for c in captions])
    flags = {"default": torch.cat([scores(runs[c], profile, "guard_default") > limit for c in captions])}
    left = []
    for c in captions:
        z = [deviations(profile, k, runs[c]["angles"], runs[c]["observed"][k]) for k in ("update", "prediction")]
        left.append((severity(*z, rule) > 0).any(0))
    flags["paper"] = torch.cat(left)
    found = {}
    for name, flagged in flags.items():
        both = (flagged & copied).sum()
        found[f"memorized_given_flagged_{name}"] = float(both / flagged.sum().clamp_min(1))
        found[f"flagged_given_memorized_{name}"] = float(both / copied.sum().clamp_min(1))
        found[f"clean_flagged_{name}"] = float((flagged & ~copied).sum() / (~copied).sum().clamp_min(1))
    return found
