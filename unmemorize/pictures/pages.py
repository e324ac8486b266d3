"""Reports as one self-contained page: a table that can be sorted, no link and no script from outside."""

from __future__ import annotations

import html
import json
from typing import Any

CSP = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #6b6b6b; --bad: #b23a0a; --ok: #00674d; --open: #7a5b00; }
@media (prefers-color-scheme: dark) { :root { --soft: #9a9a9a; --bad: #ff9a6b; --ok: #57c79f; --open: #e8c14a; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1100px; padding: 16px; }
h1 { font-size: 1.4rem; margin: .4em 0; } p { margin: .3em 0; } .soft { color: var(--soft); }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: 6px 8px; border-bottom: 1px solid var(--line);
  vertical-align: top; } th button { font: inherit; font-weight: 600; background: none; border: 0; color: inherit; cursor: pointer;
  padding: 0; text-align: left; } td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
.words { overflow-wrap: anywhere; min-width: 10em; }
.pictures { display: flex; flex-wrap: wrap; gap: 4px; min-width: 148px; }
img { width: 72px; height: 72px; object-fit: cover; border-radius: 4px; }
.mark { font-weight: 600; } .mark.bad { color: var(--bad); } .mark.ok { color: var(--ok); } .mark.open { color: var(--open); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; } dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 640px) { thead { position: absolute; left: -9999px; } table, tbody, tr, td { display: block; }
  tr { border-bottom: 1px solid var(--line); padding: 8px 0; } td { border: 0; padding: 2px 0; }
  td[data-value=""] { display: none; }
  td[data-name]::before { content: attr(data-name) ": "; color: var(--soft); } img { width: 22vw; height: 22vw; } }
"""
SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const head = button.parentElement, at = [...head.parentElement.children].indexOf(head), body = document.querySelector("tbody");
  const up = head.getAttribute("aria-sort") === "descending", value = (row) => row.children[at].dataset.value ?? "";
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const rows = [...body.rows].sort((a, b) => { const [x, y] = [value(a), value(b)];
    return (x === "" ? 1 : y === "" ? -1 : isNaN(x) || isNaN(y) ? (x < y ? -1 : 1) : y - x) * (up && x !== "" && y !== "" ? -1 : 1); });
  body.replaceChildren(...rows);
});
"""


def document(title: str, above: str, columns: list[str], rows: list[str], facts: dict[str, Any]) -> str:
    """A page: `title` and `columns` are text; `above` and `rows` (a `<tr>` each) are HTML, whose text went through `text`; `facts` stand
    below (model, settings, versions, date). A column named "" cannot be sorted by."""
    head = "".join(f'<th scope="col"><button type="button">{text(c)}</button></th>' if c else "<th></th>" for c in columns)
    shown = "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in facts.items())
    body = "\n".join(rows)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{CSP}"><title>{text(title)}</title><style>{STYLE}</style></head>
<body><h1>{text(title)}</h1>
{above}
<table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table>
<h2>How it was measured</h2><dl>{shown}</dl>
<script>{SCRIPT}</script></body></html>
"""


def cell(name: str, value: Any) -> str:
    """A number or a text as a cell that can be sorted by; `name`, if it has one, stands before it where there is no room for columns."""
    label = f' data-name="{text(name)}"' if name else ""
    if value is None:  # as narrow as the numbers of its column
        return f'<td class="number"{label} data-value="">&ndash;</td>'
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f'<td class="words"{label} data-value="{text(value)}">{text(value) or "&ndash;"}</td>'
    return f'<td class="number"{label} data-value="{value:.4g}">{value:.4g}</td>'


def text(value: Any) -> str:
    """Anything as text of a page: prompts and names are data, whatever they hold; halves of characters are shown as such."""
    written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return html.escape(written.encode("utf-8", "backslashreplace").decode())


def counted(number: int, word: str, several: str = "") -> str:
    """A number with its noun: 1 row, 2 rows."""
    return f"{number} {word if number == 1 else several or word + 's'}"
