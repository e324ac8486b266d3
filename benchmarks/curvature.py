"""Where is it memorized? Every map against the templates' masks, as a detector, and at what cost."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..demo.recipe.lab import Lab, load_lab
from ..demo.scripts.generate import Generator
from ..host.core.progress import Progress
from ..host.curvature.bright_ending import bright_ending
from ..host.curvature.measuring import PAPER, RECOMMENDED, How, measure_map, read
from ..host.curvature.recording import RECORD_END, RECORD_START, record, recorded_map
from ..unmemorize.curvature.differences import raw_curvature
from ..unmemorize.curvature.threshold import clean_threshold, verdict_of
from .parts.common import arguments, iou, log, rate, shared_out, tuning_and_test, write
from .parts.probing import cost
from .parts.scoring import auc_of_captions, best_global_iou, iou_at, mean_auroc
from .parts.sheets import heat_cell, write_sheet

METHODS = {"dh0": "dh_0", "dhb": "dh_~", "dsb": "ds_~"}
"""Names in the results and the node's methods, measured as the node recommends; `best` is the node's default method."""
NAMES = (*METHODS, "ds0", "ds0_last", "be", "raw")
BEST = next(name for name, method in METHODS.items() if method == RECOMMENDED.method) if RECOMMENDED.method in METHODS.values() else "best"
CLEAN_STRIDE = 12
"""Of the clean captions every twelfth is tested, and the ones after them calibrate the threshold."""


class Models:
    """The lab's final model, its early one, and pictures as the templates make them."""

    def __init__(self, folder: Path) -> None:
        self.final = Generator(folder / "checkpoint.safetensors")
        self.early = Generator(folder / "early.safetensors").model

    def drawn(self, caption: str, seeds: list[int], windows: dict[str, tuple[float, float]]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Finished LATENT of a caption, and the ds_0 maps recorded in each window of the run."""
        plain, recordings = self.final.model, {}
        for name, window in windows.items():
            self.final.model, recordings[name] = record(self.final.model, *window)
        try:
            latent = {"samples": self.final.latents(caption, seeds)}
        finally:
            self.final.model = plain
        return latent, {name: recorded_map(r, latent)["values"] for name, r in recordings.items()}

    def maps(self, caption: str, seeds: list[int], names: tuple[str, ...]) -> dict[str, Tensor]:
        """Signed maps [n, 16, 16] of a caption's generations."""
        latent, found = self.drawn(caption, seeds, {"ds0": (RECORD_START, RECORD_END), "ds0_last": (1.0, 1.0)})
        model, positive, empty = self.final.model, self.final.condition(caption), self.final.condition("")

        def measured(how: How) -> Tensor:
            return measure_map(model, positive, empty, latent, how, 0, self.early)["values"]

        for name in names:
            if name == "be":
                found[name] = bright_ending(model, self.final.clip, caption, latent, 0)["values"]
            elif name == "raw":
                found[name] = raw(model, positive, latent)
            elif name == "paper":
                found[name] = measured(PAPER)
            elif name not in found:
                found[name] = measured(dataclasses.replace(RECOMMENDED, method=METHODS.get(name, RECOMMENDED.method)))
        return found


def raw(model: Any, positive: Any, latent: dict[str, Any]) -> Tensor:
    """diag(-H_c) alone: b^2 times it is the sum over channels of 1 - rho_c."""
    channels = latent["samples"].shape[1]
    parts = read(model, positive, None, latent, RECOMMENDED, (1.0,), 0, Progress(1)).parts
    return channels * raw_curvature(torch.stack(parts).mean(0) / channels)


def collect(models: Models, captions: list[str], seeds: list[int], names: tuple[str, ...], what: str) -> dict[str, dict[str, Tensor]]:
    """Maps of every caption, in two processes."""

    def work(part: list[str]) -> dict[str, dict[str, Tensor]]:
        found = {}
        for i, caption in enumerate(part):
            with torch.inference_mode():
                found[caption] = {k: v.clone() for k, v in models.maps(caption, seeds, names).items()}
            if i % 5 == 0:
                log.info("%s: %d of %d", what, i, len(part))
        return found

    return shared_out(work, captions)


def template_masks(lab: Lab) -> dict[str, Tensor]:
    """Caption -> fixed latent pixels [16, 16] of every template."""
    return {
        f["caption"]: lab.masks[i].reshape(16, 8, 16, 8).mean((1, 3)) > 0.5 for i, f in enumerate(lab.facts["fixed"]) if f["group"] == "TV"
    }


def localisation(found: dict[str, dict[str, Tensor]], masks: dict[str, Tensor], names: tuple[str, ...]) -> dict[str, Any]:
    """iou_*_tv and auroc_*_tv of every map, and of calling every pixel fixed."""
    truth = [masks[c] for c in masks]
    everything = torch.stack(truth)
    metrics: dict[str, Any] = {"iou_allones_tv": iou(torch.ones_like(everything), everything)}
    for name in names:
        maps = [found[c][name] for c in masks]
        metrics[f"iou_{name}_tv"] = best_global_iou(maps, truth)
        metrics[f"auroc_{name}_tv"] = mean_auroc(maps, truth)
    return metrics


def detection(found: dict[str, dict[str, Tensor]], groups: dict[str, list[str]], names: tuple[str, ...]) -> dict[str, Any]:
    """auc_detect_*: mean of the map, strong memories against clean prompts."""
    metrics = {}
    for name in names:
        means = {g: [found[c][name].clamp_min(0).mean((1, 2)) for c in captions] for g, captions in groups.items()}
        metrics[f"auc_detect_{name}_pooled"] = auc_of_captions(means["MV"] + means["MC"] + means["TV"], means["scene"] + means["card"])
        metrics[f"auc_detect_{name}_mc_vs_scene"] = auc_of_captions(means["MC"], means["scene"])
        metrics[f"auc_detect_{name}_mv_vs_scene"] = auc_of_captions(means["MV"], means["scene"])
    return metrics


def calibrated(
    models: Models, lab: Lab, found: dict[str, dict[str, Tensor]], masks: dict[str, Tensor], groups: dict[str, list[str]]
) -> dict[str, Any]:
    """What users get: the default map at the threshold that clean captions give, on templates and on other clean captions; the badge."""
    reference = lab.clean_scenes[1::CLEAN_STRIDE][:12] + lab.clean_cards[1::CLEAN_STRIDE][:12]
    maps = collect(models, reference, [600], (BEST,), "calibration")
    pooled = torch.cat([maps[c][BEST] for c in reference])
    threshold = clean_threshold(pooled, torch.ones_like(pooled))
    areas = {g: [found[c][BEST].gt(threshold).float().mean((1, 2)) for c in captions] for g, captions in groups.items()}
    areas["clean"] = areas.pop("scene") + areas.pop("card")
    badge = lambda several, word: rate([[float(verdict_of(float(x)) == word) for x in a] for a in several])  # noqa: E731
    metrics: dict[str, Any] = {
        "iou_calibrated_tv": iou_at([found[c][BEST] for c in masks], list(masks.values()), threshold),
        "clean_area_calibrated": float(torch.cat(areas["clean"]).mean()),
        "badge_clean_on_clean": badge(areas["clean"], "clean"),
    }
    return metrics | {f"badge_memorized_on_{g.lower()}": badge(several, "memorized") for g, several in areas.items()}


def sheet(models: Models, lab: Lab, found: dict[str, dict[str, Tensor]], captions: list[str], seed: int, name: str) -> None:
    """Picture, mask and every map of one generation a caption, each kind of map on a scale of its own: benchmarks/out/NAME.jpg."""
    masks = template_masks(lab)
    tops = {k: float(torch.cat([found[c][k] for c in captions]).clamp_min(0).quantile(0.99)) for k in (*NAMES, BEST)}
    rows = []
    for caption in captions:
        picture = models.final.pictures(caption, [seed])[0]
        fixed = 0.0 if lab.index(caption) is None else 1.0  # photographs and memorized scenes are fixed whole, clean prompts nowhere
        truth = heat_cell(masks[caption].float() if caption in masks else torch.full((16, 16), fixed), 1.0)
        rows.append((caption, [[(picture, False)], [truth], *([heat_cell(found[caption][k][0], tops[k])] for k in tops)]))
    write_sheet(name, ["picture", "mask", *tops], rows)


ABOUT = {
    "iou_allones_tv": "calling every pixel fixed: the floor",
    "iou_best_tv": "the node's default; best global IoU at latent resolution, oracle threshold (aim >= .90, >= allones + .25)",
    "iou_paper_tv": "the preset `paper`: sigma 0.0413, 16 random probes, reverse mode",
    "iou_ds0_tv": "recorded while sampling, in the node's window of early steps",
    "iou_ds0_last_tv": "recorded at the last step, as published",
    "iou_be_tv": "Bright Ending, the published baseline",
    "iou_raw_tv": "raw curvature diag(-H_c)",
    "auroc_best_tv": "per pixel, mean over pictures (aim >= .95)",
    "iou_calibrated_tv": "the default map at the threshold of 24 clean captions: no oracle",
    "clean_area_calibrated": "share of the pixels of other clean captions above that threshold (.005 by design)",
    "badge_clean_on_clean": "clean pictures that Map Threshold's badge calls clean (at most 2 times the share of hot pixels expected)",
    "badge_memorized_on_clean": "clean pictures that it calls memorized (from 10 times on)",
    "badge_memorized_on_mv": "memorized photographs that it calls memorized; _mc: memorized scenes; _tv: templates",
    "evals_r99_paper": "model evaluations a picture until r = .99 with the exact diagonal: random probes, reverse mode (backward = 2)",
    "evals_r99_best": "the same for the node's default estimator and probes, really run at every count",
    "cost_ratio_r99": "best / paper (aim <= .25)",
    "r_default": "r of the node's default with the exact diagonal",
    "evals_default": "model evaluations of the node's default",
    "peak_memory_ratio_fd": "peak live bytes above weights of the gradient-free map / of one guided evaluation (aim <= 1.1)",
    "peak_memory_ratio_vjp": "the same for reverse mode",
}


def main() -> None:
    """`nox -s benchmark -- curvature`."""
    options = arguments(__doc__)
    torch.set_num_threads(1)
    lab, models = load_lab(options.lab), Models(options.lab)
    seeds = list(range(200, 200 + options.seeds))
    everything = template_masks(lab)
    masks = {c: everything[c] for c in tuning_and_test(list(everything))[1]}
    groups = {g: [f["caption"] for f in lab.facts["fixed"] if f["group"] == g and f["degree"] == "strong"] for g in ("MV", "MC")}
    groups |= {
        "TV": list(masks),
        "scene": lab.clean_scenes[::CLEAN_STRIDE],
        "card": lab.clean_cards[::CLEAN_STRIDE],
    }
    found = collect(models, list(masks), seeds, (*NAMES, BEST, "paper"), "templates")
    found |= collect(models, sum((groups[g] for g in ("MV", "MC", "scene", "card")), []), seeds, (*NAMES, BEST), "detection")
    for maps in found.values():
        maps["best"] = maps[BEST]
    metrics = localisation(found, masks, (*NAMES, "best", "paper")) | detection(found, groups, (*NAMES, "best"))
    metrics |= calibrated(models, lab, found, masks, groups)
    shown = [*groups["TV"][:5], *groups["MV"][:2], *groups["MC"][:2], *groups["scene"][:2], *groups["card"][:1]]
    sheet(models, lab, found, shown, seeds[0], options.name or "curvature")
    metrics |= cost(models.final, lab)
    settings = {"lab_seed": lab.facts["seed"], "seeds": options.seeds, **dataclasses.asdict(RECOMMENDED)}
    write(options.name or "curvature", metrics, settings, ABOUT, options.lab)
