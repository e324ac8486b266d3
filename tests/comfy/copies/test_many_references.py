"""Thousands of references: what stays in memory is what the detector keeps of each, whatever their size."""

from __future__ import annotations

import importlib
import weakref

import pytest
import torch


@pytest.fixture
def tools(comfy, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    return {n: importlib.import_module(f"unmemorize_pack.host.copies.{n}") for n in ("references", "detectors")}


class Planted:
    """A detector whose features are large beside pictures that are larger still."""

    name, same, least = "planted", 0.9, 0.5
    SIZE = 1 << 16

    def prepare(self, pictures):
        return torch.full((len(pictures), self.SIZE), int(255 * float(pictures[0, 0, 0, 0])), dtype=torch.uint8)


def test_pictures_are_read_one_after_the_other_and_let_go(tools, monkeypatch):
    references, count = tools["references"], 200
    read, seen = [], []

    def picture(_self, i):
        assert sum(one() is not None for one in seen) <= 1, "earlier pictures are still held"
        made = torch.full((3, 30, 30), i / 255)
        read.append(i)
        seen.append(weakref.ref(made))
        return made

    monkeypatch.setattr(references.References, "picture", picture)
    known = references.References([str(i) for i in range(count)], [f"{i:032x}" for i in range(count)], [torch.zeros(0)] * count)
    found = references.features(known, Planted(), lambda: None)
    assert found.shape == (count, Planted.SIZE) and read == list(range(count))
    assert torch.equal(found[:, 0], torch.arange(count, dtype=torch.uint8)), "each in its place"
    again = references.features(known, Planted(), lambda: None)
    assert torch.equal(again, found) and len(read) == count, "from the cache"


def test_a_cached_feature_of_another_shape_is_made_anew(tools, monkeypatch):
    references = tools["references"]
    known = references.of_batch(torch.rand(3, 8, 8, 3))
    before = references.features(known, Planted(), lambda: None)
    path = references._path(known.hashes[1], Planted.name)
    references.files.replace(path, {"features": torch.zeros(3)}, references.store.facts_as_metadata({"kind": references.KIND}))
    assert torch.equal(references.features(known, Planted(), lambda: None), before)
