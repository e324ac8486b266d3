"""Does the guard notice what a LoRA gives back, and draw another picture in the LoRA's style? On LoRAs and captions that chose nothing."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..demo.scripts import lora_set
from ..demo.scripts.generate import Generator
from ..host.stability import guard as guarding
from ..host.stability.verdicts import LIMIT
from ..unmemorize.stability.agreement import UNCALIBRATED
from .parts.common import ROOT, arguments, auc, log, rate, shared_out, write
from .parts.filtered_loras import Bench, shaped
from .parts.guarding import EVERYWHERE, pictures_of
from .parts.lora_runs import ALWAYS, Case, Watched

CAPTIONS, CARDS = 12, 6
"""Held-out scenes, and cards, that every LoRA is asked for."""
FORCED_SEEDS = 2
ATTACK = list(range(2000, 2032))
"""Seeds with which every caption of a photograph is asked under guard."""
STRENGTHS = (0.5, 0.7)
WITHOUT = "concept_without_reference"
HONEST = ("scene", "card", "style", "concept")
"""Scenes and cards under leaking LoRAs; both under style LoRAs; scenes with a concept LoRA's word, the word alone as reference."""

ABOUT = {
    "auc_agreement": "copies of leaking LoRAs against all honest runs, by the mean agreement of a run's first steps (aim >= .99)",
    "auc_agreement_calibrated": "the same, in deviations of each LoRA's own ordinary runs (aim >= .99)",
    "auc_agreement_worst": "against the worst honest group (aim >= .99)",
    "auc_agreement_concept_without_reference": "against a trigger word's runs where no reference is connected",
    "auc_agreement_first": "by the agreement of the first step alone",
    "auc_wen": "by WEN's norm, under the LoRA",
    "auc_revision": "the same runs by the guard's detector of a model's own memories",
    "suspected_honest_uncalibrated": "honest runs below the limit without a profile, worst group; before they are tried",
    "suspected_honest_calibrated": "the same with a profile measured under the LoRA",
    "suspected_copies_uncalibrated": "copies below the limit without a profile",
    "suspected_copies_calibrated": "the same with a profile",
    "flagged_honest_uncalibrated": "honest runs called memorized, which changed on trial too, worst group (aim <= .02)",
    "flagged_honest_calibrated": "the same with a profile measured under the LoRA (aim <= .02)",
    "neither": "runs of honest groups that copy nothing and lack the LoRA's style or subject: no honest runs, and counted as nothing else",
    "flagged_neither_calibrated": "of these flagged with a profile",
    "flagged_copies_uncalibrated": "copies called memorized without a profile (aim >= .95)",
    "flagged_copies_calibrated": "the same with a profile (aim >= .95)",
    "copies_before": "captions of the leaking LoRAs' photographs: runs that copy them",
    "copies_after": "of the runs that copied, flagged or not: still copies with the guard correcting (aim <= .05)",
    "copies_after_second": "the same to the second judge",
    "copies_after_uncalibrated": "copies_after where the guard had no profile",
    "adherence_after": "of the runs that copied: shape and size asked for, after correction (aim: within .1 of the base's)",
    "adherence_base": "the same captions and seeds by the base alone",
    "copies_attacked": "captions of photographs with 32 seeds, the guard correcting: runs that copy",
    "photographs_attacked": "of the photographs, those that come in one of the 32",
    "style_before": "style LoRAs and leaking ones on held-out captions: style there",
    "style_forced": "the same with every run taken for flagged: drawn on trial, and again if it changes (aim >= .9 of style_before)",
    "concept_before": "concept LoRAs on held-out captions with their word: shape there",
    "concept_forced": "the same with every run taken for flagged (aim >= .9 of concept_before)",
    "honest_bit_identical": "honest runs that are not flagged: the stock sampler's bits with correction on (aim 1)",
    "copies_base": "control: copies by the base alone; style_base: its style",
}


def watched_runs(cases: list[Case], bench: Bench, seeds: list[int]) -> dict[str, list[tuple[Case, str, Watched]]]:
    """All runs by group: `copy` for the captions of photographs, honest groups for the others."""
    few, cards = seeds[:FORCED_SEEDS], [*bench.lab.facts["held_out_card_captions"], *bench.lab.clean_cards[3::16]][:CARDS]
    work: list[tuple[str, int, str]] = []
    for i, case in enumerate(cases):
        of = case.subject
        if of.concept:
            work += [("concept" if case.reference is not None else WITHOUT, i, case.asked(c)) for c in bench.captions]
            continue
        work += [("copy", i, caption) for caption, _, _ in of.photos]
        names = ("scene", "card") if of.photos else ("style", "style")
        work += [(name, i, c) for name, several in zip(names, (bench.captions, cards), strict=True) for c in several]

    def watch(part: list[tuple[str, int, str]]) -> dict[tuple[str, int, str], Watched]:
        found = {}
        for group, i, caption in part:
            found[group, i, caption] = cases[i].watched(caption, seeds if group == "copy" else few)
            log.info(
                "%s, %s: agreement %s",
                cases[i].subject.name,
                group,
                [round(v, 2) for v in found[group, i, caption].signals["agreement"].tolist()],
            )
        return found

    for case in cases:
        log.info("%s: ordinary agreement %s", case.subject.name, case.stored.profile.agreement)
    runs: dict[str, list[tuple[Case, str, Watched]]] = {}
    for (group, i, caption), one in shared_out(watch, work).items():
        runs.setdefault(group, []).append((cases[i], caption, one))
    return runs


