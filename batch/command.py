"""The command line: what is asked for, what is left to do, progress, and an exit code that tells."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from ..host.combined import prompt_files
from ..host.copies import checking
from ..host.core.files import replace_text
from ..host.core.rows import Writer
from ..host.core.sampling import samplers, schedulers
from ..unmemorize.copies.audit import finished, summary
from ..unmemorize.lora.gates import GATES, Settings
from ..unmemorize.lora.scores import DEFAULT, SCORES
from ..unmemorize.pictures.audit_page import page
from . import engines, jobs, rows

GOOD, FAILED, WRONG, STOPPED = 0, 1, 2, 130
"""All units are done; some are rows with an error; nothing was begun; stopped by Ctrl-C, the same command carries on."""
SECONDS = 5.0
"""Between two lines of progress."""
SUMMARY, TABLE, PAGE = "settings.json", "table.csv", "index.html"

log = logging.getLogger("unmemorize.batch")


def parser() -> argparse.ArgumentParser:
    """Every kind of work with its settings."""
    whole = argparse.ArgumentParser(prog="batch/run.py", description="Unmemorize for many files. Behind `--` stand ComfyUI's own options.")
    kinds = whole.add_subparsers(dest="kind", required=True)
    by_kind = {
        "filter": kinds.add_parser("filter", help="filter LoRA files"),
        "probe": kinds.add_parser("probe", help="what do LoRA files remember?"),
        "audit": kinds.add_parser("audit", help="prompts x seeds of a model"),
        "copies": kinds.add_parser("copies", help="pictures against reference pictures"),
    }
    for kind, p in by_kind.items():
        p.add_argument("sources", nargs="+", help="a file of prompts" if kind == "audit" else "files, or folders of them")
        p.add_argument("--out", type=Path, required=True, help="folder of the rows; the same command carries on there")
        p.add_argument("--shard", type=_shard, default=(1, 1), metavar="I/N", help="the I-th of N parts, for a job array")
        p.add_argument("--engine", choices=engines.ENGINES, default="local")
        p.add_argument("--workers", type=int, default=0, help="of --engine ray; 0: one a device")
        if kind not in jobs.NEEDS_NO_BASE:
            p.add_argument("--base", action="append", required=True, help="a checkpoint's path or name, or demo; may be repeated")
    by_kind["filter"].add_argument("--score", choices=list(SCORES), default=DEFAULT)
    by_kind["filter"].add_argument("--gate", choices=list(GATES), default="hard")
    by_kind["filter"].add_argument("--strength", type=float, default=1.0)
    for kind in ("probe", "audit"):
        _sampling(by_kind[kind])
    by_kind["probe"].add_argument("--caption", action="append", default=[], help="may be repeated; none: without captions")
    by_kind["probe"].add_argument("--pictures", type=int, default=64)
    by_kind["probe"].add_argument("--groups", type=int, default=8)
    by_kind["probe"].add_argument("--w", type=float, default=3.0)
    by_kind["audit"].add_argument("--seeds", type=int, default=4)
    by_kind["audit"].add_argument("--neighbours", type=int, default=8)
    by_kind["copies"].add_argument("--references", type=Path, required=True)
    by_kind["copies"].add_argument("--false-alarms", type=float, default=0.02)
    merge = kinds.add_parser("merge", help="one table, and for audits one page, of the rows in a folder")
    merge.add_argument("--out", type=Path, required=True)
    return whole


def _sampling(p: argparse.ArgumentParser) -> None:
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--cfg", type=float, default=8.0)
    p.add_argument("--sampler", choices=samplers(), default="euler")
    p.add_argument("--scheduler", choices=schedulers(), default="normal")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--width", type=int, default=512)
    p.add_argument("--height", type=int, default=512)


def _shard(text: str) -> tuple[int, int]:
    i, _, n = text.partition("/")
    if not (i.isdigit() and n.isdigit() and 1 <= int(i) <= int(n)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part of a whole: write 1/8 to 8/8")
    return int(i), int(n)


def settings_of(o: argparse.Namespace) -> dict[str, Any]:
    """What of the command line changes a result."""
    if o.kind == "filter":
        settings = Settings(score=o.score, gate=o.gate, strength=o.strength)
        settings.check()
        return dict(vars(settings))
    if o.kind == "copies":
        known = jobs.references_of(str(o.references))
        checking.enough(known, None, True, o.false_alarms)
        return {"references": str(o.references), "content": known.digest, "false_alarms": o.false_alarms}
    use = {"seed": o.seed, "steps": o.steps, "cfg": o.cfg, "sampler_name": o.sampler, "scheduler": o.scheduler}
    size = {"width": o.width, "height": o.height, "use": use}
    if o.kind == "probe":
        return size | {"captions": o.caption, "pictures": o.pictures, "groups": o.groups, "w": o.w}
    return size | {"seeds": o.seeds, "neighbours": o.neighbours}


def main(arguments: list[str]) -> int:
    """Do what is asked for; the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    o = parser().parse_args(arguments)
    try:
        return merged(o.out) if o.kind == "merge" else work(o)
    except ValueError as error:
        log.error("%s", error)
        return WRONG
    except KeyboardInterrupt:
        log.info("stopped; the same command carries on from here")
        return STOPPED


