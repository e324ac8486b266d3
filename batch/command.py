"""The command line: what is asked for, what is left to do, progress, and an exit code that tells."""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..host.combined import prompt_files
from ..host.copies import checking
from ..host.copies.references import References
from ..host.core.files import reason, replace_text
from ..host.core.rows import Writer
from ..host.lora.report import TOOL
from ..host.stability.profiles import read_profile
from ..unmemorize.copies.audit import finished, summary
from ..unmemorize.copies.probe import BEYOND, BEYOND_IN_LAYOUT
from ..unmemorize.lora.gates import Settings
from ..unmemorize.pictures.audit_page import page
from ..unmemorize.pictures.pages import counted
from ..unmemorize.pictures.table_page import table_page
from . import engines, jobs, rows, tools
from .arguments import check_numbers, parser, whole_paths

GOOD, FAILED, WRONG, STOPPED = 0, 1, 2, 130
"""All units are done; some are rows with an error; nothing was begun, or it could not go on; stopped by Ctrl-C. The same command carries
on from there."""
SECONDS = 5.0
"""Between two lines of progress."""
FEW = 5
"""References that were left out, by name."""
TITLES = {"filter": "Filtered LoRAs", "probe": "What LoRAs remember", "copies": "Pictures against references"}
SUMMARY, TABLE, PAGE = "settings.json", "table.csv", "index.html"

log = logging.getLogger("unmemorize.batch")


def settings_of(o: argparse.Namespace) -> dict[str, Any]:
    """What of the command line changes a result."""
    if o.kind == "filter":
        settings = Settings(score=o.score, gate=o.gate, strength=o.strength)
        settings.check()
        return dict(vars(settings))
    contents = {}
    if getattr(o, "detector", None):
        contents["detector"] = tools.content_of_file(o.detector)
        tools.detector_of(paths_of(o))  # what is none ends here, before the folder is one of these settings
    if o.kind == "copies":
        known = known_of(o.references)
        checking.enough(known, None, True, o.false_alarms)
        return {"references": known.digest, "false_alarms": o.false_alarms, **contents}
    check_numbers(o)
    use = {"seed": o.seed, "steps": o.steps, "cfg": o.cfg, "sampler_name": o.sampler, "scheduler": o.scheduler}
    size = {"width": o.width, "height": o.height, "use": use}
    if o.kind == "probe":
        return size | {
            "captions": o.caption,
            "pictures": o.pictures,
            "groups": o.groups,
            "w": o.w,
            "beyond": BEYOND,
            "in_layout": BEYOND_IN_LAYOUT,
        }
    if o.profile:
        path = tools.profile_path(o.profile)
        contents["profile"] = tools.content_of_file(path)
        read_profile(path)
    contents |= {"references": known_of(o.references).digest} if o.references else {}
    contents |= {"parent": tools.content_of_base(o.parent)} if o.parent else {}
    return size | {"seeds": o.seeds, "neighbours": o.neighbours, "copy_limit": o.copy_limit or None, **contents}


def known_of(folder: Path) -> References:
    """The references of a folder; those that nothing is compared with are said."""
    found = tools.references_of(str(folder))
    if found.left_out:
        few = "; ".join(f"{name!r}: {why}" for name, why in list(found.left_out.items())[:FEW])
        more = f"; and {len(found.left_out) - FEW} more" if len(found.left_out) > FEW else ""
        log.warning("left out of the references: %s%s", few, more)
    return found


def paths_of(o: argparse.Namespace) -> dict[str, str]:
    """Where lies what the settings name by content."""
    return {name: str(getattr(o, name)) for name in ("references", "detector", "profile", "parent") if getattr(o, name, None)}


