"""What a filter did, in numbers and in words; and what a plot needs of it."""

from __future__ import annotations

from typing import Any

from ...unmemorize.lora.gates import GATES, Settings
from ...unmemorize.lora.scores import SCORES
from ..core.identity import identity, shown
from .filter_file import Job
from .results import Filtered

TOOL = "Unmemorize 0.1.0"


def method_of(settings: Settings) -> str:
    """What a filter is called."""
    return GATES[settings.gate].described or SCORES[settings.score].described


def report_of(result: Filtered, job: Job) -> dict[str, Any]:
    """What was done, for people and programs: totals, blocks, what passed through."""
    blocks: dict[str, dict[str, Any]] = {}
    for layer in result.layers:
        name = f"text encoder {layer.block}" if layer.text_encoder else layer.block
        row = blocks.setdefault(name, {"layers": 0, "rank_before": 0, "rank_after": 0, "energy": 0.0, "energy_kept": 0.0})
        v = layer.verdict
        row["layers"] += 1
        row["rank_before"] += v.rank_before
        row["rank_after"] += v.rank
        row["energy"] += float(v.sigma.square().sum())
        row["energy_kept"] += float(v.new_sigma.square().sum())
    total, kept = (sum(row[k] for row in blocks.values()) for k in ("energy", "energy_kept"))
    shown = {
        name: {k: row[k] for k in ("layers", "rank_before", "rank_after")} | {"energy_removed": _share(row["energy"], row["energy_kept"])}
        for name, row in blocks.items()
    }
    return {
        "method": method_of(job.settings), "settings": vars(job.settings), "layers": len(result.layers),
        "layers_changed": sum(layer.verdict.changed for layer in result.layers),
        "rank_before": sum(row["rank_before"] for row in blocks.values()), "rank_after": sum(row["rank_after"] for row in blocks.values()),
        "energy_removed": _share(total, kept), "blocks": shown, "passed_through": result.passed, "warnings": result.warnings,
        "subspaces_from_cache": result.subspaces_cached,
    }  # fmt: skip


def _share(total: float, kept: float) -> float:
    return round(1 - kept / total, 6) if total else 0.0


def provenance(info: dict[str, Any] | None, job: Job) -> dict[str, Any]:
    """Settings, source and base model, for the metadata of a filtered file."""
    info = info or {}
    return {
        "tool": TOOL, "method": method_of(job.settings), "settings": vars(job.settings),
        "text_encoder": job.text_encoder and job.clip is not None,
        "source": {k: info.get(k, "") for k in ("name", "sha256")}, "base": shown(identity(job.model)) | {"patches": ""},
        **earlier(info),
    }  # fmt: skip


def earlier(info: dict[str, Any]) -> dict[str, Any]:
    """What an earlier filter says of the LoRA that is filtered once more."""
    return {"after": info["filter"]} if "filter" in info else {}


def spectrum_of(result: Filtered, job: Job, name: str) -> dict[str, Any]:
    """Every channel of every layer, or every layer where it was judged as one, for LoRA Spectrum Plot."""
    layers = [
        {
            "block": f"text encoder {layer.block}" if layer.text_encoder else layer.block,
            "scores": layer.verdict.scores,
            "sigma": layer.verdict.sigma,
            "new_sigma": layer.verdict.new_sigma,
            "deviation": layer.verdict.deviation,
            "stands_for": layer.verdict.stands_for,
        }
        for layer in result.layers
    ]
    unit = "layer" if all(layer.verdict.whole for layer in result.layers) else "channel"
    score = {"score": job.settings.score, "by_layer": SCORES[job.settings.score].whole, "unit": unit}
    return {"name": name, **score, "settings": vars(job.settings), "layers": layers}
