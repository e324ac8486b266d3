"""The README's tables are those that the tests and the committed results make, and its links lead somewhere."""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import re

import pytest

HEADING = re.compile(r"^#+ (.*)$", re.M)


@pytest.fixture
def room():
    """room("name") -> that module of docs/."""
    return lambda name: importlib.import_module(f"unmemorize_pack.docs.{name}")


@pytest.fixture
def text(root):
    return (root / "README.md").read_text(encoding="utf-8")


def test_generated_tables_are_up_to_date(room, text):
    readme = room("readme")
    for name, body in readme.regions(text).items():
        rows = [line for line in body.splitlines() if line.startswith("|")]
        assert len(rows) >= 4 and all(row.count("|") == rows[0].count("|") for row in rows), f"{name} is empty or broken"
    assert readme.rewritten(text) == text, "run `nox -s readme`"


def test_a_missing_region_is_an_error(room, text):
    readme = room("readme")
    for name in readme.TABLES:
        with pytest.raises(LookupError, match="has the regions"):
            readme.rewritten(text.replace(f"<!-- generated: {name} -->", ""))


def test_tables_stand_on_tests_that_exist(room):
    reading = room("reading")
    with pytest.raises(LookupError, match="has no test"):
        reading.cases("comfy/stability/test_samplers.py", "test_that_nobody_wrote")
    with pytest.raises(LookupError, match="has no constant"):
        reading.constant("comfy/stability/test_samplers.py", "NOTHING")
    with pytest.raises(LookupError, match="exactly once"):
        reading.cases("comfy/stability/test_samplers.py", "test_every_scheduler_is_watched_without_a_trace")


def test_results_cope_with_families_that_were_not_measured(room, tmp_path):
    """Two labs side by side; what nobody measured has no row, what one lab lacks an empty cell, what was never reached says so."""
    measured = room("measured")
    result = '{"metrics": {"iou_best_tv": 0.912, "cost_ratio_r99": null, "odd": 1}, "intervals": {"iou_best_tv": [0.9, 0.925]}}'
    (tmp_path / "curvature.json").write_text(result)
    (tmp_path / "lab2.json").write_text('{"metrics": {"clean_false_rate": 0.00625}, "intervals": {}}')
    lines = measured.measured(tmp_path).splitlines()
    assert lines[0] == "|  |  | lab | lab2 |" and len(lines) == 5
    assert lines[2].startswith("| Demo model | clean captions") and lines[2].endswith("|  | 0.6 % |")
    assert lines[3].endswith("| 0.91 (0.90-0.93) |  |") and lines[4].endswith("| not reached |  |")


def test_results_of_an_earlier_demo_model_say_so(room, root, tmp_path, text):
    """In the README and in RESULTS.md; a result that read the bundled checkpoint does not."""
    measured = room("measured")
    bundled = hashlib.sha256(measured.CHECKPOINT.read_bytes()).hexdigest()[:16]
    row = '{{"metrics": {{"iou_best_tv": 0.9}}, "intervals": {{}}, "files": {{"checkpoint": "{}"}}}}'
    for read, said in ((bundled, False), ("0" * 16, True)):
        (tmp_path / "curvature.json").write_text(row.format(read))
        assert (measured.OLDER in measured.measured(tmp_path)) == said
    sections = dict(
        re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", (root / "benchmarks/RESULTS.md").read_text(encoding="utf-8"), re.M | re.S)
    )
    titles = re.search(r"^TITLES = (\{.*?^\})", (root / "benchmarks/results.py").read_text(encoding="utf-8"), re.M | re.S)
    for family, title in ast.literal_eval(titles[1]).items():
        result = json.loads((root / f"benchmarks/results/{family}.json").read_text(encoding="utf-8"))
        older = measured.is_older(result)
        assert ("on an earlier demo model than" in sections[title]) == older, family
        assert f"| {measured.HEADLINES[family][0]}{measured.OLDER if older else ''} |" in text, family


def test_every_headline_is_a_metric_that_its_benchmark_writes(room, root):
    """Names are looked for in the benchmark's source, as a whole or as the beginning of one that is put together there."""
    for family, (_, metrics) in room("measured").HEADLINES.items():
        name = room("measured").BENCHMARK_OF.get(family, family)
        source = (root / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
        assert [m for m in metrics if f'"{m}"' not in source] == [], family


def test_links_lead_somewhere(text, root):
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("http")]
    anchors = {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in HEADING.findall(text)}
    assert links and [link for link in links if not (link[1:] in anchors if link.startswith("#") else (root / link).exists())] == []


def test_the_oldest_python_that_is_promised_is_the_one_that_is_checked(text, root):
    """What a newer one alone has (`datetime.UTC`) would end a node at its last line."""
    settings = (root / "pyproject.toml").read_text(encoding="utf-8")
    (oldest,) = re.findall(r'^requires-python = ">=3\.(\d+)"$', settings, re.M)
    assert f'target-version = "py3{oldest}"' in settings and f'python_version = "3.{oldest}"' in settings
    assert f"Python 3.{oldest} or newer" in text
