"""Does filtering a LoRA take its memories and leave its style, more so than simple controls do? And how fast is it?"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ..demo.scripts import lora_set
from ..host.lora.filter_file import Job, filter_lora
from ..host.lora.results import Filtered
from ..unmemorize.lora.gates import Settings
from .parts.common import ROOT, arguments, log, rate, write
from .parts.filter_speed import speed
from .parts.filtered_loras import Bench, told
from .parts.lora_layers import layers_of, without_intruders
from .parts.pareto import Outcome, margin, plot

DEFAULT = Settings()
"""What the nodes do."""
BAF = Settings(energy=0.5, score="mean", gate="hard", threshold=0.0)
"""The reconstruction of METHODS.md 5.4, whatever the default has become."""
FILE_SHARES, LAYER_SHARES, STRENGTHS = (0.9, 0.8, 0.65, 0.5, 0.35), (0.75, 0.5, 0.25), (0.9, 0.8, 0.7, 0.6, 0.5)


def of_the_file(score: str) -> list[Settings]:
    """A score whose best channels hold so much of the whole file's energy."""
    return [Settings(score=score, gate="ratio of the file", keep=share) for share in FILE_SHARES]


CONTROLS = {
    "sigma truncation": of_the_file("singular value"),
    "rank reduction": [Settings(score="singular value", gate="ratio", keep=share) for share in LAYER_SHARES],
    "random channels": of_the_file("random"),
    "lower strength": [Settings(gate="scale", keep=k) for k in STRENGTHS],
    "inverted BAF": of_the_file("inverted"),
}
COSINES = (0.3, 0.5, 0.7, 0.8, 0.9)
INTRUDERS = "intruder dimensions"
STYLE_CAPTIONS = 12
SPAN = "leaking test LoRAs: "

ABOUT = {
    "memorized_rate_before": f"{SPAN}copies of their photographs",
    "memorized_rate_after": "the same, filtered by the default",
    "memorized_rate_after_baf": "the same, filtered by BAF as reconstructed",
    "memorized_rate_second_before": "the same to the second judge, and so on",
    "adherence_after": "photographs' captions, filtered by the default: shape and size asked for",
    "memorized_rate_removed_only": "the default's removed part applied alone: copies",
    "wanted_before": "all test LoRAs on held-out captions: style there",
    "wanted_after": "the same, filtered by the default",
    "wanted_after_baf": "the same, filtered by BAF as reconstructed",
    "wanted_removed_only": "the default's removed part applied alone: style there",
    "wanted_hatching_before": "of these, LoRAs whose style is a hatching",
    "wanted_hatching_after": "the same, filtered by the default",
    "wanted_duotone_before": "LoRAs whose style is a duotone",
    "wanted_duotone_after": "the same, filtered by the default",
    "wanted_concept_before": "LoRAs that bring a shape under a word: held-out captions with that word, shape there",
    "wanted_concept_after": "the same, filtered by the default",
    "wanted_base": "no LoRA: style there (a false alarm of the judge)",
    "energy_removed": "share of the LoRAs' energy that the default removes",
    "energy_removed_baf": "that BAF as reconstructed removes",
    "pareto_margin": "style of the default minus the most that any control keeps at no more copies, least over controls (aim >= 0)",
    "pareto_margin_between": "the same, if a control may also be set between two settings that were measured (a straight line)",
    "pareto_margin_baf": "as pareto_margin, for BAF as reconstructed",
    "pareto_margin_between_baf": "as pareto_margin_between, for BAF as reconstructed",
    "speedup_cold": "SVD of every base layer / open, filter, save; SDXL's shapes, nothing cached, one thread, CPU time (aim >= 8)",
    "speedup_cold_2_threads": "the same with two threads, by the clock",
    "decisions_equal": "share of channels kept or removed as float64 says (aim >= .995)",
    "peer_ratio_warm": "open, filter, save with the base cached / a plain rank resize of the same file, one thread, CPU time (aim <= 1.5)",
    "peer_ratio_warm_2_threads": "the same with two threads, by the clock",
    "base_weights_alive": "most base weights in memory at a time (aim 1)",
}


def split(bench: Bench, settings: Settings) -> list[Filtered]:
    """Every test LoRA in two parts."""
    return [filter_lora(s.tensors, Job(bench.generator.model, None, settings)) for s in bench.subjects]


def removed_share(result: Filtered) -> float:
    """Of the LoRA's energy."""
    before, after = (sum(float(s.square().sum()) for s in several) for several in zip(*[
        (layer.verdict.sigma, layer.verdict.new_sigma) for layer in result.layers
    ], strict=True))  # fmt: skip
    return 1 - after / before


def label(settings: Settings) -> str:
    """Of a point in the plot."""
    return f"{settings.keep:.2g}"


