"""One mechanism for the files of every kind: profiles, masks, map thresholds, LoRAs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

TENSORS = {"x": torch.arange(3.0)}


@pytest.fixture
def store(comfy: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    paths = importlib.import_module("folder_paths")
    monkeypatch.setattr(paths, "get_user_directory", lambda: str(tmp_path / "user"))
    (tmp_path / "loras").mkdir()
    monkeypatch.setitem(paths.folder_names_and_paths, "loras", ([str(tmp_path / "loras")], {".safetensors"}))
    monkeypatch.setattr(paths, "filename_list_cache", {})
    return importlib.import_module("unmemorize_pack.host.core.store")


@pytest.fixture(params=["stability.profiles.PROFILES", "neurons.masks.MASKS", "curvature.thresholds.THRESHOLDS", "lora.lora_files.LORAS"])
def kind(request: pytest.FixtureRequest, comfy: Any) -> Any:
    module, name = request.param.rsplit(".", 1)
    return getattr(importlib.import_module(f"unmemorize_pack.host.{module}"), name)


def test_what_is_saved_is_listed_found_and_never_overwritten(store, kind):
    bundled = store.names(kind)
    assert all(n.startswith(store.BUNDLED) for n in bundled)
    first, second = (store.save(kind, "mine/a name.v1", TENSORS, {"n": str(n)}) for n in range(2))
    importlib.import_module("folder_paths").filename_list_cache.clear()
    assert store.names(kind) == [second, first, *bundled] or store.names(kind) == [first, second, *bundled]
    files = importlib.import_module("unmemorize_pack.host.core.files")
    for n, name in enumerate((first, second)):
        tensors, metadata = files.read(store.find(kind, name), kind.noun)
        assert torch.equal(tensors["x"], TENSORS["x"]) and metadata == {"n": str(n)}
    assert {p.name for p in kind.home().rglob("*") if p.is_file()} == {"a name.v1.safetensors", "a name.v1_001.safetensors"}


def test_a_folder_that_cannot_be_opened_hides_no_other(store, kind, shut):
    saved = [store.save(kind, f"{folder}/x", TENSORS, {}) for folder in ("a", "b", "c")]
    (kind.home() / "a" / "link.safetensors").symlink_to(kind.home() / "b" / "x.safetensors")
    shut(kind.home() / "b")
    importlib.import_module("folder_paths").filename_list_cache.clear()
    assert {saved[0], saved[2]} <= set(store.names(kind))


def test_comfyuis_list_that_fails_is_empty_and_that_is_said(store, caplog, monkeypatch):
    def failing(_kind):
        raise PermissionError(13, "Permission denied", "models/loras/theirs")

    monkeypatch.setattr(importlib.import_module("folder_paths"), "get_filename_list", failing)
    loras, sscd = (importlib.import_module(f"unmemorize_pack.host.{name}") for name in ("lora.lora_files", "copies.sscd"))
    assert store.names(loras.LORAS) == list(store.bundled(loras.LORAS)) and sscd.names() == []
    assert "cannot list its loras: 'models/loras/theirs'" in caplog.text and "clip_vision" in caplog.text


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "demo/../../x", "a/../../x", "nothing", "", "mine/../mine/x"])
def test_only_listed_names_are_read(store, kind, name):
    store.save(kind, "mine/x", TENSORS, {})
    with pytest.raises(ValueError, match="in the list"):
        store.find(kind, name)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a//b", "", " ", ".", "a/..", "a\0b", "a:b", "C:\\x"])
def test_names_that_are_none(store, kind, name):
    with pytest.raises(ValueError, match="file name|leads outside"):
        store.save(kind, name, TENSORS, {})
    assert not kind.home().exists() or not list(kind.home().rglob("*.safetensors"))


def test_links_out_of_the_store_are_not_followed_for_writing(store, kind, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    kind.home().mkdir(parents=True, exist_ok=True)
    (kind.home() / "link").symlink_to(outside, target_is_directory=True)
    with pytest.raises(ValueError, match="leads outside"):
        store.save(kind, "link/x", TENSORS, {})
    assert not list(outside.iterdir())


def test_the_packs_own_names_are_reserved_where_they_could_be_mistaken(store):
    profiles = importlib.import_module("unmemorize_pack.host.stability.profiles").PROFILES
    for name in ("demo/x", " demo/x"):
        with pytest.raises(ValueError, match="the pack's own"):
            store.save(profiles, name, TENSORS, {})


def test_a_map_threshold_comes_back_as_it_was(store):
    thresholds = importlib.import_module("unmemorize_pack.host.curvature.thresholds")
    settings = {"method": "dh_0", "sigmas": [0.2], "probes": 12, "structured": True, "noises": 1, "estimator": "reverse mode"}
    settings["model"] = dict.fromkeys(("architecture", "prediction", "weights", "patches"), "0")
    known = {"threshold": 0.1234567890123, "quantile": 0.995, "prompts": 20, "height": 8, "width": 9, "settings": settings}
    name = store.save(thresholds.THRESHOLDS, "mine", *thresholds.as_file(known))
    assert thresholds.read_threshold(store.find(thresholds.THRESHOLDS, name)) == known
    other = store.save(thresholds.THRESHOLDS, "other", TENSORS, store.facts_as_metadata({"kind": "map threshold"}))
    with pytest.raises(ValueError, match="damaged"):
        thresholds.read_threshold(store.find(thresholds.THRESHOLDS, other))
    foreign = store.save(thresholds.THRESHOLDS, "foreign", TENSORS, store.facts_as_metadata({"kind": "neuron mask"}))
    with pytest.raises(ValueError, match="not a map threshold"):
        thresholds.read_threshold(store.find(thresholds.THRESHOLDS, foreign))


LOADING = {
    "stability.profiles.PROFILES": "UnmemorizeLoadStabilityProfile", "neurons.masks.MASKS": "UnmemorizeLoadNeuronMask",
}  # fmt: skip


@pytest.mark.parametrize("place", LOADING)
def test_a_file_in_the_place_of_another_of_the_same_facts_is_loaded_anew(store, nodes, place):
    """Measured again with other prompts, a profile says the same of itself."""
    module, name = place.rsplit(".", 1)
    kind, node = getattr(importlib.import_module(f"unmemorize_pack.host.{module}"), name), nodes[LOADING[place]]
    saved = store.save(kind, "mine", TENSORS, {})
    stamp = node.fingerprint_inputs(saved)
    assert node.fingerprint_inputs(saved) == stamp and node.fingerprint_inputs("nobody") == "missing"
    store.find(kind, saved).unlink()
    assert store.save(kind, "mine", {"x": TENSORS["x"] + 1}, {}) == saved and node.fingerprint_inputs(saved) != stamp
