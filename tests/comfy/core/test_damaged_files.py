"""Files of ours with one thing wrong: refused at load, with the file's name and the fact's, whatever it is."""

from __future__ import annotations

import copy
import importlib
import json
import math

import pytest
import torch

BAD = [None, True, -1, 1e308, 10**400, math.nan, math.inf, "", "x", "\ud800", [], {}, [1], [[]], {"a": 1}, 1.5, "7", "x" * 100_000]


@pytest.fixture(scope="module")
def kinds(comfy, root):
    """Kind -> (reader, tensors, facts) of a good file."""
    files = importlib.import_module("unmemorize_pack.host.core.files")
    profiles, masks, thresholds = (
        importlib.import_module(f"unmemorize_pack.host.{n}") for n in ("stability.profiles", "neurons.masks", "curvature.thresholds")
    )
    lab = root / "demo" / "lab"
    found = {}
    for name, reader in (("profiles", profiles.read_profile), ("masks", masks.read_mask)):
        tensors, metadata = files.read(lab / name / "demo.safetensors", name)
        found[name] = (reader, tensors, json.loads(metadata["unmemorize"]))
    model = found["profiles"][2]["model"]
    settings = {"method": "dh_0", "sigmas": [0.2], "probes": 12, "structured": True, "noises": 1, "estimator": "forward difference"}
    calibration = {"threshold": 0.1, "quantile": 0.995, "prompts": 24, "height": 16, "width": 16, "settings": {**settings, "model": model}}
    tensors, metadata = thresholds.as_file(calibration)
    found["thresholds"] = (thresholds.read_threshold, tensors, json.loads(metadata["unmemorize"]))
    return found


@pytest.fixture
def written(tmp_path):
    """written(tensors, facts or text) -> path"""
    from safetensors.torch import save_file

    def write(tensors: dict, facts: object) -> object:
        path = tmp_path / "some.safetensors"
        save_file(tensors, path, metadata={"unmemorize": facts if isinstance(facts, str) else json.dumps(facts)})
        return path

    return write


KINDS = ("profiles", "masks", "thresholds")


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_file_is_read(kinds, written, kind):
    read, tensors, facts = kinds[kind]
    read(written(tensors, facts))


@pytest.mark.parametrize("kind", KINDS)
def test_every_fact_is_looked_at(kinds, written, kind):
    """Left out, or any of many wrong values: an error that names file and fact, or (a fact nobody reads) the file as it was."""
    read, tensors, facts = kinds[kind]
    needed = set()
    for key in facts:
        if key == "kind":
            continue
        less = {k: v for k, v in facts.items() if k != key}
        try:
            read(written(tensors, less))
        except ValueError as error:
            assert "'some.safetensors' is damaged" in str(error) and repr(key) in str(error)
            needed.add(key)
    assert len(needed) >= 5
    for key in needed:
        for value in BAD:
            changed = {**facts, key: value}
            try:
                found = read(written(tensors, changed))
            except ValueError as error:
                str(error).encode()  # a half of a character in a message kills ComfyUI's worker
                assert "'some.safetensors' is damaged" in str(error), (key, value)
                assert len(str(error)) < 500
            else:
                again = found if isinstance(found, dict) else found.facts
                json.dumps({k: v for k, v in again.items()}, allow_nan=False)


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_is_looked_at(kinds, written, kind):
    """Left out, of another shape, rank or type, or with values that are no numbers."""
    read, tensors, facts = kinds[kind]
    for key, good in tensors.items():
        changes = [good.reshape(1, *good.shape), torch.zeros(0, dtype=good.dtype), good.to(torch.complex64), good.bool()]
        if good.ndim:
            changes += [good[:-1], torch.cat([good, good[:1]]), good.to(torch.int64), torch.zeros((), dtype=good.dtype)]
        if good.is_floating_point():
            changes += [torch.full_like(good, v) for v in (math.nan, math.inf, -math.inf)]
        for changed in changes:
            if changed.shape == good.shape and changed.dtype == good.dtype and torch.equal(changed, good):
                continue
            with pytest.raises(ValueError, match="'some.safetensors' is damaged"):
                read(written({**tensors, key: changed.contiguous()}, facts))
        if key in ("threshold", "angles", "score") or key.startswith("bits."):
            with pytest.raises(ValueError, match="'some.safetensors' is damaged.*missing"):
                read(written({k: v for k, v in tensors.items() if k != key} or {"other": good}, facts))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lost", ["architecture", "prediction", "weights", "patches"])
