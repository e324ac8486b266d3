"""What benchmarks of the guard draw with."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest


def test_a_generator_has_its_own_model_again_whatever_happens(comfy):
    guarding = importlib.import_module("unmemorize_pack.benchmarks.parts.guarding")
    generator = SimpleNamespace(model="own")
    with pytest.raises(RuntimeError), guarding.lent(generator, "other"):
        assert generator.model == "other"
        raise RuntimeError
    assert generator.model == "own"
