"""The page of `nox -s demo`: the README's first command."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "workflows").glob("*.json"))
QUICK = ("02-", "06-", "14-", "22-")


class Page(HTMLParser):
    """Ids, sources of pictures and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.sources: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.sources += [found["src"]] if "src" in found else []

    def handle_data(self, data):
        self.words += data


def test_report_tells_what_ran_and_shows_the_rest(server, tmp_path):
    from unmemorize_pack.demo.live import report

    chosen = [f for f in FILES if f.stem.startswith(QUICK)]
    facts = {"comfyui": "0.0.0", "boot_seconds": 1.0}
    page = Page(report.write(server, FILES, chosen, tmp_path / "pictures", facts))

    assert page.ids == ["leak", "guard", "lora-guard", "meaning", "others", "sheet", "details"]
    assert all(source.startswith("data:image/") for source in page.sources)
    guard, lora = page.words.split("A sampler that notices")[1].split("The same for a LoRA")
    for part in guard, lora.split("How to read this")[0]:
        # a memory that is drawn again, then a scene that is left alone
        assert re.findall("stock KSampler: (a copy|no copy)", part) == ["a copy", "no copy"]
        assert re.findall("under guard: (a copy|no copy)", part) == ["no copy", "no copy"]
    assert len(re.findall(r"\d\d: (?:drawn now|as it comes)", page.words)) == len(FILES) - 3
    assert [p.name[:2] for p in sorted((tmp_path / "pictures").glob("*.jpg"))] == ["02", "06", "14", "22"]


def test_what_is_run_by_default_has_a_section_each():
    from unmemorize_pack.demo.live import report

    assert all(any(f.stem.startswith(name) for f in FILES) for name in report.STORY)
    assert set(report.STORY) <= set(report.SECTIONS)