def work(o: argparse.Namespace) -> int:
    """All units of this shard that no row knows yet."""
    whole_paths(o)
    settings = settings_of(o)
    sources = prompts_of(o.sources) if o.kind == "audit" else jobs.sources_of(o.kind, o.sources)
    units = jobs.shard_of(jobs.units_of(o.kind, sources, getattr(o, "base", [""]), settings), o.shard)
    known = {row["id"]: "error" in row for row in rows.all_rows(o.out) if not row.get("again")}
    todo = [unit for unit in units if unit.id not in known]
    log.info("%d units, %d of them done before", len(units), len(units) - len(todo))
    note_settings(o.out, {"kind": o.kind, "settings": settings})
    options = jobs.Options(str(o.out), settings)
    made = engines.ray(todo, options, o.workers) if o.engine == "ray" else engines.local(todo, options)
    failed = sum(known[u.id] for u in units if u.id in known)
    began = told = time.monotonic()
    with Writer(rows.file_of(o.out, o.shard)) as writer:
        for count, row in enumerate(made, 1):
            writer.write(row)
            failed += "error" in row
            if "error" in row:
                log.warning("%s: %s", row["name"], row["error"])
            now = time.monotonic()
            if now - told > SECONDS or count == len(todo):
                left = (now - began) / count * (len(todo) - count)
                log.info("%d of %d, %d failed, %.0f s left", count, len(todo), failed, left)
                told = now
    return FAILED if failed else GOOD


def whole_paths(o: argparse.Namespace) -> None:
    """Workers on other machines stand in other folders."""
    o.out = o.out.resolve()
    o.sources = [str(Path(name).resolve()) for name in o.sources]
    if o.kind == "copies":
        o.references = o.references.resolve()
    else:
        o.base = [str(Path(name).resolve()) if Path(name).is_file() else name for name in o.base]


def note_settings(folder: Path, facts: dict[str, Any]) -> None:
    """What the rows of a folder were made with. ValueError if it holds others, whose table would mix two answers."""
    path = folder / SUMMARY
    if path.is_file():
        try:
            same = json.loads(path.read_text(encoding="utf-8")) == json.loads(json.dumps(facts))
        except ValueError:
            same = False
        if not same:
            raise ValueError(f"{str(folder)!r} holds rows with other settings or other references. Choose another --out.")
        return
    replace_text(path, json.dumps(facts, indent=1) + "\n")


def prompts_of(files: list[str]) -> list[str]:
    """Of prompt files, each once, in order."""
    return list(dict.fromkeys(p for name in files for p in prompt_files.read_at(Path(name))))


def merged(folder: Path) -> int:
    """table.csv of all rows in a folder; index.html too if they are an audit's."""
    found = list(rows.all_rows(folder))
    if not found:
        raise ValueError(f"There are no rows in {str(folder)!r}.")
    rows.as_csv(found, folder / TABLE)
    if found[0]["kind"] == "audit":
        facts = json.loads((folder / SUMMARY).read_text(encoding="utf-8")) if (folder / SUMMARY).is_file() else {}
        several = [{"prompt": row["name"], "agreement": None, "beyond": None, **row} for row in found]
        replace_text(folder / PAGE, page(finished(several), summary(several), facts))
    failed = sum("error" in row for row in found)
    log.info("%d rows, %d failed: %s", len(found), failed, folder / TABLE)
    return FAILED if failed else GOOD
