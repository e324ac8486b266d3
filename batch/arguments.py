"""What may be asked for: every kind of work with its settings, their ranges, and the paths that they name."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..host.combined.audit import NEIGHBOURS, SEEDS
from ..host.copies.probing import LEAST_PICTURES
from ..host.core.sampling import samplers, schedulers
from ..host.core.settings import check_range, check_sampling
from ..unmemorize.lora.gates import GATES
from ..unmemorize.lora.scores import DEFAULT, SCORES
from . import engines, jobs

LAST_SEED = 2**64 - 1
SIDE = 8
"""Pixels: sides of pictures are whole multiples, as in ComfyUI's empty latents."""


def parser() -> argparse.ArgumentParser:
    """Every kind of work with its settings."""
    whole = argparse.ArgumentParser(prog="batch/run.py", description="Unmemorize for many files. Behind `--` stand ComfyUI's own options.")
    kinds = whole.add_subparsers(dest="kind", required=True)

    def kind_of_work(name: str, about: str) -> argparse.ArgumentParser:
        return kinds.add_parser(name, help=about, description=about)

    by_kind = {
        "filter": kind_of_work("filter", "filter LoRA files"),
        "probe": kind_of_work("probe", "what do LoRA files remember?"),
        "audit": kind_of_work("audit", "prompts x seeds of a model"),
        "copies": kind_of_work("copies", "pictures against reference pictures"),
    }
    for kind, p in by_kind.items():
        p.add_argument("sources", nargs="+", type=_named, help="files of prompts" if kind == "audit" else "files, or folders of them")
        p.add_argument("--out", type=_path, required=True, help="folder of the rows; the same command carries on there")
        p.add_argument("--shard", type=_shard, default="1/1", metavar="I/N", help="the I-th of N parts, for a job array (%(default)s)")
        p.add_argument("--engine", choices=engines.ENGINES, default="local", help="this process, or a Ray cluster (%(default)s)")
        p.add_argument("--workers", type=int, default=0, metavar="N", help="of --engine ray; 0, the default: one a device")
        if kind not in jobs.NEEDS_NO_BASE:
            p.add_argument("--base", action="append", required=True, help="a checkpoint's path or name, or demo; may be repeated")
    _filter(by_kind["filter"])
    _probe(by_kind["probe"])
    _audit(by_kind["audit"])
    for kind in ("audit", "copies"):
        by_kind[kind].add_argument("--references", type=_path, required=kind == "copies", metavar="FOLDER", help="a folder of pictures")
        by_kind[kind].add_argument("--detector", type=_path, metavar="FILE", help="a file of SSCD weights; without it the built-in one")
    by_kind["copies"].add_argument(
        "--false-alarms", type=float, default=0.02, metavar="RATE",
        help="share of honest pictures that may be called copies; the references are these: 49 for 0.02, 99 for 0.01 (%(default)s)",
    )  # fmt: skip
    merge = kind_of_work("merge", "a table and a page of the rows in a folder")
    merge.add_argument("--out", type=_path, required=True, help="that folder")
    return whole


def _filter(p: argparse.ArgumentParser) -> None:
    p.add_argument("--score", choices=list(SCORES), default=DEFAULT, help="what goes (%(default)s)")
    p.add_argument("--gate", choices=list(GATES), default="hard", help="how it is decided by scores (%(default)s)")
    p.add_argument("--strength", type=float, default=1.0, metavar="SHARE", help="of the filter, 0 to 1 (%(default)s)")


def _probe(p: argparse.ArgumentParser) -> None:
    p.add_argument("--caption", action="append", default=[], help="may be repeated; none: without captions, which finds less")
    p.add_argument(
        "--pictures", type=int, default=64, metavar="N", help="how many are drawn of a LoRA, and as many of the base (%(default)s)"
    )
    p.add_argument("--groups", type=int, default=8, metavar="N", help="groups looked for: about as many as training pictures (%(default)s)")
    p.add_argument("--w", type=float, default=3.0, help="how far in the LoRA's direction: 1 is the LoRA itself (%(default)s)")
    _sampling(p)


