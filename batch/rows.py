"""Where the rows of a run lie, one file a shard, and a table of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..host.core import rows
from ..host.core.files import replace_bytes

ROWS = "rows*.jsonl"
NAMES_FIRST = ("kind", "name", "base", "error")
DANGEROUS = "=+-@\t\r"
"""Spreadsheets run cells that begin so."""


def file_of(folder: Path, shard: tuple[int, int]) -> Path:
    """Each shard writes a file of its own: they need not talk to each other."""
    return folder / ("rows.jsonl" if shard == (1, 1) else f"rows-{shard[0]}-of-{shard[1]}.jsonl")


def all_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Of all shards, each unit once: its last row, but none that is to be tried `again` where another attempt has an answer, and none with
    fewer names. A line that was cut off by a kill is no row."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob(ROWS)):
        for row in rows.read(path):
            if row["id"] not in found or _worth(row) >= _worth(found[row["id"]]):
                found[row["id"]] = row
    yield from found.values()


def _worth(row: dict[str, Any]) -> tuple[bool, int]:
    return not row.get("again"), len(row.get("also", ()))


def named(row: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The row with all names of its content: those that it does not know yet stand in `also`."""
    also = row.get("also", [])
    more = [name for name in names if name not in (row.get("name"), *also)]
    return row | {"also": [*also, *more]} if more else row


def as_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """A table of all plain facts, whole or as it was; lists and tables in it stay JSON. Excel takes it for UTF-8 by its mark alone."""
    names = list(dict.fromkeys([*NAMES_FIRST, *(k for row in rows for k in row if k not in ("id", "thumbnails"))]))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _cell(v) for k, v in row.items()} for row in rows)
    replace_bytes(path, text.getvalue().encode("utf-8-sig", "backslashreplace"))


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return f"'{value}" if value[:1] and value[0] in DANGEROUS else value
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
