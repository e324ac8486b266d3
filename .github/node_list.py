"""Writes the list of nodes that ComfyUI-Manager reads (node_list.json: id -> description) to standard output, from the source alone."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

NODES = Path(__file__).resolve().parents[1] / "nodes"


def node_list(folder: Path) -> dict[str, str]:
    """Node id -> description of every Schema(...) call in a folder's modules."""
    found = {}
    for path in sorted(folder.glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("Schema"):
                words = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
                if "node_id" in words:
                    found[words["node_id"]] = words.get("description", "")
    return dict(sorted(found.items()))


if __name__ == "__main__":
    json.dump(node_list(NODES), sys.stdout, indent=1)
