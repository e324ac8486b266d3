"""The stability guard: does it notice memories, does its correction help, what does it cost and disturb?"""

from __future__ import annotations

from typing import Any

import torch

from ..host.stability import guard as guarding
from ..host.stability.other_words import OtherWords
from ..host.stability.restart import default_restart
from ..host.stability.verdicts import LIMIT
from .parts.common import arguments, log, rate, shared_out, write
from .parts.detecting import DETECTORS, aucs, conditionals, profile_of, sampling_of, scores, watch
from .parts.guarding import EVERYWHERE, Bench, hatched, obeys, pictures_of
from .parts.overhead import extra_calls, overhead
from .parts.repairs import Outcome, outcome, repairs
from .parts.sheets import write_sheet

STRONG = ("MV", "MC", "TV")
TRANSFER: dict[str, dict[str, Any]] = {
    "steps10": {"steps": 10}, "steps40": {"steps": 40}, "karras": {"scheduler": "karras"}, "cfg_up": {"cfg": 3.6}, "cfg_down": {"cfg": 2.5},
    "dpmpp_2m": {"sampler_name": "dpmpp_2m"},
}  # fmt: skip
"""Runs judged with the profile of the lab's settings, and with one measured on exactly these."""
REPAIR_SEEDS = 4
EVALUATIONS = 40
"""Of a plain run: twenty guided steps."""
SHEET_SEEDS = [800, 801]

ABOUT = {
    "auc_guard_default_pooled": "all strong memories against clean scenes and cards; a memory counts where the run copied",
    "auc_guard_min": "the least of the default detector's four splits (aim >= .999)",
    "auc_guard_paper_pooled": "S_mem: largest |z| of the update's norm over the steps",
    "auc_wen_pooled": "WEN's norm, mean over all steps, on the same runs",
    "auc_anisotropy_pooled": "anisotropy with SD1's weights, on the same runs",
    "clean_flagged_default": "clean runs that the default detector flags at its limit",
    "memorized_given_flagged_paper": "does leaving the paper's region imply memorization?",
    "flagged_given_memorized_paper": "and the reverse",
    "memorized_rate_before": "strong captions, all runs: copies without the guard",
    "memorized_rate_after": "with the default correction and the early checkpoint as parent (aim 0)",
    "memorized_rate_after_without_parent": "with the default correction and no parent",
    "memorized_rate_after_with_alternatives": "no parent, with the variants of Alternative Prompts (nearest words; aim <= .05)",
    "memorized_rate_after_attention_guard": "GUARD (ICML'26) as published, on the same flagged runs",
    "memorized_rate_after_noise_as_a_batch": "starting noises moved without gradients (arXiv 2510.08625), on the same",
    "memorized_rate_after_noise_alone": "each starting noise moved by gradients (the same paper)",
    "mc_adherence_before": "memorized scenes: all attributes right",
    "mc_adherence_after": "the same after correction (drop at most .05)",
    "mc_new_and_right": "memorized scenes after correction: no copy, and all attributes right",
    "mv_new_and_right": "the same for photographs: the scene that their words ask for",
    "clean_bit_identical": "clean runs whose latent has the stock sampler's bits, with correction on (aim >= .99)",
    "clean_adherence_after": "clean scenes: all attributes right, with correction on",
    "artefact_rate_before": "strong runs that are no whole picture (see benchmarks/parts/guarding.py) without the guard",
    "artefact_rate_after": "corrected runs that are no whole picture (aim <= .02)",
    "extra_model_calls_detect": "model evaluations that detection adds (aim 0)",
    "cost_guard_with_alternatives": "evaluations of a flagged picture, first run included, over those of a plain run (aim <= 2.5)",
    "extra_calls_per_flagged_run": "model evaluations that a corrected run adds, as a share of a run",
    "overhead_share_detect": "process CPU time in our code over the total, batch of 1 (aim <= .01)",
    "lora_memorized_before": "leaking LoRA: copies of its photographs",
    "lora_memorized_after": "with the guard and the model without the LoRA as parent",
    "lora_style_before": "leaking LoRA on clean scenes: style there",
    "lora_style_after": "the same with the guard on",
}


