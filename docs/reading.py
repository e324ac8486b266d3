"""What the tests say of themselves, read from their source: nothing is imported, nothing runs."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"


@cache
def tree(file: str) -> ast.Module:
    """Syntax tree of a test module, by its path below tests/."""
    return ast.parse((TESTS / file).read_text(encoding="utf-8"))


def constant(file: str, name: str) -> list[str]:
    """The names in a module's constant: a dict's keys, or the strings of a tuple, list or set, in their order."""
    for node in tree(file).body:
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [name]:
            return _names(file, node.value)
    raise LookupError(f"tests/{file} has no constant {name}")


def cases(file: str, test: str) -> list[str]:
    """What a test is parametrised with, where these are names: the README says what this test runs on, and no more."""
    for node in tree(file).body:
        if isinstance(node, ast.FunctionDef) and node.name == test:
            marks = [d for d in node.decorator_list if isinstance(d, ast.Call) and ast.unparse(d.func) == "pytest.mark.parametrize"]
            if len(marks) != 1:
                raise LookupError(f"{test} in tests/{file} must be parametrised exactly once, by a table of names")
            return _names(file, marks[0].args[1])
    raise LookupError(f"tests/{file} has no test {test}")


def is_there(file: str, test: str) -> None:
    """LookupError unless there is such a test: a sentence of the README stands on it."""
    if not any(isinstance(node, ast.FunctionDef) and node.name == test for node in tree(file).body):
        raise LookupError(f"tests/{file} has no test {test}")


def _names(file: str, value: ast.expr) -> list[str]:
    if isinstance(value, ast.Name):
        return constant(file, value.id)
    parts = value.keys if isinstance(value, ast.Dict) else value.elts if isinstance(value, ast.Tuple | ast.List | ast.Set) else []
    found = [p.value for p in parts if isinstance(p, ast.Constant) and isinstance(p.value, str)]
    if not found or len(found) != len(parts):
        raise LookupError(f"tests/{file}: {ast.unparse(value)[:60]} is not a table of names")
    return found