def main(arguments: list[str], comfyui: Sequence[str] = ()) -> int:
    """Do what is asked for; the exit code. `comfyui`: its own options, for workers that start it anew."""
    _speak()
    o = parser().parse_args(arguments)
    try:
        return merged(o.out) if o.kind == "merge" else work(o, comfyui)
    except ValueError as error:
        log.error("%s", error)
        return WRONG
    except OSError as error:
        path = error.filename2 or error.filename  # the second is what was to be replaced
        place = repr(str(path)) if path else "A file"
        log.error("%s cannot be read or written: %s. Mend its rights or the disk's free space; what is done stays.", place, reason(error))
        return WRONG
    except KeyboardInterrupt:
        log.info("stopped; the same command carries on from here")
        return STOPPED


def _speak() -> None:
    """Progress to stderr, in a way of our own: ComfyUI has set up the root logger, which keeps quiet."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


def work(o: argparse.Namespace, comfyui: Sequence[str]) -> int:
    """All units of this shard that no row knows yet."""
    whole_paths(o)
    settings = settings_of(o)
    sources = prompts_of(o.sources) if o.kind == "audit" else jobs.sources_of(o.kind, o.sources, o.out)
    log.info("found %s", counted(len(sources), "prompt" if o.kind == "audit" else "file"))
    units = jobs.shard_of(jobs.units_of(o.kind, sources, getattr(o, "base", [""]), settings, jobs.home_of(o.sources)), o.shard)
    known = {row["id"]: row for row in rows.all_rows(o.out) if not row.get("again")}
    todo = [unit for unit in units if unit.id not in known]
    log.info("%s, %d of them done before", counted(len(units), "unit"), len(units) - len(todo))
    note_settings(o.out, {"kind": o.kind, "settings": settings})
    options = tools.Options(str(o.out), settings, paths_of(o), list(comfyui))
    made = engines.ray(todo, options, o.workers) if o.engine == "ray" else engines.local(todo, options)
    failed = sum("error" in known[u.id] for u in units if u.id in known)
    began = told = time.monotonic()
    with Writer(rows.file_of(o.out, o.shard)) as writer:
        for unit in (u for u in units if u.id in known):
            row = rows.named(known[unit.id], (unit.name, *unit.also))
            if row is not known[unit.id]:  # a file with the same bytes has come since
                writer.write(row)
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


def made_with(folder: Path) -> dict[str, Any]:
    """Kind of work and settings of a folder's rows; nothing where they were never noted."""
    try:
        found = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    return found if isinstance(found, dict) else {}


def note_settings(folder: Path, facts: dict[str, Any]) -> None:
    """What the rows of a folder were made with. ValueError if it holds others, whose table would mix two answers."""
    path = folder / SUMMARY
    if path.is_file():
        if made_with(folder) != json.loads(json.dumps(facts)):
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
    kind, noted = found[0].get("kind"), made_with(folder)
    if kind not in jobs.WORK:
        raise ValueError(
            f"The rows in {str(folder)!r} were not written by this program: an audit of the node has its own page beside them."
        )
    rows.as_csv(found, folder / TABLE)
    settings = noted.get("settings")
    facts = (
        {"work": kind}
        | (settings if isinstance(settings, dict) else {})
        | {"date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), "tool": TOOL}
    )
    if kind == "audit":
        several = [{"prompt": row["name"], "agreement": None, "beyond": None, **row, "base": base_of(row)} for row in found]
        bases = list(dict.fromkeys(row["base"] for row in several))
        written = page(finished(several), summary(several), {"bases": bases} | facts)
    else:
        written = table_page(found, TITLES[kind], facts)
    replace_text(folder / PAGE, written)
    failed = sum("error" in row for row in found)
    log.info("%s, %d failed: %s", counted(len(found), "row"), failed, folder / TABLE)
    return FAILED if failed else GOOD


def base_of(row: dict[str, Any]) -> str:
    """The base model of a row as a page shows it: its name, and a digest of its content."""
    return f"{row['base']} ({row['base_content']})" if row.get("base_content") else str(row.get("base", ""))
