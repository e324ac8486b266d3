"""A page of any rows: failures first, empty columns left out, nothing hostile alive."""

from __future__ import annotations

import re

from unmemorize_pack.unmemorize.pictures.table_page import table_page

HOSTILE = "<script>alert(1)</script>\ud800"
ROWS = [
    {"id": "1", "kind": "filter", "name": HOSTILE, "base": "demo", "rank_after": 4, "energy_removed": 0.25, "note": None, "lists": []},
    {"id": "2", "kind": "filter", "name": "b", "base": "demo", "error": "cannot be read", "again": True},
]


def test_names_are_text_and_the_page_asks_nothing_of_others():
    page = table_page(ROWS, HOSTILE, {"model": HOSTILE})
    assert page.count("<script>") == 1 and "alert(1)&lt;/script&gt;" in page and "\\ud800" in page
    assert "http" not in page.replace("http-equiv", "") and "default-src 'none'" in page
    page.encode("utf-8")


def test_one_row_is_no_rows_and_lists_are_readable():
    page = table_page([{"id": "1", "name": "a", "also": ["\u732b.png"]}], "t", {"captions": ["\u732b"]})
    assert "<p>1 row, 0 failed</p>" in page and page.count("\u732b.png") == 2 and "[&quot;\u732b&quot;]</dd>" in page


def test_failures_come_first_and_columns_of_nothing_are_left_out():
    page = table_page(ROWS, "t", {})
    heads = re.findall(r'<button type="button">([^<]*)</button>', page)
    assert heads == ["name", "error", "rank after", "energy removed"]
    below = page[page.index("<dl>") :]
    assert "<dt>base</dt><dd>demo</dd>" in below and "demo" not in page[: page.index("<dl>")], "what all say alike is said once"
    body = page[page.index("<tbody>") :]
    assert body.index("cannot be read") < body.index("alert(1)") and "2 rows, 1 failed" in page
    assert 'data-value="0.25"' in body and "&ndash;" in body, "what a row does not say is a dash"
