"""Which definition, noise level, probes and recorded steps show templates best? On the tuning captions only."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from ...demo.recipe.lab import load_lab
from ...host.curvature.measuring import PAPER, RECOMMENDED, How, measure_map
from ...host.curvature.recording import record, recorded_map
from ...unmemorize.pictures.heatmap import smooth
from ..curvature import Models, template_masks
from ..parts.common import arguments, log, shared_out, tuning_and_test
from ..parts.rows import Rows
from ..parts.scoring import best_global_iou, mean_auroc

SEEDS = [500, 501, 502, 503]
SIGMAS = ((0.1,), (0.2,), (0.4,), (0.8,), (1.2,), (1.6,), (2.4,), (3.2,), (0.4, 1.6), (0.8, 1.6))
METHODS = ("dh_0", "dh_~", "dh_0 + dh_~", "ds_~")
PROBES = (4, 8, 16, 32)
WINDOWS = ((0.0, 0.1), (0.0, 0.3), (0.0, 0.5), (0.3, 0.7), (0.7, 1.0), (1.0, 1.0), (0.0, 1.0))
SMOOTHING = (0, 3)


def main() -> None:
    """`nox -s sweep -- curvature`: rows are kept as they come, a second call carries on."""
    options = arguments(__doc__)
    torch.set_num_threads(1)
    lab, models = load_lab(options.lab), Models(options.lab)
    tuning, _ = tuning_and_test(list(template_masks(lab)))
    masks = template_masks(lab)
    truth = [masks[c] for c in tuning]
    rows = Rows("curvature", f"curvature-{options.name or options.lab.name}")
    for name, settings, measure in trials():
        if rows.has(name):
            continue

        def work(part: list[str], measure: Any = measure) -> dict[str, Tensor]:
            with torch.inference_mode():
                return {c: measure(models, c).clone() for c in part}

        found = shared_out(work, tuning)
        scores: dict[str, float] = {}
        for width in SMOOTHING:
            shown = [smooth(found[c], width) for c in tuning]
            suffix = f"_smooth{width}" if width else ""
            scores[f"iou{suffix}"] = round(best_global_iou(shown, truth)["value"], 4)
            scores[f"auroc{suffix}"] = round(mean_auroc(shown, truth)["value"], 4)
        rows.add(name, {**settings, **scores})
        log.info("%-45s iou %.3f auroc %.3f", name, scores["iou"], scores["auroc"])


def trials() -> list[tuple[str, dict[str, Any], Any]]:
    """(name, settings, function of the models and a caption) of everything tried."""
    found: list[tuple[str, dict[str, Any], Any]] = []
    for method, sigmas in itertools.product(METHODS, SIGMAS):
        found.append(_measured(How(method, sigmas, "forward difference", 16, structured=True, noises=1)))
    for probes, structured in itertools.product(PROBES, (True, False)):
        found.append(_measured(How("dh_0", RECOMMENDED.sigmas, "forward difference", probes, structured, 1)))
    found.append(_measured(How("dh_0", RECOMMENDED.sigmas, "forward difference", 4, structured=True, noises=4)))
    found.append(_measured(How("dh_0", RECOMMENDED.sigmas, "central difference", 16, structured=True, noises=1)))
    found.append(_measured(PAPER))
    for start, end in WINDOWS:
        found.append((f"ds_0 recorded {start:g}-{end:g}", {"start": start, "end": end}, _recorded(start, end)))
    return found


def _measured(how: How) -> tuple[str, dict[str, Any], Any]:
    def measure(models: Models, caption: str) -> Tensor:
        latent, _ = models.drawn(caption, SEEDS, {})
        positive, empty = models.final.condition(caption), models.final.condition("")
        return measure_map(models.final.model, positive, empty, latent, how, 0, models.early)["values"]

    kind = "structured" if how.structured else "random"
    name = f"{how.method} by {how.estimator} at {', '.join(f'{s:g}' for s in how.sigmas)}, {how.probes} {kind} x {how.noises}"
    return (
        name,
        {"method": how.method, "estimator": how.estimator, "sigmas": list(how.sigmas), "probes": how.probes, "structured": how.structured},
        measure,
    )


def _recorded(start: float, end: float) -> Any:
    def measure(models: Models, caption: str) -> Tensor:
        plain = models.final.model
        models.final.model, recording = record(plain, start, end)
        try:
            return recorded_map(recording, {"samples": models.final.latents(caption, SEEDS)})["values"]
        finally:
            models.final.model = plain

    return measure