class MeasuredOnce:
    """Outcomes of settings, each measured once."""

    def __init__(self, bench: Bench, seeds: list[int]) -> None:
        self._bench, self._seeds = bench, seeds
        self._known: dict[Settings, Outcome] = {}

    def of(self, settings: Settings) -> Outcome:
        """Of what a filter keeps."""
        if settings not in self._known:
            results = split(self._bench, settings)
            self._known[settings] = self.versions([r.kept for r in results], [removed_share(r) for r in results])
            told(f"{settings.score}, {settings.gate} {settings.keep:g}", self._known[settings])
        return self._known[settings]

    def versions(self, tensors: list[dict[str, Tensor]], removed: list[float]) -> Outcome:
        """Of LoRAs as given."""
        return self._bench.outcome(tensors, removed, self._seeds)


def controls(bench: Bench, measured: MeasuredOnce) -> dict[str, list[tuple[str, Outcome]]]:
    """Every control at every value of its knob."""
    found = {name: [(label(s), measured.of(s)) for s in several] for name, several in CONTROLS.items()}
    found[INTRUDERS] = []
    for cosine in COSINES:
        parts = [without_intruders(layers_of(s.tensors, bench.generator.model), cosine) for s in bench.subjects]
        outcome = measured.versions([tensors for tensors, _ in parts], [removed for _, removed in parts])
        told(f"{INTRUDERS} {cosine:g}", outcome)
        found[INTRUDERS].append((f"{cosine:g}", outcome))
    return found


def quality(bench: Bench, seeds: list[int], name: str) -> dict[str, Any]:
    """Copies and style of everything, margins, and the plot."""
    measured = MeasuredOnce(bench, seeds)
    nothing = [0.0] * len(bench.subjects)
    before = measured.versions([s.tensors for s in bench.subjects], nothing)
    told("unfiltered", before)
    default, baf = measured.of(DEFAULT), measured.of(BAF)
    results = split(bench, DEFAULT)
    alone = measured.versions([r.removed for r in results], [1 - removed_share(r) for r in results])
    told("removed part alone", alone)
    base = measured.versions([{} for _ in bench.subjects], [1.0] * len(bench.subjects))
    curves = controls(bench, measured)
    # a control that removes nothing, or everything, is the LoRA itself, or none
    rivals = {n: [before, *(o for _, o in several), base] for n, several in curves.items()}
    metrics = {
        "memorized_rate_before": pooled(before.copied), "memorized_rate_after": pooled(default.copied),
        "memorized_rate_after_baf": pooled(baf.copied), "memorized_rate_removed_only": pooled(alone.copied),
        "wanted_before": pooled(before.styled), "wanted_after": pooled(default.styled), "wanted_after_baf": pooled(baf.styled),
        "wanted_removed_only": pooled(alone.styled), "wanted_base": pooled(base.styled),
        "energy_removed": default.removed, "energy_removed_baf": baf.removed,
    }  # fmt: skip
    for when, outcome in (("before", before), ("after", default), ("after_baf", baf)):
        metrics |= {f"memorized_rate_second_{when}": pooled(outcome.second), f"adherence_{when}": pooled(outcome.obeyed)}
    for kind in dict.fromkeys(s.kind for s in bench.subjects):
        for when, outcome in (("before", before), ("after", default)):
            metrics[f"wanted_{kind}_{when}"] = pooled([r for r, s in zip(outcome.styled, bench.subjects, strict=True) if s.kind == kind])
    for suffix, ours in (("", default), ("_baf", baf)):
        metrics[f"pareto_margin{suffix}"], by_control = margin(ours, rivals)
        metrics |= {f"margin{suffix}_over_{n.replace(' ', '_').lower()}": m for n, m in by_control.items()}
        metrics[f"pareto_margin_between{suffix}"], _ = margin(ours, rivals, between=True)
    ends = {"unfiltered": [("", before)], "default": [("", default)], "BAF as reconstructed": [("", baf)], "removed alone": [("", alone)]}
    log.info("%s", plot(name, ends | curves))
    return metrics


def pooled(rates: list[list[float]]) -> dict[str, Any]:
    """A rate with its interval over the captions of all LoRAs."""
    return rate([[r] for several in rates for r in several])


def main() -> None:
    """`nox -s benchmark -- lora`."""
    options = arguments(__doc__, seeds=4, loras=ROOT / "out" / "loras")
    torch.set_num_threads(1)
    bench = Bench(options.lab, options.loras, lora_set.TEST, STYLE_CAPTIONS)
    seeds = list(range(900, 900 + options.seeds))
    name = options.name or "lora"
    metrics = quality(bench, seeds, name)
    metrics |= speed(BAF)
    settings = {
        "lab_seed": bench.lab.facts["seed"], "seeds": options.seeds, "loras": ", ".join(s.name for s in bench.subjects),
        **dataclasses.asdict(DEFAULT),
    }  # fmt: skip
    write(name, metrics, settings, ABOUT, options.lab, [options.loras / f"{s.name}.safetensors" for s in bench.subjects])
