"""What the benchmark of memory measures, at a small size with large pictures: they are not held, and holding them would be seen."""

from __future__ import annotations

import importlib

import pytest
import torch

MEBI = 2**20


@pytest.fixture
def bench(comfy, tmp_path, monkeypatch):
    import folder_paths

    for name in ("input", "output", "user"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"get_{name}_directory", lambda name=name: str(tmp_path / name))
    return importlib.import_module("unmemorize_pack.benchmarks.memory")


def test_memory_that_is_held_is_seen(bench):
    watch, held = bench.Memory(20), []
    for _ in range(20):
        held.append(torch.ones(4 * MEBI))
        watch.tick()
    assert watch.growth() > 200 * MEBI, "18 of 16 MiB each"


def test_references_are_let_go(bench):
    """40 pictures of 1024 pixels are 480 MiB as they are decoded; of each 27 KiB stay."""
    found = bench.of_references(40, 1024)
    assert found["references"] == 40 and found["kept_mib"] < 2
    assert found["listing_growth_mib"] < 100 and found["features_growth_mib"] < 100 and found["compare_growth_mib"] < 200


def test_an_audit_lets_its_pictures_go(bench):
    """Four pictures of 256 pixels are 3 MiB, of 15 prompts 45; what the process takes beside them, by chance, was up to 18 MiB in all."""
    found = bench.of_audit(16, 256)
    assert found["audited_prompts"] == 16 and found["audit_growth_kib"] < 2048