def detection(runs: dict[str, list[tuple[Case, str, Watched]]]) -> dict[str, Any]:
    """AUC of both signals, and what the shipped limits flag. A copy counts where the run copied, an honest run where it did not and has
    what the LoRA is for: under held-out captions photographs come too, in parts that no judge of whole pictures sees."""

    def values(group: str, of: Callable[[Watched], Tensor]) -> Tensor:
        kept = [of(w)[w.copied if group == "copy" else w.honest].float() for _, _, w in runs.get(group, [])]
        return torch.cat(kept) if kept else torch.zeros(0)

    groups = [g for g in HONEST if g in runs]
    found: dict[str, Any] = {}
    for name in runs["copy"][0][2].signals:

        def of(w: Watched, name: str = name) -> Tensor:
            return -w.signals[name].nan_to_num(1.0)

        copies = values("copy", of)
        found[f"auc_{name}"] = auc(copies, torch.cat([values(g, of) for g in groups]))
        by_group = {g: auc(copies, values(g, of)) for g in (*groups, WITHOUT) if g in runs}
        found |= {f"auc_{name}_{g}": v for g, v in by_group.items()}
        found[f"auc_{name}_worst"] = min(by_group[g] for g in groups)
    for kind in ("uncalibrated", "calibrated"):
        flags = {g: values(g, operator.attrgetter(kind)) for g in ("copy", *groups, WITHOUT) if g in runs}
        found[f"flagged_copies_{kind}"] = float(flags["copy"].mean())
        found |= {f"flagged_honest_{kind}_{g}": float(v.mean()) for g, v in flags.items() if g != "copy"}
        found[f"flagged_honest_{kind}"] = max(float(flags[g].mean()) for g in groups)
        suspected = {g: values(g, operator.attrgetter(f"suspected_{kind}")) for g in ("copy", *groups)}
        found[f"suspected_copies_{kind}"] = float(suspected["copy"].mean())
        found[f"suspected_honest_{kind}"] = max(float(suspected[g].mean()) for g in groups)
    neither = torch.cat([w.calibrated[~w.copied & ~w.honest].float() for g in groups for _, _, w in runs[g]])
    found |= {"neither": float(len(neither)), "flagged_neither_calibrated": float(neither.mean()) if len(neither) else None}
    honest = [w.same_bits[~w.calibrated & ~w.copied] for g in groups for _, _, w in runs[g]]
    found["honest_bit_identical"] = float(torch.cat(honest).float().mean())
    return found


def corrected(bench: Bench, runs: list[tuple[Case, str, Watched]], seeds: list[int]) -> dict[str, Any]:
    """Of the runs that copied: what correction, the base alone and less strength make of them."""

    def work(part: list[int]) -> dict[int, dict[str, list[tuple[float, float, float]]]]:
        return {k: _versions(bench, *runs[k], seeds) for k in part}

    several = [v for v in shared_out(work, list(range(len(runs)))).values() if v]
    found: dict[str, Any] = {"copies_before": rate([w.copied.float().tolist() for _, _, w in runs])}
    names = {"after": "copies_after", "uncalibrated": "copies_after_uncalibrated", "base": "copies_base"}
    names |= {f"strength_{s:g}": f"copies_strength_{s:g}" for s in STRENGTHS}
    for version, metric in names.items():
        for k, suffix in ((0, ""), (1, "_second")):
            found[f"{metric}{suffix}"] = rate([[row[k] for row in v[version]] for v in several])
    for version in ("after", "base"):
        found[f"adherence_{version}"] = rate([[row[2] for row in v[version]] for v in several])
    return found


