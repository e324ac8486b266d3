"""What a run of the command line has written."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Every unit's row."""
    return list(importlib.import_module("unmemorize_pack.batch.rows").all_rows(folder))
