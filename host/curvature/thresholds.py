"""A map as yes or no: a threshold from prompts that are not memorized, and its use."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...unmemorize.curvature.differences import METHODS
from ...unmemorize.curvature.maps import check_map, check_values, per_channel
from ...unmemorize.curvature.threshold import LEAST_PROMPTS, QUANTILE, clean_threshold, otsu, verdict_of
from ...unmemorize.pictures.pages import counted
from ..core import facts, store
from ..core.identity import differences
from ..core.progress import Progress
from ..core.prompts import encoded
from ..core.sampling import draw, first_of
from ..core.seeds import later_seed
from ..core.settings import check_sampling
from .circumstances import IDENTITIES, check_same
from .circumstances import OPTIONAL as CIRCUMSTANCES
from .measuring import ESTIMATORS, How, check, measure_map

THRESHOLDS = store.user_store("map threshold", "thresholds")
OPTIONAL = facts.Fact("a whole number, true, false or null", lambda v: v is None or isinstance(v, bool | int))
FACTS = {
    "quantile": facts.number(0.5, 1 - 1e-6), "prompts": facts.whole(LEAST_PROMPTS, 10**9), "height": facts.COUNT, "width": facts.COUNT,
    "settings": facts.Fact("names and values", lambda v: isinstance(v, dict)),
}  # fmt: skip
SETTINGS = {
    "method": facts.one_of(METHODS), "sigmas": facts.several(facts.number(0, 1e9), 1, 1000), "probes": OPTIONAL, "structured": OPTIONAL,
    "noises": facts.COUNT, "estimator": facts.text(), "model": facts.IDENTITY,
}  # fmt: skip
"""Of a file; `probes` and `structured` are null for differences of scores."""
COMPARED = ("method", "sigmas", "probes", "structured", "noises", "estimator")
"""Settings that must agree between a calibration and a map."""


def calibrate(
    model: Any, clip: Any, latent: dict[str, Any], prompts: list[str], how: How, sampling: dict[str, Any], baseline: Any = None
) -> dict[str, Any]:
    """Generate a picture of each prompt, map it, and pool the values: threshold, its settings, the resolution.

    Raises ValueError on bad input, before any work.
    """
    check_sampling(sampling)
    prompts = list(dict.fromkeys(prompts))
    if len(prompts) < LEAST_PROMPTS:
        raise ValueError(
            f"{counted(len(prompts), 'different prompt')} came in, at least {LEAST_PROMPTS} are needed for a {QUANTILE:.1%} threshold. "
            "Write ordinary prompts that are surely not memorized, one a line."
        )
    latent = first_of(model, latent)
    (empty,) = encoded(clip, [""])
    check(model, empty, empty, latent["samples"], how, baseline)
    progress = Progress(len(prompts) * sampling["steps"])
    maps, regions = [], []
    for i, prompt in enumerate(prompts):
        (positive,) = encoded(clip, [prompt])
        use = {**sampling, "seed": later_seed(sampling["seed"], i)}
        samples = draw(model, positive, empty, latent, use, progress.advance)
        found = measure_map(model, positive, empty, {**latent, "samples": samples}, how, use["seed"], baseline)
        if found["settings"]["estimator"] in ESTIMATORS:  # one that fell back once is not tried again
            how = dataclasses.replace(how, estimator=found["settings"]["estimator"])
        maps.append(per_channel(found))
        regions.append(found["region"])
    height, width = maps[0].shape[1:]
    measured = found["settings"]
    beside = {k: measured[k] for k in CIRCUMSTANCES if k in measured}
    return {
        "threshold": clean_threshold(torch.cat(maps), torch.cat(regions)), "quantile": QUANTILE, "prompts": len(prompts),
        "height": height, "width": width, "settings": {k: measured.get(k) for k in (*COMPARED, "model")} | beside,
    }  # fmt: skip


def as_file(calibration: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata, as `read_threshold` expects them."""
    noted = {"kind": THRESHOLDS.noun, **{k: v for k, v in calibration.items() if k != "threshold"}}
    return {"threshold": torch.tensor(calibration["threshold"], dtype=torch.float64)}, store.facts_as_metadata(noted)


def read_threshold(path: Path) -> dict[str, Any]:
    """A calibration from a file; ValueError if it is none."""
    file, (tensors, found) = path.name, store.read(path, THRESHOLDS.noun)
    kept = facts.checked(file, found, FACTS)
    wanted = SETTINGS | {k: fact for k, fact in CIRCUMSTANCES.items() if k in kept["settings"]}
    kept["settings"] = facts.checked(file, kept["settings"], wanted)
    return {"threshold": float(facts.tensor(file, tensors, "threshold", (), low=0.0)), **kept}