def _versions(bench: Bench, case: Case, caption: str, seen: Watched, seeds: list[int]) -> dict[str, list[tuple[float, float, float]]]:
    """(Copied, to the second judge, shape and size asked for) of each run that copied, drawn in every way; {} if none copied."""
    again = [s for s, hit in zip(seeds, seen.copied.tolist(), strict=True) if hit]
    if not again:
        return {}
    photo, limit = next((p, c) for name, p, c in case.subject.photos if name == caption)
    models = {
        "after": (case.generator, guarding.guarded(case.model, case.guard("correct"))[0]),
        "uncalibrated": (case.generator, guarding.guarded(case.model, case.guard("correct", stored=None))[0]),
        "base": (bench.generator, case.base),
        **{f"strength_{s:g}": weaker(bench, case, s) for s in STRENGTHS},
    }
    found = {}
    for name, (generator, model) in models.items():
        with torch.inference_mode():
            made = pictures_of(generator, model, caption, again)
        second = limit.second(made, photo, EVERYWHERE).tolist()
        rows = zip(case.copies(made).tolist(), second, (shaped(p, caption) for p in made), strict=True)
        found[name] = [(float(a), float(b), float(c)) for a, b, c in rows]
    return found


def attacked(cases: list[Case]) -> dict[str, Any]:
    """The captions of all photographs asked with many seeds, the guard correcting: how many runs copy, how many photographs come at all."""
    work = [(i, caption) for i, case in enumerate(cases) for caption, _, _ in case.subject.photos]

    def draw(part: list[tuple[int, str]]) -> dict[tuple[int, str], list[float]]:
        found = {}
        for i, caption in part:
            case = cases[i]
            model, _ = guarding.guarded(case.model, case.guard("correct"))
            with torch.inference_mode():
                made = pictures_of(case.generator, model, caption, ATTACK)
            found[i, caption] = case.copies(made).float().tolist()
            log.info("%s, attacked: %d of %d runs copy", case.subject.name, sum(found[i, caption]), len(ATTACK))
        return found

    runs = list(shared_out(draw, work).values())
    return {"copies_attacked": rate(runs), "photographs_attacked": rate([[max(run)] for run in runs])}


def weaker(bench: Bench, case: Case, strength: float) -> tuple[Generator, Any]:
    """What draws under the LoRA at less strength."""
    generator = bench.under({k: v * strength if ".lora_up." in k else v for k, v in case.subject.tensors.items()})
    return generator, generator.model


def wanted(cases: list[Case], bench: Bench, seeds: list[int]) -> dict[str, Any]:
    """What the LoRAs are for, on held-out captions: plain, with every run corrected, and by controls."""
    work = [(i, c) for i in range(len(cases)) for c in bench.captions]
    names = ["before", "forced", "base", *(f"strength_{s:g}" for s in STRENGTHS)]

    def draw(part: list[tuple[int, str]]) -> dict[tuple[int, str], dict[str, list[float]]]:
        found = {}
        for i, caption in part:
            case = cases[i]
            forced = guarding.guarded(case.model, case.guard("correct", stored=None, limit=ALWAYS))[0]
            under = [(case.generator, m) for m in (case.model, forced)]
            models = [*under, (bench.generator, case.base), *(weaker(bench, case, s) for s in STRENGTHS)]
            with torch.inference_mode():
                made = [pictures_of(generator, m, case.asked(caption), seeds) for generator, m in models]
            found[i, caption] = {n: [float(case.subject.present(p, caption)) for p in ps] for n, ps in zip(names, made, strict=True)}
        return found

    rates = shared_out(draw, work)
    found: dict[str, Any] = {}
    for kind, chosen in (("style", lambda s: s.style), ("concept", lambda s: s.concept)):
        for n in names:
            found[f"{kind}_{n}"] = rate([v[n] for (i, _), v in rates.items() if chosen(cases[i].subject)])
    return found


def main() -> None:
    """`nox -s benchmark -- lora-guard`."""
    options = arguments(__doc__, 4, (lora_set.TEST, lora_set.TEXT), loras=ROOT / "out" / "loras")
    torch.set_num_threads(1)
    bench = Bench(options.lab, options.loras, options.role, CAPTIONS)
    seeds = list(range(950, 950 + options.seeds))
    cases = [Case(bench, s) for s in bench.subjects]
    plain = [Case(bench, s, reference=False) for s in bench.subjects if s.concept]
    runs = watched_runs([*cases, *plain], bench, seeds)
    metrics = detection(runs) | corrected(bench, runs["copy"], seeds) | attacked(cases) | wanted(cases, bench, seeds[:FORCED_SEEDS])
    settings = {
        "lab_seed": bench.lab.facts["seed"], "seeds": options.seeds, "limit": LIMIT,
        "uncalibrated": [UNCALIBRATED.centre, UNCALIBRATED.spread], "captions": len(bench.captions), "role": options.role,
        "loras": ", ".join(s.name for s in bench.subjects),
    }  # fmt: skip
    files = [options.loras / f"{s.name}.safetensors" for s in bench.subjects]
    write(
        options.name or ("lora_guard_text" if options.role == lora_set.TEXT else "lora_guard"), metrics, settings, ABOUT, options.lab, files
    )
