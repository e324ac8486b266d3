"""An audit as one self-contained page: a row a prompt, small pictures in it."""

from __future__ import annotations

from typing import Any

from .pages import cell, counted, document, text

COLUMNS = (
    ("agreement", "agreement of seeds"), ("beyond", "beyond others'"), ("guard_score", "guard score"), ("map_score", "map score"),
    ("likeness", "likeness to references"),
)  # fmt: skip


def page(rows: list[dict[str, Any]], summary: str, facts: dict[str, Any]) -> str:
    """HTML of an audit: `rows` in their order (a prompt each, `verdict`, `fine`, `found`, `thumbnails` as data URIs; `base`, shown where
    there are several), `facts` (model, settings, versions, date)."""
    found = sum(not row["fine"] for row in rows)
    look = f"{counted(found, 'row')} {'needs' if found == 1 else 'need'} a look."
    above = f'<p>{text(summary)}</p>\n<p class="soft">Agreement alone is no verdict: seeds of a plain prompt agree too. {look}</p>'
    title = f"Memorization audit: {counted(len(rows), 'prompt')}"
    columns = [(key, name) for key, name in COLUMNS if any(row.get(key) is not None for row in rows)]
    if len({row["base"] for row in rows if row.get("base")}) > 1:
        columns = [("base", "base"), *columns]
    heads = ["prompt", "verdict", *(name for _, name in columns), ""]
    return document(title, above, heads, [_row(row, columns) for row in rows], facts)


def _row(row: dict[str, Any], columns: list[tuple[str, str]]) -> str:
    word, mark = text(row["verdict"]), "ok" if row["fine"] else "bad" if row["found"] else "open"
    verdict = f'<td data-value="{word}"><span class="mark {mark}">{word}</span></td>'
    numbers = "".join(cell(name, row.get(key)) for key, name in columns)
    pictures = "".join(f'<img src="{text(t)}" alt="" loading="lazy">' for t in row.get("thumbnails", []))
    return f'<tr>{cell("", row["prompt"])}{verdict}{numbers}<td><div class="pictures">{pictures}</div></td></tr>'
