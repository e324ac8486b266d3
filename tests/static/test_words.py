"""What users read: messages, tooltips, help pages."""

from __future__ import annotations

import ast
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
