"""From which likeness on has a picture hardly changed on trial? Flagged copies and honest runs of the selection set's LoRAs.

`unmemorize.stability.redrawn.UNMOVED` lies between the two. One row a run; honest is one that copies nothing and has what the LoRA is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...demo.scripts import lora_set
from ...host.stability.common_change import UNTIL, CommonChange, drawn_without_leak
from ...host.stability.lora_watch import lora_between
from ...host.stability.strategies import Redrawing
from ...unmemorize.stability.agreement import UNCALIBRATED
from ...unmemorize.stability.redrawn import likeness
from ..parts.common import ROOT, arguments, log, shared_out
from ..parts.filtered_loras import Bench
from ..parts.guarding import always, lent
from ..parts.lora_runs import Case
from ..parts.rows import Rows

CAPTIONS = 6
SEEDS = [950, 951]


@dataclass(frozen=True)
class TrialAlone(CommonChange):
    """Every run as the guard's trial draws it, with the LoRA's answer at steps of at least such an agreement."""

    keeps: float = 0.0

    def begin(self, watch: Any) -> Redrawing:
        """One way, and no look."""
        return Redrawing(lambda call: drawn_without_leak(call, self.lora, 0.0, UNTIL, self.keeps))


def runs_of(case: Case, caption: str) -> list[dict[str, Any]]:
    """What became of each run of a caption on trial, and what it was."""
    seen = case.watched(caption, SEEDS)
    lora = lora_between(case.model, case.base, case.reference, case.stored)
    assert lora is not None
    keeps = {"likeness": lora.region.keeps, "likeness_capped": min(lora.region.keeps, UNCALIBRATED.keeps)}
    latents = []
    for model in (case.model, *(always(case.model, TrialAlone(lora, keeps=least)) for least in keeps.values())):
        with torch.inference_mode(), lent(case.generator, model):
            latents.append(case.generator.latents(caption, SEEDS))
    found = {name: likeness(latents[0], tried).tolist() for name, tried in zip(keeps, latents[1:], strict=True)}
    kinds = ["copy" if copied else "honest" if honest else "neither" for copied, honest in zip(seen.copied, seen.honest, strict=True)]
    below = {"suspected": seen.suspected_calibrated.tolist(), "suspected_uncalibrated": seen.suspected_uncalibrated.tolist()}
    return [
        {"seed": seed, "kind": kinds[k]}
        | {name: values[k] for name, values in below.items()}
        | {name: round(values[k], 3) for name, values in found.items()}
        for k, seed in enumerate(SEEDS)
    ]


def main() -> None:
    """`nox -s sweep -- lora_trial`: rows are kept as they come, a second call carries on."""
    options = arguments(__doc__, loras=ROOT / "out" / "loras")
    torch.set_num_threads(1)
    bench = Bench(options.lab, options.loras, lora_set.SELECTION, CAPTIONS)
    rows = Rows("lora_trial", f"lora-trial-{options.name or options.lab.name}")
    cases = [Case(bench, s) for s in bench.subjects]

    def draw(part: list[tuple[int, str]]) -> dict[tuple[int, str], list[dict[str, Any]]]:
        return {(i, caption): runs_of(cases[i], caption) for i, caption in part}

    for i, case in enumerate(cases):
        captions = [c for c, _, _ in case.subject.photos] + [case.asked(c) for c in bench.captions]
        todo = [(i, c) for c in captions if not rows.has(f"{case.subject.name}: {c}, {SEEDS[0]}")]
        log.info("%s: ordinary agreement %s", case.subject.name, case.region)  # measured once, before the processes part
        for (_, caption), found in shared_out(draw, todo).items():
            for row in found:
                rows.add(f"{case.subject.name}: {caption}, {row['seed']}", row)
