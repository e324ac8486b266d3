"""What users read: messages, tooltips, help pages."""

from __future__ import annotations

import ast
import json
import re

import pytest

BOTH_NUMBERS = re.compile(r"[a-z]\(e?s\)")


def words_of(path):
    """Texts of a file: of Python its strings without docstrings, else all of it."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return [text]
    tree = ast.parse(text)
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return [
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone
    ]


@pytest.mark.parametrize("room", ["batch", "host", "nodes", "unmemorize", "demo", "js", "locales", "workflows", "subgraphs", "README.md"])
def test_nothing_is_one_or_several_at_once(root, room):
    """A number is known where it is said: 1 leak, 2 leaks."""
    files = (
        [root / room]
        if (root / room).is_file()
        else [p for p in (root / room).rglob("*") if p.suffix in (".py", ".md", ".json", ".mjs", ".js")]
    )
    assert files
    found = {f"{path.relative_to(root)}: {text[max(0, m.start() - 20) : m.end()]}" for path in files for text in words_of(path)
             for m in BOTH_NUMBERS.finditer(text)}  # fmt: skip
    assert found == set()


def percent(value, before=1.0):
    """A share in percent, as sentences have it: 98 of .7667 against .7833."""
    return f"{100 * value / before:.0f}"


def bare(value, digits=2):
    """A number as the demo's pages have it: .97."""
    return f"{value:.{digits}f}".removeprefix("0")


QUOTED = {
    "js/docs/UnmemorizeMeasuredLoRAFilter.md": lambda r: [
        f"{100 * r['lora_measured']['memorized_rate_after']:.1f} % of the runs were still copies "
        f"({percent(r['lora_measured']['memorized_rate_before'])} % before)",
        f"{percent(r['lora_measured']['wanted_after_leaking'], r['lora_measured']['wanted_before_leaking'])} % of the style was left",
        f"no copy and {percent(r['lora_measured']['wanted_after_everyday_leaking'], r['lora_measured']['wanted_before_leaking'])} %",
    ],
    "js/docs/UnmemorizePruneNeurons.md": lambda r: [
        f"{percent(r['neurons']['density'])} % of the weights of these layers",
        f"of 100 ordinary pictures that were right {percent(r['neurons']['adherence_drop'])} no longer are",
    ],
    "README.md": lambda r: [
        f"of 100 ordinary pictures that were right {percent(r['neurons']['adherence_drop'])} no longer are",
        f"{r['curvature']['evals_default']:.0f} at the defaults",
        f"left {percent(r['lora_measured']['memorized_rate_after'])} % at "
        f"{percent(r['lora_measured']['wanted_after_leaking'], r['lora_measured']['wanted_before_leaking'])} % of the style",
        f"({percent(r['lora']['memorized_rate_before'])} % before)",
    ],
    "demo/README.md": lambda r: [
        f"({bare(r['lab']['copies_cfg_1'])}; published: fewer)",
        f"in {bare(r['lab']['sony_static_artefacts'])} (static) and {bare(r['lab']['sony_opposite_artefacts'])} (opposite)",
        f"({bare(r['lab']['auroc_dh0_tv'])}; .95 was the aim)", f"scenes obey in {bare(r['lab']['scene_adherence'], 4)} of the runs",
    ],
}  # fmt: skip
"""What pages quote of the committed results."""


@pytest.mark.parametrize("page", QUOTED)
def test_quoted_numbers_are_those_that_were_measured(root, page):
    results = {p.stem: json.loads(p.read_text(encoding="utf-8"))["metrics"] for p in (root / "benchmarks/results").glob("*.json")}
    text = re.sub(r"\*\*|\s+", lambda m: " " if m[0].isspace() else "", (root / page).read_text(encoding="utf-8"))
    assert [quote for quote in QUOTED[page](results) if quote not in text] == []


@pytest.mark.parametrize("language", ["zh", "ja", "ko", "ru", "fr", "es"])
def test_translations_say_the_numbers_of_the_english_texts(root, language):
    """A number that was changed in English alone leaves six languages that advise something else."""
    english, theirs = (
        _texts(json.loads((root / f"locales/{name}/nodeDefs.json").read_text(encoding="utf-8"))) for name in ("en", language)
    )
    assert {path: theirs[path] for path, text in english.items() if not _numbers(text) <= _numbers(theirs[path])} == {}


def _texts(tree, path=""):
    """Every text of a tree by its place."""
    if isinstance(tree, str):
        return {path: tree}
    return {place: text for key, below in tree.items() for place, text in _texts(below, f"{path}/{key}").items()}


def _numbers(text):
    return set(re.findall(r"\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d)", ".", text)))
