"""What the guard costs: model evaluations, and the share of process CPU time spent in our code."""

from __future__ import annotations

import time
from typing import Any

from ...host.stability import guard as guarding
from .guarding import Bench

RUNS = 10


def evaluations(bench: Bench, model: Any, caption: str) -> int:
    """Evaluations of the network in one run, a prompt each."""
    counted: list[int] = []
    hook = bench.final.model.model.diffusion_model.register_forward_pre_hook(lambda _, given: counted.append(len(given[0])))
    plain, bench.final.model = bench.final.model, model
    try:
        bench.final.latents(caption, [900])
    finally:
        bench.final.model = plain
        hook.remove()
    return sum(counted)


def extra_calls(bench: Bench, stored: Any) -> dict[str, float]:
    """Evaluations that detection adds, and those that a corrected run adds as a share of a run (the parent's are counted apart)."""
    plain = evaluations(bench, bench.final.model, bench.test["scene"][0])
    detect, _ = guarding.guarded(bench.final.model, guarding.Guard(stored, "detect"))
    correct, record = guarding.guarded(bench.final.model, guarding.Guard(stored, "correct"))
    memory = next(c for c in bench.test["MV"])
    corrected = evaluations(bench, correct, memory)
    return {
        "extra_model_calls_detect": evaluations(bench, detect, bench.test["scene"][0]) - plain,
        "extra_calls_per_flagged_run": (corrected - plain) / plain if record.facts.get("restarted") else 0.0,
    }


def overhead(bench: Bench, stored: Any) -> dict[str, float]:
    """CPU seconds of this process spent in the guard's own functions over those of whole runs, one thread, batch of 1."""
    clone, _ = guarding.guarded(bench.final.model, guarding.Guard(stored, "detect"))
    plain, bench.final.model = bench.final.model, clone
    spent = [0.0]
    control = guarding._Control
    ours = [
        (place, name, getattr(place, name))
        for place, name in ((control, "_step"), (control, "_finished"), (guarding, "facts_of"), (guarding, "new_watch"))
    ]

    def timed(work: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            begun = time.process_time()
            try:
                return work(*arguments, **named)
            finally:
                spent[0] += time.process_time() - begun

        return call

    try:
        bench.final.latents(bench.test["scene"][0], [900])
        for place, name, work in ours:
            setattr(place, name, timed(work))
        begun = time.process_time()
        for seed in range(RUNS):
            bench.final.latents(bench.test["scene"][0], [seed])
        total = time.process_time() - begun
    finally:
        bench.final.model = plain
        for place, name, work in ours:
            setattr(place, name, work)
    return {"overhead_share_detect": spent[0] / total}
