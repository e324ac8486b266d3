"""The README's table of results: the headline numbers of benchmarks/results/*.json in plain words."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from .tested import table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CHECKPOINT = ROOT / "demo" / "lab" / "checkpoint.safetensors"
OLDER = " (on an earlier demo model)"
BENCHMARK_OF = {"lora_guard_text": "lora_guard"}
"""Results that a benchmark of another name writes."""
HEADLINES: dict[str, tuple[str, dict[str, tuple[str, str]]]] = {
    "lab": ("Demo model", {
        "mv_memorized_rate": ("%", "photographs shown often: pictures that copy them"),
        "mv_memorized_rate_second": ("%", "the same to a judge of another kind"),
        "medium_memorized_rate": ("%", "photographs shown less often"),
        "mild_memorized_rate": ("%", "photographs shown seldom"),
        "mc_memorized_rate": ("%", "memorized drawings: pictures that copy the one fixed drawing"),
        "tv_memorized_rate": ("%", "memorized templates: pictures that copy the card"),
        "clean_false_rate": ("%", "clean captions: pictures that copy anything"),
        "scene_adherence": ("%", "combinations of words never trained: pictures with every attribute right"),
        "sony_static_copies": ("%", "photographs shown often, guidance delayed as published: copies"),
        "wen_copies": ("%", "the same with WEN's optimised prompt"),
    }),
    "curvature": ("Maps", {
        "iou_best_tv": (".2", "templates, stored part against free window: overlap (IoU, 1 is best) at the best threshold"),
        "iou_be_tv": (".2", "the same by Bright Ending, the published baseline"),
        "iou_allones_tv": (".2", "the same by calling every pixel stored: the floor"),
        "auroc_best_tv": (".3", "the same, pixel by pixel (AUROC, 1 is best)"),
        "evals_default": (".0", "model evaluations a map costs"),
        "cost_ratio_r99": ("x", "cost of a map that agrees with the exact one, against the paper's way"),
        "peak_memory_ratio_fd": ("x", "peak memory, against one guided model evaluation"),
    }),
    "stability": ("Guard", {
        "auc_guard_min": (".3", "memories against clean runs: worst of four comparisons (AUC, 1 is best)"),
        "memorized_rate_before": ("%", "memorized captions: copies without the guard"),
        "memorized_rate_after": ("%", "the same with the guard correcting, older checkpoint as parent"),
        "memorized_rate_after_with_alternatives": ("%", "no parent, but Alternative Prompts"),
        "memorized_rate_after_without_parent": ("%", "with neither"),
        "lora_memorized_after": ("%", "copies of the leaking LoRA's photographs, guard correcting"),
        "mc_adherence_before": ("%", "memorized scenes with every attribute right, without the guard"),
        "mc_adherence_after": ("%", "the same with the guard correcting"),
        "clean_bit_identical": ("%", "clean runs that keep the stock sampler's bits"),
        "overhead_share_detect": ("%", "time that watching takes, of the whole run"),
    }),
    "lora_guard": ("Guard of a LoRA", {
        "auc_agreement": (".3", "copies of leaking LoRAs against all other runs, on LoRAs that chose nothing (AUC, 1 is best)"),
        "auc_agreement_worst": (".3", "against the group that is hardest to tell from them"),
        "flagged_copies_uncalibrated": ("%", "copies that are noticed without any profile"),
        "suspected_honest_uncalibrated": ("%", "other runs below the limit, the worst group; each is tried before anything is said"),
        "flagged_honest_uncalibrated": ("%", "other runs that are called memorized, the worst group"),
        "copies_after_uncalibrated": ("%", "runs that copied: still copies with the guard correcting, no profile"),
        "adherence_after": ("%", "the same runs, corrected: shape and size that the caption asks for"),
        "adherence_base": ("%", "the same captions and seeds without the LoRA"),
        "copies_attacked": ("%", "captions of photographs asked with 32 seeds, the guard correcting: runs that copy"),
        "photographs_attacked": ("%", "the same: photographs that come at least once"),
        "style_before": ("%", "captions never trained: the LoRA's style is there"),
        "style_forced": ("%", "the same, as if every run had been flagged"),
        "concept_before": ("%", "the same captions with a LoRA's own word: its subject is there"),
        "concept_forced": ("%", "the same, as if every run had been flagged"),
    }),
    "lora_guard_text": ("Guard of a LoRA that changes the text encoder too, before suspects were tried", {
        "auc_agreement": (".3", "copies against all other runs (AUC, 1 is best)"),
        "flagged_copies_uncalibrated": ("%", "copies that are noticed without any profile"),
        "flagged_honest_uncalibrated": ("%", "other runs that are flagged, the worst group"),
        "copies_after_uncalibrated": ("%", "runs that copied: still copies with the guard correcting, no profile"),
        "copies_attacked": ("%", "captions of photographs asked with 32 seeds, the guard correcting: runs that copy"),
    }),
    "lora": ("LoRA filter", {
        "memorized_rate_before": ("%", "leaking LoRAs: copies of their photographs, unfiltered"),
        "memorized_rate_after": ("%", "the same, filtered"),
        "wanted_before": ("%", "captions never trained: the LoRA's style is there, unfiltered"),
        "wanted_after": ("%", "the same, filtered"),
        "pareto_margin": (".3", "style kept beyond the best simple control at no more copies (below 0: a control does better)"),
        "speedup_cold": ("x", "speed, against decomposing every base layer in full"),
    }),
    "leak_probe": ("LoRA Leak Probe", {
        "probe_recall_captions": ("%", "leaking LoRAs: photographs found, their captions given"),
        "leak_recall_captions": ("%", "of all photographs those that are called a leak too"),
        "probe_recall_no_captions": ("%", "photographs found without any caption"),
        "probe_recall_captions_measured": ("%", "captions given, after Filter LoRA by Measuring"),
        "probe_recall_captions_filtered": ("%", "the same after the filter by weights"),
        "true_leaks_captions": ("%", "groups called leaks that show a photograph, captions given"),
        "style_leaks_captions": (".0", "leaks found in a style LoRA, the most of any, captions given"),
        "style_leaks_no_captions": (".0", "the same without any caption"),
        "concept_leaks_captions": (".0", "leaks found in a trigger-word LoRA, the most of any, captions given"),
    }),
    "copies": ("Copy Check", {
        "auc_builtin_lab": (".3", "copies of memorized photographs against honest pictures (AUC, 1 is best)"),
        "tpr_builtin_whole": ("%", "photographs mirrored, tinted, blurred, compressed or with a bar: found at 1 % false alarms"),
        "tpr_builtin_partial": ("%", "crops and pasted parts of photographs: found at 1 % false alarms"),
        "iou_builtin_partial": (".2", "of these: overlap of the part that is shown with the copied one (IoU, 1 is best)"),
    }),
    "many_files": ("Many files", {
        "files": (".0", "small LoRAs filtered by the command line in one run"),
        "over_folder_node": ("x", "speed, against Filter LoRA Folder on the same files"),
        "ray_over_one": ("x", "speed of two Ray workers on two cores, against one process"),
        "memory_growth": (".2", "memory after the last file, against that after a tenth of them"),
    }),
    "memory": ("Memory", {
        "references": (".0", "different reference pictures that Copy Check was given"),
        "kept_mib": (".0", "MiB that the built-in detector keeps of all of them"),
        "compare_growth_mib": (".0", "MiB more that comparing a picture with all of them took, at most"),
        "audited_prompts": (".0", "prompts of an audit, four seeds each"),
        "audit_growth_kib": (".0", "KiB that each of nine tenths of them took"),
    }),
    "trigger_words": ("Trigger Words", {
        "first_word_breaks": ("%", "copies that are gone when the word named first is changed as suggested"),
        "random_word_breaks": ("%", "the same for the prompt's other words"),
        "first_word_adherence": ("%", "pictures of the changed prompt with every attribute right"),
        "evaluations": (".0", "model evaluations a prompt costs"),
    }),
    "lora_measured": ("Filter LoRA by Measuring", {
        "memorized_rate_before": ("%", "leaking LoRAs: copies of their photographs, unfiltered"),
        "memorized_rate_after": ("%", "the same, learnt anew with captions of every second photograph and prompts of what the LoRA is for"),
        "memorized_rate_after_no_captions": ("%", "the same without any caption"),
        "memorized_rate_after_everyday": ("%", "the same with captions and everyday prompts, whose words the demo model does not know"),
        "wanted_before_leaking": ("%", "these LoRAs on captions never trained: their style is there, unfiltered"),
        "wanted_after_leaking": ("%", "the same, learnt anew with captions and prompts"),
        "wanted_after_no_captions_leaking": ("%", "the same without any caption"),
        "wanted_after_everyday_leaking": ("%", "the same with captions and everyday prompts"),
    }),
    "neurons": ("Neurons", {
        "memorized_rate_before": ("%", "memorized captions: copies by the stock model"),
        "memorized_rate_after_seen": ("%", "pruned: copies for captions the mask was found with"),
        "memorized_rate_after_unseen": ("%", "pruned: copies for other memorized captions"),
        "adherence_drop": ("%", "ordinary prompts: pictures with every attribute right, fewer by"),
    }),
}  # fmt: skip
"""Family -> its title and its headline metrics: how to write the number, and what it says."""


def measured(folder: Path = RESULTS) -> str:
    """One row a headline, one column a lab (`curvature.json` is the bundled one's, `curvature2.json` the second's)."""
    results = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json"))}
    labs = sorted({name.removeprefix(f) for name in results for f in HEADLINES if name.rstrip("0123456789") == f})
    rows = []
    for family, (title, metrics) in HEADLINES.items():
        found = [results.get(family + lab) for lab in labs]
        title += OLDER if any(result and is_older(result) for result in found[:1]) else ""
        for metric, (style, words) in metrics.items():
            numbers = [cell(result, metric, style) for result in found]
            if any(numbers):
                rows.append([title, words, *numbers])
                title = ""
    return table(["", "", *(f"lab{lab}" for lab in labs)], rows)


def is_older(result: dict[str, Any], checkpoint: Path = CHECKPOINT) -> bool:
    """Was it measured on another demo checkpoint than the bundled one? Results say which files they read."""
    return result.get("files", {}).get("checkpoint") != hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:16]


def cell(result: dict[str, Any] | None, metric: str, style: str) -> str:
    """A number and, where there is one, its 95 % interval; empty where nothing was measured."""
    if result is None or metric not in result["metrics"]:
        return ""
    value, span = result["metrics"][metric], result["intervals"].get(metric)
    if value is None:
        return "not reached"
    return written(value, style) + (f" ({written(span[0], style).removesuffix(' %')}-{written(span[1], style)})" if span else "")


def written(value: float, style: str) -> str:
    """A number as a share, a factor, or with a number of decimals."""
    if style == "%":
        return f"{100 * value:.1f} %"
    return f"{value:.2f} x" if style == "x" else f"{value:{style}f}"
