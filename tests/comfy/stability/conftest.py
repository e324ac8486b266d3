"""A guarded demo model."""

from __future__ import annotations

import pytest


@pytest.fixture
def guard(demo, guarding, stored):
    """guard(mode=..., limit=..., ...) -> clone of the demo under guard, record."""
    return lambda mode="detect", **more: guarding.guarded(demo[0], guarding.Guard(stored, mode, **more))