def save_threshold(calibration: Any, name: str) -> str:
    """Keep a calibration in the user's folder; returns the name it got. ValueError on a bad name, or if it is no calibration."""
    check_kind(calibration)
    return store.save(THRESHOLDS, name, *as_file(calibration))


def load_threshold(name: str) -> dict[str, Any]:
    """A kept calibration, or a bundled one as demo/...; ValueError if there is none of this name."""
    return read_threshold(store.find(THRESHOLDS, name))


def fitting(found: dict[str, Any]) -> dict[str, Any] | None:
    """A kept calibration, the user's first, that was measured on this map's model as the map was; None if there is none."""
    for path in store.paths(THRESHOLDS).values():
        try:
            kept = read_threshold(path)
            check_calibration(kept, found)
        except ValueError:
            continue
        return kept
    return None


def report_of(calibration: dict[str, Any]) -> dict[str, Any]:
    """What it was measured on, for people: without the fingerprints of the models."""
    measured = {k: v for k, v in calibration["settings"].items() if k not in IDENTITIES}
    return {k: calibration[k] for k in ("threshold", "quantile", "prompts", "width", "height")} | measured


def check_kind(calibration: Any) -> None:
    """ValueError unless it is a calibration."""
    if not isinstance(calibration, dict) or "threshold" not in calibration:
        raise ValueError(
            "This is not a calibration of Unmemorize. Connect the calibration of Calibrate Map Threshold or Load Map Threshold."
        )


def check_calibration(calibration: Any, found: dict[str, Any]) -> None:
    """ValueError unless the calibration was measured as the map was."""
    check_kind(calibration)
    theirs, ours = calibration["settings"], found["settings"]
    if "model" not in ours:
        raise ValueError("Only maps of Curvature Difference Map can be calibrated. Leave `calibration` unconnected for this one.")
    other = differences(theirs["model"], ours["model"])
    if other:
        raise ValueError(f"The calibration belongs to another model: the two differ in {', '.join(other)}. Calibrate for this model.")
    different = [f"{k} ({theirs.get(k)} there, {ours.get(k)} here)" for k in COMPARED if theirs.get(k) != ours.get(k)]
    if different:
        raise ValueError(
            f"The calibration was measured in another way than this map: {', '.join(different)}. Use the same settings in both."
        )
    check_same(theirs, ours)
    if (calibration["height"], calibration["width"]) != tuple(found["values"].shape[1:]):
        raise ValueError(
            f"The calibration is for latents of {calibration['width']} x {calibration['height']}, the map is "
            f"{found['values'].shape[2]} x {found['values'].shape[1]}. Calibrate at the size of the pictures."
        )


@dataclass(frozen=True)
class Split:
    """A map as yes or no."""

    mask: Tensor
    """[n, h, w], 1 where memorized."""
    area: float
    """Share of the generated pixels above the threshold, largest of the batch."""
    report: dict[str, Any]


def split(found: Any, calibration: dict[str, Any] | None, image: Tensor | None) -> Split:
    """A map against its calibrated threshold, or against Otsu's where there is none; as large as `image` [n, h, w, 3] if it is given."""
    check_values(found)
    if image is not None:
        check_map(found, image.shape)
    if calibration is not None:
        check_calibration(calibration, found)
    values, region = per_channel(found), found["region"]
    limits = [calibration["threshold"] if calibration else otsu(v[r > 0]) for v, r in zip(values, region, strict=True)]
    hot = (values > torch.tensor(limits)[:, None, None]).float() * region
    areas = (hot.sum((1, 2)) / region.sum((1, 2)).clamp_min(1)).tolist()
    mask = hot if image is None else F.interpolate(hot[:, None], image.shape[1:3], mode="nearest")[:, 0]
    report = {
        "threshold": "calibrated" if calibration else "uncalibrated (Otsu)", "thresholds": limits, "areas": areas,
    }  # fmt: skip
    if calibration:
        report |= {"prompts": calibration["prompts"], "quantile": calibration["quantile"]}
        report["verdict"] = _verdict(areas, region.sum((1, 2)).int().tolist(), calibration["quantile"])
    return Split(mask, max(areas), report)


def _verdict(areas: list[float], pixels: list[int], quantile: float) -> str:
    """Of several pictures the worst; one of which nothing was drawn is unclear."""
    said = {verdict_of(area, quantile, of) if of else "unclear" for area, of in zip(areas, pixels, strict=True)}
    return next(word for word in ("memorized", "unclear", "clean") if word in said)
