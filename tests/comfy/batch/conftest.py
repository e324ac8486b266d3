"""The command line."""

from __future__ import annotations

import importlib
from typing import Any

import pytest


@pytest.fixture(scope="session")
def command(comfy: Any) -> Any:
    """batch.command."""
    return importlib.import_module("unmemorize_pack.batch.command")
