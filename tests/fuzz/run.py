"""Mutated files in, outcomes out: a file is taken, or refused in words. `nox -s fuzz -- 10000 [--seed N] [--only lora]`."""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
import logging
import random
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import mutations, targets

PATIENCE, LONG_PATIENCE = 25, 250
"""Seconds of its own work, and by the clock, until a case counts as a hang: on a busy machine the clock alone would blame the case."""
LONGEST = 2000
"""Letters of an error that somebody may have to read."""

log = logging.getLogger("fuzz")


class Hang(BaseException):
    """A case took too long."""


@dataclass(frozen=True)
class Outcome:
    """What became of one damaged file."""

    kind: str
    case: int
    what: str
    """What had been done to it."""
    found: str
    """taken, refused; or what is wrong: unexplained, hang, left behind."""
    said: str = ""


def attempt(use: Callable[[], None], home: Path) -> tuple[str, str]:
    """Run one case: what was found, and what was said."""

    def ring(*_: object) -> None:
        raise Hang

    before = {number: signal.signal(number, ring) for number in (signal.SIGALRM, signal.SIGPROF)}
    signal.alarm(LONG_PATIENCE)
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        use()
    except Hang:
        return "hang", "".join(traceback.format_stack(limit=3))
    except (ValueError, FileNotFoundError) as error:
        return ("refused", str(error)) if readable(str(error), home) else ("unexplained", f"message nobody can read: {str(error)[:300]!a}")
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "unexplained", f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {str(error)[:200]!a}"
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
    return "taken", ""


def readable(message: str, home: Path) -> bool:
    """Words for the person at the graph: no folder of theirs, no half of a character, no flood, no bare word of Python."""
    try:
        message.encode()
    except UnicodeEncodeError:
        return False
    return str(home) not in message and len(message) <= LONGEST and " " in message


def left_behind(folder: Path, kept: Path) -> list[str]:
    """Names of half-written files; what a case saved is removed."""
    wrong = []
    for path in folder.rglob("*"):
        if path.is_file() and path != kept:
            if not path.name.startswith("fuzz-out"):
                wrong.append(path.name)
            path.unlink()
    return wrong


def case(bench: targets.Bench, kind: str, target: targets.Target, number: int, seed: int) -> Outcome:
    """One damaged file, used and taken away again."""
    dice = random.Random(seed * 1_000_003 + number)
    raw, what = mutations.mutated(dice.choice(target.good), dice)
    path = target.folder / f"damaged{number}.safetensors"
    path.write_bytes(raw)
    found, said = attempt(lambda: target.use(bench, path.stem, dice), bench.home)
    wrong = left_behind(target.folder, path)
    path.unlink()
    if wrong and found in ("taken", "refused"):
        found, said = "left behind", ", ".join(wrong)
    return Outcome(kind, number, what, found, said)


def report_case(bench: targets.Bench, good: str, number: int, seed: int) -> Outcome:
    """One damaged report."""
    dice = random.Random(seed * 1_000_003 + number)
    return Outcome("report", number, "facts", *attempt(lambda: targets.report(bench, good, dice), bench.home))


@contextlib.contextmanager
def bench(nodes: dict[str, Any]) -> Iterator[targets.Bench]:
    """The demo model and empty folders; ComfyUI's own are put back."""
    paths = importlib.import_module("folder_paths")
    before = paths.get_user_directory(), paths.folder_names_and_paths["loras"]
    model, clip, _ = nodes["UnmemorizeLoadDemoCheckpoint"].execute("final").args
    words, empty = (clip.encode_from_tokens_scheduled(clip.tokenize(t)) for t in ("a small red ring", ""))
    with tempfile.TemporaryDirectory() as folder:
        try:
            yield targets.Bench(nodes, Path(folder), model, clip, words, empty)
        finally:
            paths.set_user_directory(before[0])
            paths.folder_names_and_paths["loras"] = before[1]
            paths.filename_list_cache.clear()


@torch.inference_mode()
def outcomes(nodes: dict[str, Any], count: int, seed: int, only: str = "") -> Iterator[Outcome]:
    """`count` cases, the kinds in turn."""
    with bench(nodes) as place:
        several = targets.targets(place.home)
        kinds = [k for k in ("lora", "lora", "profile", "mask", "report") if only in ("", k)]
        (stored, *_) = place.run("LoadStabilityProfile", profile="demo/demo")
        good = targets.guarded_report(place, stored)
        for number in range(count):
            kind = kinds[number % len(kinds)]
            yield report_case(place, good, number, seed) if kind == "report" else case(place, kind, several[kind], number, seed)


def main() -> None:
    """Command line of `nox -s fuzz`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="lora, profile, mask or report")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.ERROR)
    importlib.import_module("comfy.utils").PROGRESS_BAR_ENABLED = False
    log.setLevel(logging.INFO)
    pack = importlib.import_module("..nodes", __package__.rsplit(".", 1)[0])
    nodes = {n.define_schema().node_id: n for n in pack.NODES}
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    bad: list[Outcome] = []
    began = time.monotonic()
    for outcome in outcomes(nodes, options.count, options.seed, options.only):
        counts[outcome.kind, outcome.found] += 1
        if outcome.found not in ("taken", "refused"):
            bad.append(outcome)
            log.info("%s %d (%s): %s, %s", outcome.kind, outcome.case, outcome.what, outcome.found, outcome.said)
        if (outcome.case + 1) % 500 == 0:
            log.info("%d cases, %.0f s, %d wrong", outcome.case + 1, time.monotonic() - began, len(bad))
    for (kind, found), n in sorted(counts.items()):
        log.info("%-8s %-12s %d", kind, found, n)
    if bad:
        raise SystemExit(f"{len(bad)} of {options.count} cases went wrong.")
