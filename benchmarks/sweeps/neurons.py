"""Which mask silences memories and leaves ordinary scenes alone? Place, window, share, rows, null, score; on the tuning captions only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from ...host.neurons.layers import PLACES
from ...unmemorize.neurons.activity import SIDES
from ...unmemorize.neurons.masks import SCORES
from ..parts.common import arguments, log
from ..parts.guarding import Bench
from ..parts.pruning import CONTROLS, Masks, Runs, Setting, column, runs_of
from ..parts.rows import Rows

SEEDS = [600, 601]
STRONG = ("MV", "MC", "TV")
WINDOWS = (5.6, 1.0, 0.3, 0.0)
SHARES = (0.01, 0.03, 0.05, 0.1, 0.2)
FEW_SHARES = (0.01, 0.03)
LAYOUT = 2.8
"""The lab's level that corresponds to SD's 5.6 (`demo/README.md`)."""
NULLS = ("empty", "ordinary")
CONTROL_SHARE = 0.1


def settings() -> Iterator[Setting]:
    """First where memories may sit at all; then the paper's window and share in full; rows, null and score at the whole run, then at the
    paper's window; then the other places."""
    for share in FEW_SHARES:
        for null in NULLS:
            for low in (0.0, LAYOUT):
                for place in ("convolutions", "all of these"):
                    yield Setting(place, low, share, 0.0, "both", "wanda", null)
    for low in WINDOWS:
        for share in SHARES:
            yield Setting("feed-forward", low, share)
    for share in (0.05, 0.2):
        for null in NULLS:
            for rows in SIDES:
                for score in SCORES:
                    yield Setting("feed-forward", 0.0, share, 0.0, rows, score, null)
        yield Setting("feed-forward", 0.0, share, 0.4)
    for share in (0.1, 0.15):
        for null in NULLS:
            for rows in SIDES:
                yield Setting("feed-forward", 5.6, share, 0.0, rows, "wanda", null)
    for low, share in ((10.0, 0.1), (5.6, 0.2), (5.6, 0.3), (3.0, 0.1), (3.0, 0.2), (1.0, 0.1), (1.0, 0.2)):
        yield Setting("feed-forward", low, share, 0.0, "cond only")
    for place in PLACES:
        if place != "feed-forward":
            for share in (0.05, 0.2):
                for score in SCORES:
                    yield Setting(place, 0.0, share, 0.0, "both", score)


def main() -> None:
    """`nox -s sweep -- neurons`: rows are kept as they come, a second call carries on."""
    options = arguments(__doc__)
    torch.set_num_threads(1)
    bench = Bench(options.lab)
    masks = Masks(bench, bench.calibration)
    seen = sum((bench.tuning[g][0::2] for g in STRONG), [])
    groups = {g: bench.tuning[g] for g in (*STRONG, "scene")}
    rows = Rows("neurons", f"neurons-{options.name or options.lab.name}")
    if not rows.has("stock"):
        rows.add("stock", summary(runs_of(bench, None, groups, SEEDS, "stock"), seen))
    for how in settings():
        name = " ".join(str(v) for v in dataclasses.astuple(how))
        if not rows.has(name):
            mask = masks.of(seen, how)
            facts = {"density": round(mask.mask.density(), 4), **dataclasses.asdict(how)}
            rows.add(name, {**facts, **summary(runs_of(bench, mask, groups, SEEDS, name), seen)})
            log.info("%s: %s", name, rows.last)
    for place in PLACES:  # where do the memories sit? Controls at the same places
        like = masks.of(seen, Setting(place, 0.0, CONTROL_SHARE))
        for name, choose in CONTROLS.items():
            trial = f"control {place} {CONTROL_SHARE} {name}"
            if not rows.has(trial):
                mask = masks.control(like, choose)
                made = runs_of(bench, mask, groups, SEEDS, trial)
                rows.add(trial, {"density": round(mask.mask.density(), 4), "place": place, "control": name, **summary(made, seen)})
                log.info("%s: %s", trial, rows.last)


def summary(runs: Runs, seen: list[str]) -> dict[str, float]:
    """Copies of seen and other captions, adherence of memorized and clean scenes, broken scenes."""

    def mean(key: str, groups: tuple[str, ...], captions: list[str] | None = None) -> float:
        hits = sum(column(runs, key, groups, captions), [])
        return round(sum(hits) / len(hits), 3)

    others = [c for g, c in runs if g in STRONG and c not in seen]
    return {
        "copied_seen": mean("copied", STRONG, seen), "copied_unseen": mean("copied", STRONG, others),
        "mc_obeys": mean("obeys", ("MC",)), "scene_obeys": mean("obeys", ("scene",)), "scene_broken": mean("broken", ("scene",)),
    }  # fmt: skip
