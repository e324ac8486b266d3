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


class Choosy:
    """A detector that cannot take some pictures."""

    name, same, least = "choosy", 0.9, 0.5

    def prepare(self, pictures):
        if float(pictures.max()) > 0.9:
            raise ValueError("too bright")
        return torch.nn.functional.normalize(pictures.flatten(1)[:, :4] + 0.1, dim=1)[:, None].expand(-1, 2, -1)


def test_a_reference_that_the_detector_cannot_take_is_named_and_like_nothing(tools):
    references, detectors = tools["references"], tools["detectors"]
    pictures = torch.stack([torch.full((8, 8, 3), v) for v in (1.0, 0.2, 0.95, 0.5)])
    known = references.of_batch(pictures)
    found = references.features(known, Choosy(), lambda: None)
    assert set(known.left_out) == {"picture 0", "picture 2"} and known.left_out["picture 0"] == "too bright"
    alike = detectors.Features("any", 0.9, None).compare(-found[1:2], found, lambda: None)
    assert alike[0, [0, 2]].tolist() == [-1.0, -1.0] and alike[0, 1] == pytest.approx(-1.0, abs=1e-3), "not even of what is unlike all"
    with pytest.raises(ValueError, match="none of the references: too bright"):
        references.features(references.of_batch(torch.ones(2, 8, 8, 3)), Choosy(), lambda: None)


def test_a_cache_that_cannot_be_written_costs_time_alone(tools, monkeypatch):
    references = tools["references"]

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(references.files, "replace", full)
    known = references.of_batch(torch.rand(3, 8, 8, 3) * 0.5)
    assert references.features(known, Choosy(), lambda: None).shape == (3, 2, 4)
    references.remember("calibration", torch.zeros(3))


@pytest.mark.parametrize("count", [1, 20])
def test_networks_see_few_pictures_at_a_time(tools, count):
    detectors, seen = tools["detectors"], []

    def encode(pictures):
        seen.append(len(pictures))
        return pictures.flatten(1)[:, :4], pictures[:, :4, :2, :2].movedim(1, -1)

    assert detectors.Features("net", 0.9, encode).prepare(torch.rand(count, 3, 8, 8)).shape == (count, 2, 4)
    assert max(seen) <= detectors.TOGETHER and sum(seen) == 2 * count
