"""How are a LoRA's copies drawn again, so that no copy comes and the LoRA is kept? On the LoRAs of the selection set only.

By the model before the LoRA alone, up to a share of the steps, and with the LoRA's common change up to another; or under the LoRA with
other words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...demo.scripts import lora_set
from ...host.combined.alternative_prompts import with_alternatives
from ...host.stability.common_change import CommonChange
from ...host.stability.lora_watch import lora_between
from ...host.stability.other_words import OtherWords
from ...unmemorize.stability.redrawn import STILL_ALIKE, likeness
from ..parts.common import ROOT, arguments, log, shared_out
from ..parts.filtered_loras import Bench, shaped
from ..parts.guarding import EVERYWHERE, Redrawn, always, lent
from ..parts.lora_runs import Case
from ..parts.rows import Rows

CAPTIONS = 8
SEEDS = [980, 981]
BARE, UNTIL = (0.0, 0.15, 0.3, 0.5), (0.3, 0.5, 1.0)
"""Shares of the steps."""

Drawn = tuple[Tensor, Tensor]
"""Latents and pictures of one caption's runs."""


def drawn(bench: Bench, model: Any, caption: str, seeds: list[int]) -> Drawn:
    """By another model than the bench's own."""
    with torch.inference_mode(), lent(bench.generator, model):
        latents = bench.generator.latents(caption, seeds)
        return latents, bench.generator.vae.decode(latents).movedim(-1, 1).clone()


def judged(case: Case, caption: str, plain: Drawn, made: Drawn) -> dict[str, list[float]]:
    """Of runs that were all drawn again: copies, shape and size asked for, what the LoRA is wanted for, and is it the picture of before?"""
    alike = [float(a >= STILL_ALIKE) for a in likeness(plain[0], made[0])]
    for name, photo, limit in case.subject.photos:
        if name == caption:
            hits = limit.holds(plain[1], photo, EVERYWHERE).tolist()
            copied, second = (judge(made[1], photo, EVERYWHERE).float().tolist() for judge in (limit.holds, limit.second))
            obeys = [float(shaped(p, caption)) for p in made[1]]
            rows = zip(hits, copied, second, obeys, alike, strict=True)
            kept = [row[1:] for row in rows if row[0]]
            return dict(zip(("copies", "copies_second", "adherence", "copies_alike"), map(list, zip(*kept, strict=True)), strict=False))
    return {f"{case.subject.kind}": [float(case.subject.present(p, caption)) for p in made[1]], "honest_alike": alike}


Way = Callable[[Case, str], Redrawn | None]
"""A LoRA and a caption as it is asked for -> how its runs are drawn again; None: as they are."""


def ways(bench: Bench) -> dict[str, Way]:
    """Everything tried, by name."""

    def common_change(bare: float, until: float) -> Way:
        def of(case: Case, _caption: str) -> Redrawn:
            lora = lora_between(case.model, case.base, case.reference, None)
            assert lora is not None
            return CommonChange(lora, bare, until)

        return of

    def other_words(changed: int, until: float) -> Way:
        return lambda _case, caption: OtherWords(with_alternatives(bench.generator.clip, caption, "")[1], until, changed)

    found: dict[str, Way] = {"as it is": lambda *_: None}
    found |= {f"bare {bare:g}, until {until:g}": common_change(bare, until) for bare in BARE for until in UNTIL if bare <= until}
    return found | {f"{n} words changed until {until:g}": other_words(n, until) for n in (1, 2) for until in (0.3, 0.45, 0.6, 1.0)}


def trial(bench: Bench, cases: list[Case], plain: dict[tuple[int, str], Drawn], way: Way) -> dict[str, float]:
    """Every run drawn again in one way."""

    def work(part: list[tuple[int, str]]) -> dict[tuple[int, str], dict[str, list[float]]]:
        found = {}
        for i, caption in part:
            model, asked = cases[i].model, cases[i].asked(caption)
            how = way(cases[i], asked)
            model = model if how is None else always(model, how)
            found[i, caption] = judged(cases[i], caption, plain[i, caption], drawn(bench, model, asked, SEEDS))
        return found

    pooled: dict[str, list[float]] = {}
    for facts in shared_out(work, list(plain)).values():
        for name, values in facts.items():
            pooled.setdefault(name, []).extend(values)
    return {name: round(sum(values) / len(values), 3) for name, values in pooled.items()}


def main() -> None:
    """`nox -s sweep -- lora_correction`: rows are kept as they come, a second call carries on."""
    options = arguments(__doc__, loras=ROOT / "out" / "loras")
    torch.set_num_threads(1)
    bench = Bench(options.lab, options.loras, lora_set.SELECTION, CAPTIONS)
    cases = [Case(bench, s) for s in bench.subjects]
    rows = Rows("lora_correction", f"lora-correction-{options.name or options.lab.name}")
    work = [(i, c) for i, case in enumerate(cases) for c, _, _ in case.subject.photos]
    work += [(i, c) for i, case in enumerate(cases) if not case.subject.photos for c in bench.captions]

    def draw(part: list[tuple[int, str]]) -> dict[tuple[int, str], Drawn]:
        return {(i, c): drawn(bench, cases[i].model, cases[i].asked(c), SEEDS) for i, c in part}

    plain = shared_out(draw, work)
    for name, way in ways(bench).items():
        if not rows.has(name):
            rows.add(name, trial(bench, cases, plain, way))
            log.info("%s: %s", name, rows.last)
