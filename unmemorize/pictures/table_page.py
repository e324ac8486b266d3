"""Rows of any kind of work as one self-contained page."""

from __future__ import annotations

from typing import Any

from .pages import cell, document, text

FIRST = ("name", "error")
HIDDEN = ("id", "kind", "again", "thumbnails")


def table_page(rows: list[dict[str, Any]], title: str, facts: dict[str, Any]) -> str:
    """HTML of `rows` with whatever they hold; those with an error first. Columns in which nothing stands are left out."""
    names = [k for k in dict.fromkeys([*FIRST, *(k for row in rows for k in row)]) if k not in HIDDEN]
    names = [k for k in names if any(row.get(k) not in (None, "", [], {}) for row in rows)]
    failed = sum("error" in row for row in rows)
    above = f"<p>{text(f'{len(rows)} rows, {failed} failed')}</p>"
    ordered = sorted(rows, key=lambda row: "error" not in row)
    return document(title, above, [k.replace("_", " ") for k in names], [_row(row, names) for row in ordered], facts)


def _row(row: dict[str, Any], names: list[str]) -> str:
    return "<tr>" + "".join(cell(k.replace("_", " "), row.get(k)) for k in names) + "</tr>"
