"""Benchmarks run seldom: what they take of other modules must still be there when those change."""

from __future__ import annotations

import ast
import importlib
from types import ModuleType

FOLDERS = ("benchmarks", "demo/scripts", "batch", "docs")


def modules(root):
    return [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py")) if path.name != "__init__.py"]


def test_every_attribute_of_a_module_exists(comfy, root):
    missing, seen = [], 0
    for path in modules(root):
        name = ".".join(("unmemorize_pack", *path.relative_to(root).with_suffix("").parts))
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("unmemorize_pack"):
                raise
            continue  # an optional extra, or a tool of development
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                held = getattr(module, node.value.id, None)
                if isinstance(held, ModuleType):
                    seen += 1
                    if not hasattr(held, node.attr):
                        missing.append(f"{path.name}:{node.lineno}: {node.value.id}.{node.attr}")
    assert not missing and seen > 100, missing