def test_a_model_described_in_part_is_refused(kinds, written, kind, lost):
    """What is later told about the model must be there; what only newer versions note is asked for when models are compared."""
    read, tensors, facts = kinds[kind]
    changed = copy.deepcopy(facts)
    owner = changed if "model" in changed else changed["settings"]
    del owner["model"][lost]
    with pytest.raises(ValueError, match=f"'some.safetensors' is damaged.*{lost}"):
        read(written(tensors, changed))


PROFILE_DAMAGE = {
    "angles not ascending": ("angles", lambda t: t.flip(0)),
    "angles out of range": ("angles", lambda t: t * 3),
    "deviations of nothing": ("sd.revision", torch.zeros_like),
    "negative deviations": ("sd.revision", lambda t: -t),
    "no spread": ("score", lambda t: t * torch.tensor([1.0, 0.0], dtype=t.dtype)),
    "a spread beyond all bounds": ("score", lambda t: t * torch.tensor([1.0, 1e6], dtype=t.dtype)),
    "deviations beyond all bounds": ("sd.revision", lambda t: t * 0 + 1e30),
    "means beyond all bounds": ("mean.sharpness", lambda t: t * 0 + 1e30),
    "negative spread": ("score", lambda t: t * torch.tensor([1.0, -1.0], dtype=t.dtype)),
}


@pytest.mark.parametrize("damage", PROFILE_DAMAGE)
def test_a_profile_that_would_call_everything_clean_is_refused(kinds, written, damage):
    read, tensors, facts = kinds["profiles"]
    key, change = PROFILE_DAMAGE[damage]
    with pytest.raises(ValueError, match="is damaged"):
        read(written({**tensors, key: change(tensors[key]).contiguous()}, facts))


@pytest.mark.parametrize("signal", ["latent", "update", "prediction", "revision", "sharpness"])
def test_a_profile_without_a_signal_that_is_needed_is_refused(kinds, written, signal):
    read, tensors, facts = kinds["profiles"]
    for names in ({f"mean.{signal}", f"sd.{signal}"}, {f"sd.{signal}"}):
        with pytest.raises(ValueError, match="is damaged"):
            read(written({k: t for k, t in tensors.items() if k not in names}, facts))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("which", ["angles", "mean.update", "sd.sharpness"])
def test_a_profile_in_another_precision_serves_too(kinds, written, guarding, demo, draw, which, dtype):
    """One tensor or all of them stored otherwise: read, or refused, never a mixture that breaks while sampling."""
    read, tensors, facts = kinds["profiles"]
    try:
        stored = read(written({**tensors, which: tensors[which].to(dtype)}, facts))
    except ValueError as error:
        assert "is damaged" in str(error)
        return
    for method in ("recommended", "paper"):
        model, record = guarding.guarded(demo[0], guarding.Guard(stored, "detect", method))
        draw(model, cfg=3.0, steps=stored.facts["steps"])
        assert record.facts["not_judged"] == [""]


def test_a_mask_of_another_shape_is_refused_before_the_sampler(kinds, written, nodes, demo):
    """Wider, narrower, or turned: the first side alone says too little."""
    read, tensors, facts = kinds["masks"]
    prune = nodes["UnmemorizePruneNeurons"].execute
    prune(demo[0], read(written(tensors, facts)), 1.0)
    key, (out, d) = next(iter(facts["shapes"].items()))
    for side in (8, 2 * d):
        width = -(-side // 8)
        changed = {f"bits.{key}": torch.zeros(out, width, dtype=torch.uint8)}
        changed |= {k: torch.zeros(t.shape[0], out, width, dtype=torch.uint8) for k, t in tensors.items() if k == f"levels.{key}"}
        stored = read(written({**tensors, **changed}, {**facts, "shapes": {**facts["shapes"], key: [out, side]}}))
        with pytest.raises(ValueError, match="has the shape"):
            prune(demo[0], stored, 1.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "written_facts",
    ["", "null", "[]", "{", '{"a":' * 50_000 + "1" + "}" * 50_000, "[" * 100_000, '{"kind": NaN}', '{"kind": "x"}', "9" * 5000],
    ids=lambda text: text[:12] + str(len(text)),
)
def test_facts_that_are_none(kinds, written, kind, written_facts):
    read, tensors, _ = kinds[kind]
    with pytest.raises(ValueError, match=r"'some\.safetensors'"):
        read(written(tensors, written_facts))


def test_deep_changes_of_nested_facts(kinds, written):
    """Shapes of a mask that do not belong to its tensors."""
    read, tensors, facts = kinds["masks"]
    for change in ([0, 8], [1.5, 8], [8], [10**9, 10**9], ["8", "8"], None):
        changed = copy.deepcopy(facts)
        changed["shapes"][next(iter(changed["shapes"]))] = change
        with pytest.raises(ValueError, match="is damaged"):
            read(written(tensors, changed))