def _audit(p: argparse.ArgumentParser) -> None:
    p.add_argument("--seeds", type=int, default=4, metavar="N", help="pictures of each prompt (%(default)s)")
    p.add_argument("--neighbours", type=int, default=8, metavar="N", help="prompts with one word replaced, to compare (%(default)s)")
    p.add_argument("--parent", metavar="BASE", help="the model before fine-tuning: its agreement is subtracted, not the neighbours'")
    p.add_argument("--profile", help="a stability profile's name or path: the guard judges every run")
    p.add_argument(
        "--copy-limit", type=float, metavar="LIKENESS",
        help="likeness to a reference from which a picture is called a copy: Copy Check's threshold (without it, and at 0, only noted)",
    )  # fmt: skip
    _sampling(p)


def _sampling(p: argparse.ArgumentParser) -> None:
    p.add_argument("--steps", type=int, default=20, metavar="N", help="sampling steps (%(default)s)")
    p.add_argument("--cfg", type=float, default=8.0, help="guidance (%(default)s)")
    p.add_argument("--sampler", choices=samplers(), default="euler", metavar="NAME", help="one of KSampler's (%(default)s)")
    p.add_argument("--scheduler", choices=schedulers(), default="normal", metavar="NAME", help="one of KSampler's (%(default)s)")
    p.add_argument("--seed", type=int, default=0, help="the first one (%(default)s)")
    p.add_argument("--width", type=int, default=512, metavar="PIXELS", help="of the pictures (%(default)s)")
    p.add_argument("--height", type=int, default=512, metavar="PIXELS", help="of the pictures (%(default)s)")


def _shard(text: str) -> tuple[int, int]:
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part of a whole: write 1/8 to 8/8")
    return int(i), int(n)


def _named(text: str) -> str:
    if not text:  # an unset variable of a shell: it would stand for the folder where the command was given
        raise argparse.ArgumentTypeError("no name of a file or folder is empty")
    return text


def _path(text: str) -> Path:
    return Path(_named(text))


def check_numbers(o: argparse.Namespace) -> None:
    """ValueError on numbers that no unit could be done with, before the folder is one of these settings."""
    check_sampling({"steps": o.steps, "cfg": o.cfg, "sampler_name": o.sampler, "scheduler": o.scheduler})
    check_range("--seed", o.seed, 0, LAST_SEED)
    for name in ("width", "height"):
        side = getattr(o, name)
        check_range(f"--{name}", side, 16, 16384)
        if side % SIDE:
            raise ValueError(f"--{name} is {side}; pictures are drawn in steps of {SIDE} pixels: choose {side // SIDE * SIDE}.")
    if o.kind == "probe":
        check_range("--pictures", o.pictures, LEAST_PICTURES, 100_000)
        check_range("--groups", o.groups, 1, 1000)
        check_range("--w", o.w, -100, 100)
        return
    check_range("--seeds", o.seeds, *SEEDS)
    check_range("--neighbours", o.neighbours, *NEIGHBOURS)
    if o.copy_limit is not None:
        check_range("--copy-limit", o.copy_limit, 0, 1)
        if not o.references:
            raise ValueError("--copy-limit needs --references: what would a picture be a copy of?")


def whole_paths(o: argparse.Namespace) -> None:
    """Workers on other machines stand in other folders. Links stay: what they lead to may have a name that tells nothing of its kind.

    ValueError if rows cannot lie in `--out`.
    """
    o.out = o.out.absolute()
    if os.path.lexists(o.out) and not os.path.isdir(o.out):
        raise ValueError(f"--out {str(o.out)!r} is no folder. Choose another name.")
    o.sources = [str(Path(name).absolute()) for name in o.sources]
    for name in ("references", "detector"):
        if getattr(o, name, None):
            setattr(o, name, getattr(o, name).absolute())
    for name in ("parent", "profile"):
        if getattr(o, name, None) and os.path.isfile(getattr(o, name)):
            setattr(o, name, str(Path(getattr(o, name)).absolute()))
    if o.kind not in jobs.NEEDS_NO_BASE:
        o.base = [str(Path(name).absolute()) if os.path.isfile(name) else name for name in o.base]