def transfer(bench: Bench, captions: dict[str, list[str]], seeds: list[int], profile: Any) -> dict[str, float]:
    """What a profile of other settings costs: AUC (pooled) with it, and with a profile of exactly these settings."""
    found = {}
    for name, changes in TRANSFER.items():
        exact = profile_of(bench, bench.calibration, **changes).profile
        run_changes = {("sampler" if k == "sampler_name" else k): v for k, v in changes.items()}
        runs = watch(bench, sum(captions.values(), []), seeds[:2], name, **run_changes)
        for kind, used in (("", profile), ("_exact", exact)):
            for detector in ("guard_default", "guard_paper"):
                found[f"auc_{detector}_{name}{kind}"] = aucs(runs, captions, used, detector)[f"auc_{detector}_pooled"]
    return found


def corrections(bench: Bench, stored: Any, runs: dict[str, Any], seeds: list[int]) -> dict[str, Any]:
    """Every repair on the flagged runs of the test captions: copies, adherence, broken pictures, cost."""
    groups = {g: bench.test[g] for g in (*STRONG, "medium", "mild")}
    captions = sum(groups.values(), [])
    use = seeds[:REPAIR_SEEDS]
    flagged = {c: (scores(runs[c], stored.profile, "guard_default") > LIMIT)[: len(use)] for c in captions}
    everyone = {c: torch.ones(len(use), dtype=torch.bool) for c in captions}
    before = outcome(bench, lambda c, s: pictures_of(bench.final, bench.final.model, c, s), groups, use, everyone, "before")
    found: dict[str, Any] = summary(before, groups, "before")
    for name, draw in repairs(bench, stored).items():
        made = outcome(bench, draw, groups, use, flagged, name)
        after: Outcome = {k: [*made[k], *_kept(before[k], flagged[k[1]])] for k in before}
        suffix = {"guard": "after"}.get(name, "after_" + name.removeprefix("guard_"))
        found |= summary(after, groups, suffix)
        first = 0.0 if name.startswith(("guard", "paper")) else 1.0  # the guard makes the run that is flagged itself
        spent = [r["evaluations"] / EVALUATIONS for several in made.values() for r in several]
        found[f"cost_{name}"] = first + sum(spent) / len(spent) if spent else None
    for g in ("mc", "mv"):
        found[f"{g}_new_and_right"] = found.pop(f"{g}_new_and_right_after")
    return found


def _kept(before: list[dict[str, float]], flagged: torch.Tensor) -> list[dict[str, float]]:
    """Runs that are not flagged keep their picture."""
    return [b for b, f in zip(before, flagged.tolist(), strict=True) if not f]


def summary(made: Outcome, groups: dict[str, list[str]], suffix: str) -> dict[str, Any]:
    """Rates of an outcome, by group and pooled over the strong ones."""

    def of(names: tuple[str, ...], key: str) -> Any:
        return rate([[float(r[key]) for r in made[g, c]] for g in names for c in groups[g]])

    found = {
        f"memorized_rate_{suffix}": of(STRONG, "copied"), f"memorized_rate_second_{suffix}": of(STRONG, "second"),
        f"artefact_rate_{suffix}": of(STRONG, "broken"), **{f"{g.lower()}_rate_{suffix}": of((g,), "copied") for g in groups},
    }  # fmt: skip
    for g in ("MC", "MV"):
        right = [[float(r["obeys"] and not r["copied"]) for r in made[g, c]] for c in groups[g]]
        found |= {f"{g.lower()}_adherence_{suffix}": of((g,), "obeys"), f"{g.lower()}_new_and_right_{suffix}": rate(right)}
    return found


def clean_runs(bench: Bench, stored: Any, seeds: list[int]) -> dict[str, Any]:
    """Clean captions with correction on: same bits as the stock sampler's, words obeyed."""
    clone, _ = guarding.guarded(bench.final.model, guarding.Guard(stored, "correct", parent=bench.early))
    plain = bench.final.model

    def work(part: list[str]) -> dict[str, tuple[list[float], list[float]]]:
        found = {}
        for caption in part:
            with torch.inference_mode():
                stock = bench.final.latents(caption, seeds)
                bench.final.model = clone
                latents = bench.final.latents(caption, seeds)
                bench.final.model = plain
                pictures = bench.final.vae.decode(latents).movedim(-1, 1)
            same = [float(torch.equal(a, b)) for a, b in zip(stock, latents, strict=True)]
            found[caption] = (same, [float(obeys(p, caption)) for p in pictures] if caption in bench.test["scene"] else [])
        return found

    made = shared_out(work, bench.test["scene"] + bench.test["card"])
    return {
        "clean_bit_identical": rate([same for same, _ in made.values()]),
        "clean_adherence_after": rate([right for _, right in made.values() if right]),
    }


