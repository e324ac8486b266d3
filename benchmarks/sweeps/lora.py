"""Which score and gate takes a LoRA's memories and leaves its style? On the selection LoRAs only; the winner is measured on the others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...demo.scripts import lora_set
from ..parts.common import ROOT, arguments, log
from ..parts.filter_scores import GONE, Inputs, scores
from ..parts.filtered_loras import Bench, told
from ..parts.lora_layers import (
    Layer,
    energy_removed,
    kept_in_file,
    kept_in_layers,
    layers_of,
    rebuilt,
    standardised,
    without_intruders,
)
from ..parts.pareto import Outcome, best_wanted
from ..parts.rows import Rows

SHARES = (0.8, 0.9, 0.65, 0.5)
"""Kept of the file's energy. Filters take a style long before half of it is gone; in this order, so that a sweep that is stopped has seen
every score."""
LAYER_SHARES = (0.75, 0.5)
"""Kept of each layer's channels."""
LEFT = (0.0, 0.25, 0.5)
"""Of a kind of layers' change."""
STRENGTHS = (0.95, 0.9, 0.8, 0.65, 0.5, 0.35)
"""Energies of the plain control, a lower strength."""
SOFTNESS = (0.1, 0.5)
"""Temperatures of the soft gates, in deviations of a layer's scores."""
COSINES = (0.3, 0.5, 0.7, 0.8, 0.9)
STYLE_CAPTIONS = 8
RECORDED = 6
"""Ordinary captions whose inputs are recorded."""
PROMISING = (
    "singular value", "random", "mean E 0.1", "mean E 0.3", "mean E 0.5", "min E 0.5", "left E 0.3", "right E 0.5", "inverted E 0.5",
    "mean x singular value E 0.3", "weighted base E 0.5", "response", "shared response", "response of its layer", "gain",
    "size against the base", "without text keys and values first", "without cross-attention first",
)  # fmt: skip
"""First where time is short: one of each kind."""
UNSCORED = ("scale", "shrunk", "weakened")
"""Scopes that rank nothing."""
WHOLE_LAYERS = ("without ", "only ")
"""Scores of whole kinds of layers."""
SOFT_FOR = ("mean E 0.3", "mean E 0.5", "singular value", "response", "shared response")


@dataclass(frozen=True)
class Trial:
    """A score, the scope within which channels compete, and the share that stays."""

    score: str
    scope: str
    share: float

    @property
    def name(self) -> str:
        return f"{self.score} | {self.scope} | {self.share:g}"


def trials(names: list[str]) -> Iterator[Trial]:
    """Every score by file, by layer, and by file with each layer's scores standardised; some softly, some at the old loudness."""
    by_channel = [n for n in names if not n.startswith(WHOLE_LAYERS)]
    for share in STRENGTHS:
        yield Trial("lower strength", "scale", share)
    for kind in GONE:
        for share in LEFT:
            yield Trial(kind, "weakened", share)
    for promising in (True, False):
        for share in SHARES:
            for name in names:
                if (name in PROMISING) == promising:
                    yield Trial(name, "file", share)
    for share in SHARES:
        yield Trial("singular value", "shrunk", share)
    for scope, shares in (("layer", LAYER_SHARES), ("file, standardised", SHARES)):
        for share in shares:
            for name in by_channel:
                yield Trial(name, scope, share)
    for share in SHARES:
        for name in SOFT_FOR:
            yield Trial(name, "file, restored", share)
            for softness in SOFTNESS:
                yield Trial(name, f"soft {softness:g}", share)


def kept(layers: list[Layer], trial: Trial, found: list[Tensor]) -> list[Tensor]:
    """New singular values of every layer, from its channels' scores."""
    if trial.scope == "scale":
        return [trial.share**0.5 * layer.channels.sigma for layer in layers]
    if trial.scope == "weakened":
        return [(trial.share if re.search(GONE[trial.score], la.target) else 1.0) * la.channels.sigma for la in layers]
    if trial.scope == "shrunk":
        return shrunk(layers, trial.share)
    if trial.scope == "layer":
        return kept_in_layers(layers, found, trial.share)
    if trial.scope.startswith("soft"):
        return [softened(la, s, trial.share, float(trial.scope.split()[1])) for la, s in zip(layers, standardised(found), strict=True)]
    new = kept_in_file(layers, standardised(found) if "standardised" in trial.scope else found, trial.share)
    if "restored" in trial.scope:
        louder = (1 - energy_removed(layers, new)) ** -0.5
        return [louder * sigma for sigma in new]
    return new


