"""Rows of any kind of work as one self-contained page."""

from __future__ import annotations

from typing import Any

from .pages import cell, counted, document

FIRST = ("name", "error")
HIDDEN = ("id", "kind", "again", "thumbnails")


def table_page(rows: list[dict[str, Any]], title: str, facts: dict[str, Any]) -> str:
    """HTML of `rows` with whatever they hold; those with an error first. What all rows that are no failures say alike stands below, and
    columns in which nothing stands are left out."""
    names = [k for k in dict.fromkeys([*FIRST, *(k for row in rows for k in row)]) if k not in HIDDEN]
    said = {k: [row[k] for row in rows if row.get(k) not in (None, "", [], {})] for k in names}
    sound = sum("error" not in row for row in rows)
    alike = {k: v[0] for k, v in said.items() if k not in FIRST and len(v) >= max(sound, 2) and all(one == v[0] for one in v)}
    columns = [k for k in names if said[k] and k not in alike]
    above = f"<p>{counted(len(rows), 'row')}, {len(rows) - sound} failed</p>"
    ordered = sorted(rows, key=lambda row: "error" not in row)
    same = {k.replace("_", " "): v for k, v in alike.items()}
    return document(title, above, [k.replace("_", " ") for k in columns], [_row(row, columns) for row in ordered], same | facts)


def _row(row: dict[str, Any], columns: list[str]) -> str:
    return "<tr>" + "".join(cell("" if k == "name" else k.replace("_", " "), row.get(k)) for k in columns) + "</tr>"
