"""Every LoRA of a folder through the same filter, into another folder; what is done already is not done again."""

from __future__ import annotations

import csv
import io
import json
import os
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from ...unmemorize.lora.gates import Settings
from ..core import store
from ..core.files import SUFFIX, reason
from . import lora_files
from .filter_file import Job, filter_lora
from .lora_files import LORAS
from .report import provenance, report_of

ALL = "."
FAILURES = (ValueError, RuntimeError, OSError, ArithmeticError, LookupError, TypeError, AttributeError)
"""What a bad file may end in; cancelling is none of them."""
COLUMNS = ("file", "result", "rank_before", "rank_after", "energy_removed", "passed_through", "note")


def folders() -> list[str]:
    """Folders that hold LoRAs: "." for all of them, the user's by name, "demo" for the pack's own."""
    parents = {PurePosixPath(n.replace("\\", "/")).parent.as_posix() for n in store.names(LORAS)}
    return [ALL, *sorted(parents - {ALL})]


def stamp(folder: str) -> str:
    """Changes when a file of the folder does."""
    inside = {n: p for n, p in store.paths(LORAS).items() if n.replace("\\", "/").startswith(f"{folder}/") or folder == ALL}
    return str([(n, p.stat().st_mtime_ns if os.path.isfile(p) else "missing") for n, p in inside.items()])


def filter_folder(folder: str, output: str, model: Any, clip: Any, settings: Settings, text_encoder: bool) -> tuple[str, int]:
    """Filter all LoRAs of a folder; (table as CSV, files written). A file that cannot be filtered is a line of the table.

    ValueError before work on a bad folder. Stopped half-way, what is written stays, and the next run goes on behind it.
    """
    if folder not in folders():
        raise ValueError(f"There is no folder {folder!r} with LoRAs. Press R to refresh the list, or choose another.")
    target, _ = store.target_of(LORAS, f"{output}/name")
    output = "/".join(store.parts_of(output))
    sources, paths = _listed(folder, output), store.paths(LORAS)
    if output == folder or target.resolve() in {paths[name].parent.resolve() for name in sources}:
        raise ValueError(f"The output {output!r} is the folder that is filtered. Choose another name: nothing is ever overwritten.")
    _check_writable(target, output)
    job = Job(model, clip, settings, text_encoder)
    done = _done(output)
    rows, written = [], 0
    for name in sources:
        row = dict.fromkeys(COLUMNS, "") | {"file": name}
        rows.append(row)
        try:
            file = lora_files.read(name, lora_files.cancelled)
            made = provenance(file.info, job)
            before = done.get(_key(made))
            if before is not None:
                row |= {"result": before, "note": "was done before"}
                continue
            result = filter_lora(file.tensors, job, both=False)
            report = report_of(result, job)
            row |= {k: report[k] for k in ("rank_before", "rank_after", "energy_removed")}
            row["note"] = " ".join(result.warnings)
            row["passed_through"] = str(sum(len(keys) for keys in result.passed.values()))
            stem = PurePosixPath(name.replace("\\", "/")).name.removesuffix(SUFFIX)
            row["result"] = lora_files.save(f"{output}/{store.possible_name(stem)}", result.kept, {**file.info, "filter": made})
            written += 1
        except FAILURES as error:
            row["note"] = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {reason(error)}"
    return _csv(rows), written


def _check_writable(folder: Path, name: str) -> None:
    """ValueError before work if nothing can be written there; a folder that was made for the trial is taken away again."""
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        if made:
            folder.rmdir()
    except OSError as error:
        raise ValueError(f"The output folder {name!r} cannot be written to: {reason(error)}. Choose another name.") from error


def _listed(folder: str, output: str) -> list[str]:
    """Files of a folder, without those that an earlier run wrote."""
    names = [n for n in store.names(LORAS) if not n.replace("\\", "/").startswith(f"{output}/")]
    if folder == ALL:
        return [n for n in names if n not in store.bundled(LORAS)]
    return [n for n in names if PurePosixPath(n.replace("\\", "/")).parent.as_posix() == folder]


def _done(output: str) -> dict[str, str]:
    """What was filtered, and how -> the file it became."""
    base = lora_files.folder()
    found = {}
    for path in sorted(Path(base, output).glob(f"*{SUFFIX}")):
        made = lora_files.provenance_of(path)
        if made is not None:
            found[_key(made)] = path.relative_to(base).as_posix()
    return found


def _key(made: dict[str, Any]) -> str:
    source = made.get("source")
    kept = {k: made.get(k) for k in ("settings", "text_encoder", "base", "after")} | {
        "sha256": source.get("sha256") if isinstance(source, dict) else None
    }
    return json.dumps(kept, sort_keys=True)


def _csv(rows: list[dict[str, Any]]) -> str:
    """Spreadsheets run cells that begin with = + - @: such names get a quote in front."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"'{v}" if isinstance(v, str) and v[:1] in "=+-@" and v else v for k, v in row.items()} for row in rows)
    return text.getvalue().encode("utf-8", "backslashreplace").decode()  # half a character in a file's name