def shrunk(layers: list[Layer], share: float) -> list[Tensor]:
    """All singular values less one number (the proximal step of the nuclear norm), which leaves a share of the file's energy."""
    low, high = 0.0, max(float(layer.channels.sigma.max()) for layer in layers)
    for _ in range(40):
        less = 0.5 * (low + high)
        new = [(layer.channels.sigma - less).clamp_min(0) for layer in layers]
        low, high = (less, high) if 1 - energy_removed(layers, new) > share else (low, less)
    return new


def softened(layer: Layer, score: Tensor, share: float, temperature: float) -> Tensor:
    """A soft gate whose threshold leaves a share of the layer's energy, found by bisection, [c]."""
    sigma = layer.channels.sigma
    low, high = float(score.min()) - 20 * temperature, float(score.max()) + 20 * temperature
    for _ in range(40):
        tau = 0.5 * (low + high)
        new = sigma * torch.sigmoid((score - tau) / temperature)
        low, high = (tau, high) if float(new.square().sum()) > share * layer.channels.energy else (low, tau)
    return new


def row(outcome: Outcome) -> dict[str, object]:
    """What is kept of a trial: means, and the rates of every caption."""
    numbers = {"memorized": outcome.memorized, "wanted": outcome.wanted, "energy_removed": outcome.removed}
    return {**{k: round(v, 4) for k, v in numbers.items()}, "copied": outcome.copied, "styled": outcome.styled}


def main() -> None:
    """`nox -s sweep -- lora`: rows are kept as they come, a second call carries on."""
    options = arguments(__doc__, seeds=2, loras=ROOT / "out" / "loras")
    torch.set_num_threads(1)
    bench = Bench(options.lab, options.loras, lora_set.SELECTION, STYLE_CAPTIONS)
    seeds = list(range(500, 500 + options.seeds))
    rows = Rows("lora", f"lora-{options.name or options.lab.name}")
    loras = [layers_of(s.tensors, bench.generator.model) for s in bench.subjects]
    keys = sorted({layer.target for layers in loras for layer in layers})
    captions = bench.lab.facts["scene_captions"]
    inputs = Inputs(bench.generator, keys)
    several = scores(inputs.of(captions[:: len(captions) // RECORDED][:RECORDED], 400), inputs.of([""] * RECORDED, 400))

    def measure(name: str, versions: list[dict[str, Tensor]], removed: list[float]) -> None:
        outcome = bench.outcome(versions, removed, seeds)
        rows.add(name, row(outcome))
        told(name, outcome)

    if not rows.has("unfiltered"):
        measure("unfiltered", [s.tensors for s in bench.subjects], [0.0] * len(loras))
    scored: dict[str, list[list[Tensor]]] = {}
    for trial in trials(list(several)):
        if not rows.has(trial.name):
            if trial.score not in scored and trial.scope not in UNSCORED:
                scored = {trial.score: [[several[trial.score](layer) for layer in layers] for layers in loras]}
            sigmas = [kept(layers, trial, found) for layers, found in zip(loras, scored.get(trial.score, [[]] * len(loras)), strict=True)]
            versions = [rebuilt(layers, s) for layers, s in zip(loras, sigmas, strict=True)]
            measure(trial.name, versions, [energy_removed(layers, s) for layers, s in zip(loras, sigmas, strict=True)])
    for cosine in COSINES:
        name = f"intruder dimensions | layer | {cosine:g}"
        if not rows.has(name):
            parts = [without_intruders(layers, cosine) for layers in loras]
            measure(name, [tensors for tensors, _ in parts], [removed for _, removed in parts])
    for line in ranking(rows):
        log.info("%s", line)


def ranking(rows: Rows) -> list[str]:
    """Filters by how far their best point lies above what lower strength and sigma truncation reach at no more copies."""
    found = {name: (facts["memorized"], facts["wanted"]) for name, facts in rows.all().items()}
    plain = [v for k, v in found.items() if k.split(" | ")[0] in ("singular value", "lower strength", "unfiltered")]
    rates, effects = (torch.tensor(v)[:, None] for v in zip(*[*plain, (0.0, 0.0)], strict=True))
    margins = {k: wanted - float(best_wanted(rates, effects, torch.tensor([memorized]))) for k, (memorized, wanted) in found.items()}
    best = sorted(margins, key=lambda k: -margins[k])[:20]
    return [f"{margins[k]:+.3f}  memorized {found[k][0]:.3f}  style {found[k][1]:.3f}  {k}" for k in best]
