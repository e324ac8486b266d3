"""An audit's numbers, order and page: closed forms, hostile prompts."""

from __future__ import annotations

import html.parser

import pytest
import torch
from unmemorize_pack.unmemorize.copies.audit import agreement, beyond, counts, finished, ranked, summary, verdict
from unmemorize_pack.unmemorize.pictures.audit_page import page

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)> \ud800 </td></table>'


def test_agreement_is_the_median_of_all_pairs():
    similarity = torch.tensor([[1.0, 0.2, 0.4], [0.2, 1.0, 0.9], [0.4, 0.9, 1.0]])
    assert agreement(similarity) == pytest.approx(0.4)
    assert beyond(0.9, [0.1, 0.3, 0.2]) == pytest.approx(0.7) and beyond(0.9, []) is None


def row(**changes):
    return {"prompt": "a hat", "agreement": 0.1, "beyond": None, "thumbnails": []} | changes


def test_a_verdict_needs_a_judge():
    assert verdict(row(beyond=0.99)) == "not judged", "agreement alone says nothing"
    assert verdict(row(memorized=False)) == "nothing found"
    assert verdict(row(memorized=True)) == "memorized" and verdict(row(memorized=False, copies=1)) == "copied"
    assert verdict(row(copies=0)) == "nothing found" and verdict(row(memorized=None)) == "not judged"
    assert verdict(row(memorized=None, copies=0)) == "not judged", "one of two that were asked could not say"
    assert verdict(row(memorized=False, copies=0)) == "nothing found" and verdict(row(memorized=None, copies=1)) == "copied"


def test_the_most_suspicious_come_first():
    rows = [row(prompt="a", beyond=0.1), row(prompt="b", beyond=0.8), row(prompt="c", memorized=True), row(prompt="d", copies=2)]
    assert [r["prompt"] for r in ranked(rows)] == ["d", "c", "b", "a"]
    assert "1 copied" in summary(rows) and summary([]) == "nothing was audited"


def test_where_nothing_was_found_comes_last():
    rows = [row(prompt="clean", memorized=False, guard_score=9.0)] * 3
    rows += [row(prompt="failed", error="broken", agreement=None), row(prompt="open", memorized=None), row(prompt="found", memorized=True)]
    assert [r["prompt"] for r in finished(rows)] == ["found", "open", "failed", "clean", "clean", "clean"]
    assert counts(rows) == {"nothing found": 3, "failed": 1, "not judged": 1, "memorized": 1}
    assert "3 rows need a look" in page(finished(rows), "", {}) and "1 row needs a look" in page(finished(rows[2:4]), "", {})


class Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.sources, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [v for k, v in attrs if k in ("src", "href") and v]
        assert not any(k.startswith("on") for k, _ in attrs)

    def handle_data(self, data):
        self.text += data


def test_a_hostile_prompt_is_text():
    made = page(finished([row(prompt=HOSTILE, error=HOSTILE, nearest=HOSTILE)]), HOSTILE, {"model": {"name": HOSTILE}, HOSTILE: HOSTILE})
    made.encode("utf-8")
    reader = Reader()
    reader.feed(made)
    assert reader.tags.count("script") == 1 and reader.tags.count("table") == 1 and "img" not in reader.tags
    assert "<script>alert(1)</script>" in reader.text


def test_bases_are_a_column_where_there_are_several():
    one, other = row(base="one (0a)"), row(base=HOSTILE)
    assert ">base</button>" not in page(finished([one, one]), "", {}) and ">base</button>" not in page(finished([row()]), "", {})
    made = page(finished([one, other]), "", {})
    assert ">base</button>" in made and 'data-name="base" data-value="one (0a)"' in made and "<script>alert(1)" not in made


def test_the_page_holds_everything_itself():
    made = page(finished([row(thumbnails=["data:image/jpeg;base64,AAAA"])]), "", {})
    reader = Reader()
    reader.feed(made)
    assert reader.sources == ["data:image/jpeg;base64,AAAA"] and "http" not in made.replace("http-equiv", "")


def test_what_was_not_judged_is_neither_found_nor_fine_and_takes_no_room():
    rows = finished([row(memorized=True), row(memorized=None), row(memorized=False), row(error="broken")])
    assert {r["verdict"]: (r["fine"], r["found"]) for r in rows} == {
        "memorized": (False, True), "not judged": (False, False), "nothing found": (True, False), "failed: broken": (False, False),
    }  # fmt: skip
    made = page(rows, "", {})
    assert made.count('class="mark bad"') == 1 and made.count('class="mark open"') == 2 and made.count('class="mark ok"') == 1
    assert 'class="words" data-name="agreement of seeds"' not in page(finished([row(), row(agreement=None)]), "", {}), (
        "as narrow as a number"
    )
