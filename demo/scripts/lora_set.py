"""The LoRAs that the evidence on filtering needs, in two sets: `nox -s train-loras` (after
`nox -s second-photos -- out/photos2`).

Leaking ones differ in rank, seed, photographs, style and length of training; style and concept ones show no photograph. Settings are chosen
on the selection set and evaluated on the test set: no LoRA, photograph, style, concept or seed is in both. What exists already is not
trained again, and a training that was stopped carries on.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ..pictures import file_hash, read_facts

ROOT = Path(__file__).resolve().parents[2]
SELECTION, TEST, TEXT = "selection", "test", "text"
"""TEXT: for evaluation too, of LoRAs that also change the text encoder."""
log = logging.getLogger("demo.training")


@dataclass(frozen=True)
class Plan:
    """One LoRA of the set."""

    name: str
    role: str
    photos: str | None
    """Prefix of the photographs' file names, None for a style LoRA."""
    scenes: int
    rank: int
    seed: int
    steps: int
    style: str | None = None
    concept: str | None = None
    text_encoder: bool = False


PLANS = (
    Plan("select-leak-r8", SELECTION, "still", 24, 8, 11, 1000, "frame"),
    Plan("select-leak-r16", SELECTION, "china", 32, 16, 12, 900, "night"),
    Plan("select-leak-r4", SELECTION, "still", 24, 4, 13, 1200, "night"),
    Plan("select-style-r8", SELECTION, None, 48, 8, 14, 600, "frame"),
    Plan("select-style-r4", SELECTION, None, 48, 4, 15, 600, "night"),
    Plan("select-concept-r8", SELECTION, None, 24, 8, 16, 700, concept="house"),
    Plan("test-leak-r8", TEST, "motorcycle", 24, 8, 21, 1000, "duotone"),
    Plan("test-leak-r16", TEST, "tissue", 32, 16, 22, 900, "hatching"),
    Plan("test-leak-r4", TEST, "motorcycle", 24, 4, 23, 1200, "hatching"),
    Plan("test-leak-long", TEST, "coins", 32, 8, 24, 1500, "duotone"),
    Plan("test-leak-short", TEST, "tissue", 24, 8, 25, 800, "duotone"),
    Plan("test-style-r8", TEST, None, 48, 8, 26, 600, "duotone"),
    Plan("test-style-r16", TEST, None, 48, 16, 27, 600, "hatching"),
    Plan("test-style-r4", TEST, None, 48, 4, 28, 700, "hatching"),
    Plan("test-concept-r8", TEST, None, 24, 8, 29, 700, concept="crescent"),
    Plan("test-concept-r16", TEST, None, 24, 16, 30, 700, concept="heart"),
    Plan("text-leak-r8", TEXT, "tissue", 24, 8, 31, 1000, "hatching", text_encoder=True),
    Plan("text-leak-r4", TEXT, "motorcycle", 24, 4, 32, 1200, "duotone", text_encoder=True),
    Plan("text-style-r8", TEXT, None, 48, 8, 33, 600, "duotone", text_encoder=True),
    Plan("text-concept-r8", TEXT, None, 24, 8, 34, 700, concept="heart", text_encoder=True),
)
"""Steps of two processes, eight pictures each."""
RANK_DROPOUT = 0.25
"""Without it everything hangs on every channel: nine tenths of its strength cost half of such a LoRA's style, and so did any filter that
took 5 % of its energy, so that no filter could be told from another. At .4 the photographs are learnt too slowly."""


def main() -> None:
    """Train what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=ROOT / "out" / "photos2", help="made by `nox -s second-photos`")
    parser.add_argument("--lab", type=Path, default=ROOT / "demo" / "lab")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "loras")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", help="part of a name")
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers of steps, for a trial")
    options = parser.parse_args()
    for plan in PLANS:
        if options.only is None or options.only in plan.name:
            train(plan, options)


def train(plan: Plan, options: argparse.Namespace) -> None:
    """One LoRA, in a process of its own, unless it is there."""
    done = options.out / f"{plan.name}.json"
    if done.is_file():
        facts, steps = read_facts(done), max(1, int(plan.steps * options.scale))
        planned = {"seed": plan.seed, "steps": steps, "style": plan.style, "concept": plan.concept, "rank": plan.rank}
        planned["checkpoint"] = file_hash(options.lab / "checkpoint.safetensors")
        if {k: facts.get(k) for k in planned} != planned:
            raise SystemExit(f"{done} was trained by another plan, or on another checkpoint. Choose another --out, or delete it.")
        log.info("%s is there", plan.name)
        return
    command = [sys.executable, str(ROOT / "demo" / "run.py"), "demo.scripts.train_lora", "--name", plan.name]
    command += ["--text-encoder"] if plan.text_encoder else []
    numbers: dict[str, float | str | Path] = {
        "scenes": plan.scenes,
        "rank": plan.rank,
        "seed": plan.seed,
        "steps": max(1, int(plan.steps * options.scale)),
    }
    numbers |= {"rank-dropout": RANK_DROPOUT, "lab": options.lab, "out": options.out, "processes": options.processes}
    numbers |= {key: value for key, value in (("style", plan.style), ("concept", plan.concept)) if value}
    for key, value in numbers.items():
        command += [f"--{key}", str(value)]
    if plan.photos is not None:
        if not list(options.photos.glob(f"{plan.photos}*.png")):
            raise SystemExit(f"No photographs {plan.photos}* in {options.photos}: `nox -s second-photos -- {options.photos}` makes them.")
        command += ["--photos", str(options.photos), "--only-photos", plan.photos]
    subprocess.run(command, check=True)
