"""Memorized neurons: does pruning silence memories, does it transfer, what does it harm, does it withstand attacks?"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch

from ..demo.scripts.demo_mask import SETTING
from ..host.neurons.masks import StoredMask, pruned
from ..host.neurons.recording import MOST_LEVELS
from ..unmemorize.neurons.activity import Activity
from ..unmemorize.neurons.masks import iou_by_layer
from .parts.attacks import attacked, extracted
from .parts.common import arguments, log, rate, write
from .parts.guarding import Bench, pictures_of
from .parts.pruning import CONTROLS, Masks, Runs, Setting, column, runs_of
from .parts.sheets import write_sheet

STRONG = ("MV", "MC", "TV")
EXTRACTION_SEEDS = 16
ATTACKED_CAPTIONS = 8
CONTROL_SEEDS = 4
DEMO = Setting(**SETTING)
PAPER = Setting()

ABOUT = {
    "memorized_rate_before": "strong captions of the evaluation: copies by the stock model",
    "memorized_rate_after_seen": "pruned with the mask of half of these captions: copies for that half (aim <= .05)",
    "memorized_rate_after_unseen": "the same for the other half: the paper's transfer claim",
    "memorized_rate_after_seen_paper": "with the paper's settings for SD1.5 (1 %, sigma >= 5.6), which the nodes default to",
    "adherence_drop": "clean scenes: all attributes right, before minus after, by caption (aim <= .02)",
    "mc_adherence_before": "memorized scenes: all attributes right",
    "mc_adherence_after": "the same after pruning",
    "artefact_rate_after": "pruned clean scenes that are no whole picture (see benchmarks/parts/guarding.py)",
    "density": "share of the target layers' weights in the mask",
    "iou_between_subsets": "masks of the two halves of the memorized captions",
    "iou_with_clean": "mask of memorized captions against that of as many ordinary ones",
    "iou_clean_clean": "masks of two sets of ordinary captions",
    "memorized_rate_after_seen_without_null": "Wanda's score alone, at equal density",
    "memorized_rate_after_seen_magnitude": "the largest weights, at equal density",
    "memorized_rate_after_seen_random_weights": "weights by chance, at equal density",
    "memorized_rate_after_seen_random_neurons": "whole columns by chance, at equal density",
    "memorized_rate_after_seen_all_zeroed": "the ceiling: all target layers zero",
    "memorized_rate_attacked": "pruned, with text embeddings optimised for 50 steps",
    "extracted_before": "captions whose picture is found from 16 seeds by near duplicates alone, stock model",
    "extracted_after": "the same, pruned",
    "recording_overhead_share": "process CPU time in our hooks over the total, one thread (aim <= .05)",
    "recording_numbers_1_prompt": "numbers kept by a recording of one prompt",
    "recording_numbers_8_prompts": "of eight prompts: the same",
    "extra_model_calls_pruned": "network calls that pruning adds to a run (aim 0)",
}


def halves(captions: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    """Every other strong caption of each group, and the rest."""
    return sum((captions[g][0::2] for g in STRONG), []), sum((captions[g][1::2] for g in STRONG), [])


def iou(a: StoredMask, b: StoredMask) -> float:
    """Mean over layers."""
    by_layer = iou_by_layer([a.mask, b.mask])
    return float(torch.stack([m[0, 1] for m in by_layer.values()]).mean())


def effect(before: Runs, after: Runs, seen: list[str], unseen: list[str], suffix: str = "") -> dict[str, Any]:
    """Copies of seen and unseen captions, adherence lost by clean scenes, adherence of memorized scenes, broken scenes."""
    was, now = (column(r, "obeys", ("scene",)) for r in (before, after))
    lost = [[sum(b[: len(a)]) / len(a) - sum(a) / len(a)] for b, a in zip(was, now, strict=True)]
    return {
        f"memorized_rate_after_seen{suffix}": rate(column(after, "copied", STRONG, seen)),
        f"memorized_rate_after_unseen{suffix}": rate(column(after, "copied", STRONG, unseen)),
        f"memorized_rate_second_after_seen{suffix}": rate(column(after, "second", STRONG, seen)),
        f"memorized_rate_second_after_unseen{suffix}": rate(column(after, "second", STRONG, unseen)),
        f"mv_adherence_after{suffix}": rate(column(after, "obeys", ("MV",))),
        f"adherence_drop{suffix}": rate(lost), f"mc_adherence_after{suffix}": rate(column(after, "obeys", ("MC",))),
        f"artefact_rate_after{suffix}": rate(column(after, "broken", ("scene",))),
    }  # fmt: skip


def overlaps(masks: Masks, seen: list[str], unseen: list[str], how: Setting) -> dict[str, float]:
    """IoU of memorized halves, of memorized and ordinary, of two ordinary sets, all of equal size."""
    size = min(len(seen), len(unseen), len(masks.ordinary) // 2)
    sets = (seen[:size], unseen[:size], masks.ordinary[:size], masks.ordinary[-size:])
    first, second, clean, other = (masks.of(s, how) for s in sets)
    return {"iou_between_subsets": iou(first, second), "iou_with_clean": iou(first, clean), "iou_clean_clean": iou(clean, other)}


def overhead(bench: Bench, masks: Masks, how: Setting) -> dict[str, float]:
    """Share of a recording's CPU time that is spent in our own functions; numbers kept for one prompt and for eight."""
    spent = [0.0]
    plain = Activity.add

    def timed(*given: Any) -> None:
        begun = time.process_time()
        plain(*given)
        spent[0] += time.process_time() - begun

    captions = bench.test["scene"][:8]
    sizes = [sum(v.numel() for v in masks.activity(c, how.place, how.low).activity.squares.values()) for c in (captions[:1], captions)]
    Activity.add = timed  # type: ignore[method-assign]
    try:
        begun = time.process_time()
        masks.activity(bench.test["scene"][8:12], how.place, how.low)
        total = time.process_time() - begun
    finally:
        Activity.add = plain  # type: ignore[method-assign]
    return {
        "recording_overhead_share": spent[0] / total,
        "recording_numbers_1_prompt": float(sizes[0]), "recording_numbers_8_prompts": float(sizes[1]),
    }  # fmt: skip