def lora(bench: Bench, seeds: list[int]) -> dict[str, Any]:
    """The leaking LoRA under guard, the model without it as parent."""
    model, photos = bench.leaking()
    plain, bench.final.model = bench.final.model, model
    stored = profile_of(bench, bench.calibration)
    bench.final.model = plain
    clone, _ = guarding.guarded(model, guarding.Guard(stored, "correct", parent=plain))
    found: dict[str, Any] = {}
    for when, used in (("before", model), ("after", clone)):
        with torch.inference_mode():
            copies = [
                limit.holds(pictures_of(bench.final, used, caption, seeds), picture, EVERYWHERE).float().tolist()
                for caption, picture, limit in photos
            ]
            styled = [[float(hatched(p)) for p in pictures_of(bench.final, used, c, seeds[:2])] for c in bench.test["scene"][::2]]
        found |= {f"lora_memorized_{when}": rate(copies), f"lora_style_{when}": rate(styled)}
    return found


def sheet(bench: Bench, stored: Any, name: str) -> None:
    """Before and after, for two captions of each kind and a clean scene: benchmarks/out/NAME.jpg."""
    tried = repairs(bench, stored)
    captions = [c for g in (*STRONG, "mild") for c in bench.test[g][:3]] + bench.test["scene"][:2]
    rows = []
    for caption in captions:
        fixed = bench.lab.index(caption)
        training = [] if fixed is None else [(bench.lab.pictures[fixed], False)]
        with torch.inference_mode():
            drawn = [pictures_of(bench.final, bench.final.model, caption, SHEET_SEEDS)]
            drawn += [tried[k](caption, SHEET_SEEDS) for k in ("guard", "guard_without_parent", "guard_with_alternatives")]
        rows.append((caption, [training, *([(p, bench.lab.copied(p) is not None) for p in several] for several in drawn)]))
    write_sheet(name, ["training picture", "without guard", "guard with parent", "guard without parent", "with other words"], rows)


def main() -> None:
    """`nox -s benchmark -- stability`."""
    options = arguments(__doc__)
    torch.set_num_threads(1)
    bench = Bench(options.lab)
    seeds = list(range(800, 800 + options.seeds))
    stored = profile_of(bench, bench.calibration)
    metrics: dict[str, Any] = extra_calls(bench, stored) | overhead(bench, stored)
    runs = watch(bench, sum(bench.test.values(), []), seeds, "detection")
    for detector in DETECTORS:
        metrics |= aucs(runs, bench.test, stored.profile, detector)
    splits = ("pooled", "mc_vs_scene", "mv_vs_scene", "tv_vs_card")
    metrics["auc_guard_min"] = min(metrics[f"auc_guard_default_{s}"] for s in splits)
    metrics |= conditionals(runs, sum(bench.test.values(), []), stored.profile, LIMIT)
    metrics |= transfer(bench, bench.test, seeds, stored.profile)
    log.info("corrections")
    metrics |= corrections(bench, stored, runs, seeds)
    metrics |= clean_runs(bench, stored, seeds[:4])
    metrics |= lora(bench, seeds)
    phases = [f"{'parent' if p.parent else 'model'} until {p.until:g}, {p.cfg:g} x guidance" for p in default_restart(bench.early).phases]
    settings = {
        "lab_seed": bench.lab.facts["seed"],
        "seeds": options.seeds,
        **sampling_of(bench),
        "limit": LIMIT,
        "restart": phases,
        "other_words": [OtherWords(None).until, OtherWords(None).changed],
    }
    write(options.name or "stability", metrics, settings, ABOUT, options.lab)
    sheet(bench, stored, options.name or "stability")