def extra_calls(bench: Bench, mask: StoredMask) -> dict[str, float]:
    """Network calls of a pruned run minus those of a stock run."""
    counted: list[int] = []
    hook = bench.final.model.model.diffusion_model.register_forward_pre_hook(lambda *_: counted.append(1))
    try:
        totals = []
        for model in (bench.final.model, pruned(bench.final.model, mask, 1.0)):
            counted.clear()
            pictures_of(bench.final, model, bench.test["scene"][0], [900])
            totals.append(len(counted))
    finally:
        hook.remove()
    return {"extra_model_calls_pruned": float(totals[1] - totals[0])}


def sheet(bench: Bench, name: str, mask: StoredMask, captions: list[str]) -> None:
    """Stock and pruned pictures side by side."""
    rows = []
    with torch.inference_mode():
        for caption in captions:
            models = (bench.final.model, pruned(bench.final.model, mask, 1.0))
            cells = [[(p, bench.lab.copied(p) is not None) for p in pictures_of(bench.final, m, caption, [900, 901])] for m in models]
            rows.append((caption, cells))
    log.info("%s", write_sheet(name, ["stock", "pruned"], rows))


def main() -> None:
    """`nox -s benchmark -- neurons`."""
    options = arguments(__doc__)
    torch.set_num_threads(1)
    bench = Bench(options.lab)
    masks = Masks(bench, bench.calibration)
    seeds = list(range(900, 900 + options.seeds))
    seen, unseen = halves(bench.test)
    groups = {g: bench.test[g] for g in (*STRONG, "scene")}
    mask = masks.of(seen, DEMO)
    before = runs_of(bench, None, groups, seeds, "stock")
    metrics: dict[str, Any] = {
        "memorized_rate_before": rate(column(before, "copied", STRONG)),
        "memorized_rate_second_before": rate(column(before, "second", STRONG)),
        "mc_adherence_before": rate(column(before, "obeys", ("MC",))), "mv_adherence_before": rate(column(before, "obeys", ("MV",))),
        "density": mask.mask.density(),
    }  # fmt: skip
    metrics |= effect(before, runs_of(bench, mask, groups, seeds, "pruned"), seen, unseen)
    few = seeds[:CONTROL_SEEDS]
    others = {name: masks.control(mask, choose) for name, choose in CONTROLS.items()}
    others["without_null"] = masks.without_null(seen, DEMO, mask.mask.density())
    others["contrast"] = masks.of(seen, dataclasses.replace(DEMO, score="contrast" if DEMO.score == "wanda" else "wanda"))
    others["paper"] = masks.of(seen, PAPER)
    for name, other in others.items():
        metrics |= effect(before, runs_of(bench, other, groups, few, name), seen, unseen, f"_{name}")
        metrics[f"density_{name}"] = other.mask.density()
    metrics |= overlaps(masks, seen, unseen, DEMO)
    log.info("attacks")
    clone = pruned(bench.final.model, mask, 1.0)
    metrics["memorized_rate_attacked"] = rate(list(attacked(bench, clone, seen[:: max(1, len(seen) // ATTACKED_CAPTIONS)], few).values()))
    many = list(range(950, 950 + EXTRACTION_SEEDS))
    for when, model in (("before", bench.final.model), ("after", clone)):
        metrics[f"extracted_{when}"] = rate(list(extracted(bench, model, seen, many).values()))
    metrics |= overhead(bench, masks, DEMO) | extra_calls(bench, mask)
    sheet(bench, options.name or "neurons", mask, [*seen[::4], *unseen[::4], *bench.test["scene"][:3]])
    settings = {
        "lab_seed": bench.lab.facts["seed"], "seeds": options.seeds, "mask": dataclasses.asdict(DEMO), "paper": dataclasses.asdict(PAPER),
        "most_levels": MOST_LEVELS, "trigger_prompts": len(seen),
    }  # fmt: skip
    write(options.name or "neurons", metrics, settings, ABOUT, options.lab)
