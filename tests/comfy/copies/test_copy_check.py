"""Copy Check against planted copies: verdicts, gate, calibration, detectors."""

from __future__ import annotations

import importlib
import json
import math

import pytest
import torch
import torch.nn.functional as F

SIDE = 96


def texture(seed):
    generator = torch.Generator().manual_seed(seed)
    several = [F.interpolate(torch.rand(1, 3, s, s, generator=generator), (SIDE, SIDE), mode="bicubic") for s in (8, 16, 32)]
    return (sum(several)[0] / 3).clamp(0, 1).movedim(0, -1)


@pytest.fixture(scope="module")
def remembered(tmp_path_factory):
    """The user's folder of all tests: references are compared among themselves once."""
    return tmp_path_factory.mktemp("user")


@pytest.fixture(autouse=True)
def user(comfy, remembered, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(remembered))


@pytest.fixture(scope="module")
def references(comfy):
    tools = importlib.import_module("unmemorize_pack.host.copies.references")
    return tools.of_batch(torch.stack([texture(k) for k in range(12)]))


@pytest.fixture
def check(nodes, references):
    def run(images, **changes):
        facts = {"calibrate": "references among themselves", "false_alarms": 0.1, "references": references}
        return nodes["UnmemorizeCopyCheck"].execute(images, **(facts | changes))

    return run


def blocked(value):
    return type(value).__name__ == "ExecutionBlocker"


def test_copies_are_sorted_out_and_named(check, references):
    images = torch.stack([texture(50), references.sources[3].movedim(0, -1).flip(1), texture(51)])
    accepted, rejected, nearest, mask, score, copied, indices, text = check(images).args
    facts = json.loads(text)
    assert accepted.shape[0] == 2 and torch.equal(rejected[0], images[1]) and indices == "1" and copied is True
    assert facts["pictures"][1]["nearest"] == "picture 3" and facts["pictures"][1]["copied_area"] > 0.7 and score == 1.0
    assert torch.allclose(nearest[1], references.sources[3].movedim(0, -1), atol=0.02)
    assert mask.shape == (3, SIDE, SIDE) and float(mask[1].mean()) > 0.7 > float(mask[0].mean())


def test_an_empty_side_blocks_only_what_hangs_on_it(check, references):
    honest = check(torch.stack([texture(50)])).args
    assert not blocked(honest[0]) and blocked(honest[1]) and not any(blocked(o) for o in honest[2:])
    copies = check(references.sources[0].movedim(0, -1)[None]).args
    assert blocked(copies[0]) and not blocked(copies[1]) and json.loads(copies[-1])["verdict"] == "1 of 1 is a copy"


def test_without_calibration_there_is_no_verdict(check, references):
    result = check(references.sources[0].movedim(0, -1)[None], calibrate="not at all").args
    facts = json.loads(result[-1])
    assert facts["pictures"][0]["copy"] is None and facts["verdict"].startswith("uncalibrated") and result[5] is False
    assert result[4] == pytest.approx(facts["pictures"][0]["score"], abs=1e-3)
    assert blocked(result[0]) and blocked(result[1]), "what cannot be told is neither accepted nor rejected"


def test_grey_pictures_are_compared_and_none_is_refused(check, references):
    grey = references.sources[2].mean(0)[None, ..., None]
    facts = json.loads(check(grey).args[-1])
    assert facts["pictures"][0]["copy"] is True and facts["pictures"][0]["nearest"] == "picture 2"
    with pytest.raises(ValueError, match="No picture came in"):
        check(torch.zeros(0, SIDE, SIDE, 3))


def test_a_broken_picture_is_neither_accepted_nor_rejected(check):
    result = check(torch.stack([torch.full_like(texture(50), math.nan), texture(51)])).args
    facts = json.loads(result[-1])
    assert [p["copy"] for p in facts["pictures"]] == [None, False] and "1 could not be judged" in facts["verdict"]
    assert torch.equal(result[0], texture(51)[None]) and blocked(result[1]) and not math.isnan(result[4])


def test_more_alike_than_narrow_honest_pictures_is_unclear_and_no_copy(check):
    """Honest pictures of one kind are all less alike than any other: that another kind is more alike proves nothing."""
    plain = torch.stack([torch.full((SIDE, SIDE, 3), 0.1 + 0.02 * k) for k in range(12)])
    images = torch.stack([texture(50)])
    accepted, rejected, _, _, _, copied, indices, text = check(images, calibrate="honest pictures", honest=plain).args
    facts = json.loads(text)
    assert facts["pictures"][0]["score"] > facts["threshold"], "the textures are more alike than flat pictures are"
    assert facts["pictures"][0]["copy"] is None and facts["pictures"][0]["verdict"] == "unclear" and "1 unclear" in facts["verdict"]
    assert blocked(accepted) and blocked(rejected) and indices == "" and copied is False


def test_honest_pictures_calibrate(check, references):
    honest = torch.stack([texture(100 + k) for k in range(20)])
    facts = json.loads(check(references.sources[0].movedim(0, -1)[None], honest=honest, false_alarms=0.05).args[-1])
    assert facts["calibrated_by"] == "honest pictures" and facts["honest_pictures"] == 20 and facts["pictures"][0]["copy"] is True


def test_references_among_themselves_are_compared_once(check, references, monkeypatch, tmp_path):
    """Their best matches are remembered by content; a damaged or foreign file is made anew."""
    monkeypatch.setattr(importlib.import_module("folder_paths"), "get_user_directory", lambda: str(tmp_path))
    detectors = importlib.import_module("unmemorize_pack.host.copies.detectors")
    picture, counts, real = references.sources[0].movedim(0, -1)[None], [], detectors.BuiltIn.compare
    monkeypatch.setattr(detectors.BuiltIn, "compare", lambda self, a, b, tick: (counts.append(len(a)), real(self, a, b, tick))[1])
    first = json.loads(check(picture).args[-1])
    again = json.loads(check(picture).args[-1])
    assert counts == [12, 1, 1] and again == first
    (kept,) = tmp_path.rglob("calibrations/*.safetensors")
    kept.write_bytes(b"nothing")
    assert json.loads(check(picture).args[-1]) == first and counts == [12, 1, 1, 12, 1]
    of_batch = importlib.import_module("unmemorize_pack.host.copies.references").of_batch
    check(picture, references=of_batch(torch.stack([texture(80 + k) for k in range(12)])))
    assert counts[5:] == [12, 1], "as many other references have likenesses of their own"


def test_large_sets_are_calibrated_by_fewer(comfy):
    checking = importlib.import_module("unmemorize_pack.host.copies.checking")
    assert [checking._calibrating(m, 0.02) for m in (12, 300, 1000, 2000, 10_000)] == [12, 166, 100, 100, 100]
    assert checking._calibrating(10_000, 0.001) == 400, "no more than are compared at most: that rate is then refused"


def test_a_rate_that_cannot_be_told_is_refused_before_work(check, monkeypatch):
    checking = importlib.import_module("unmemorize_pack.host.copies.checking")
    monkeypatch.setattr(checking, "features", lambda *_: pytest.fail("work began"))
    with pytest.raises(ValueError, match="at least 99"):
        check(texture(1)[None], false_alarms=0.01)


def test_cancel_ends_the_comparison(check, monkeypatch):
    import comfy.model_management as management

    management.interrupt_current_processing(True)
    try:
        with pytest.raises(management.InterruptProcessingException):
            check(texture(1)[None])
    finally:
        management.interrupt_current_processing(False)


# --- other detectors ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(comfy):
    """SSCD's network with random weights, as its authors' file names them."""
    from torchvision.models import resnet50

    torch.manual_seed(0)
    return {f"backbone.{k}": v for k, v in resnet50(num_classes=512).state_dict().items()}


@pytest.fixture(scope="module")
def sscd(comfy):
    return importlib.import_module("unmemorize_pack.host.copies.sscd")


def test_sscd_reads_weights_files_and_finds_a_copy(sscd, weights, tmp_path, references, check):
    from safetensors.torch import save_file

    torch.save(weights, tmp_path / "sscd.torchvision.pt")
    save_file(weights, tmp_path / "sscd.safetensors")
    detectors = [sscd.of_weights(sscd.read(tmp_path / name)) for name in ("sscd.torchvision.pt", "sscd.safetensors")]
    assert detectors[0].name == detectors[1].name
    kept = detectors[0].prepare(torch.stack(references.sources[:2]))
    assert kept.shape == (2, 2, 512) and torch.allclose(kept.norm(dim=-1), torch.ones(2, 2), atol=1e-4)
    facts = json.loads(check(references.sources[5].movedim(0, -1)[None], detector=detectors[0], calibrate="not at all").args[-1])
    assert facts["pictures"][0]["nearest"] == "picture 5" and facts["pictures"][0]["score"] == pytest.approx(1.0, abs=1e-3)


def test_sscds_preprocessing_is_torchvisions(sscd):
    from torchvision import transforms

    theirs = transforms.Compose([transforms.Resize(288, antialias=True), transforms.Normalize(sscd.MEAN, sscd.DEVIATION)])
    for shape in ((3, 300, 451), (3, 640, 300), (3, 100, 120)):
        p = torch.rand(shape)
        assert torch.allclose(sscd.prepared(p[None])[0], theirs(p), atol=1e-4)


def test_a_strip_is_refused_before_it_fills_the_memory(sscd):
    """The small edge becomes 288 pixels."""
    with pytest.raises(ValueError, match="too narrow a strip"):
        sscd.prepared(torch.zeros(1, 3, 1, 200))


def test_sscds_pooling_is_a_generalised_mean(sscd):
    x = torch.rand(2, 4, 5, 6)
    assert torch.allclose(sscd._GeM()(x)[:, :, 0, 0], x.pow(3).mean((2, 3)).pow(1 / 3), atol=1e-6)


def test_wrong_files_name_the_right_one(sscd, weights, tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "sscd.torchscript.pt"))
    (tmp_path / "sscd.pt").write_bytes(b"nothing")
    for name in ("sscd.torchscript.pt", "sscd.pt"):
        with pytest.raises(ValueError, match="torchvision.pt"):
            sscd.read(tmp_path / name)
    for wrong in ({"a": torch.zeros(1)}, {k: v[:1] if k.endswith("fc.weight") else v for k, v in weights.items()}):
        with pytest.raises(ValueError, match="torchvision.pt"):
            sscd.of_weights(wrong)


def test_clip_vision_models_serve(comfy, references, tmp_path):
    """The core's own class with random weights: a picture is most like itself, also mirrored."""
    import os

    import comfy.clip_vision

    config = os.path.join(os.path.dirname(comfy.clip_vision.__file__), "clip_vision_config_vitl.json")
    with open(config) as file:
        facts = json.load(file) | {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    path = str(tmp_path / "small.json")
    with open(path, "w") as file:
        json.dump(facts | {"projection_dim": 32}, file)
    torch.manual_seed(0)
    model = comfy.clip_vision.ClipVisionModel(path)
    for p in model.model.parameters():
        torch.nn.init.normal_(p, std=0.05)
    detectors = importlib.import_module("unmemorize_pack.host.copies.detectors")
    detector = detectors.of_clip_vision(model)
    kept = detector.prepare(torch.stack(references.sources))
    similarity = detector.compare(kept, kept, lambda: None)
    assert bool((similarity.argmax(1) == torch.arange(len(kept))).all())
    assert detector.locate(references.sources[0], references.sources[1]).ndim == 2


def test_features_mark_the_whole_of_a_copy_and_nothing_of_a_stranger(comfy):
    """Patches of 8 x 8 as random directions of what is in them."""
    detectors = importlib.import_module("unmemorize_pack.host.copies.detectors")
    directions = torch.randn(3 * 64, 128, generator=torch.Generator().manual_seed(0))

    def encode(pictures):
        parts = F.unfold(pictures - pictures.mean((2, 3), keepdim=True), 8, stride=8).movedim(1, -1)
        rows = pictures.shape[2] // 8
        return parts.mean(1), torch.sign(parts @ directions).view(len(pictures), rows, -1, 128)

    detector = detectors.Features("planted", 0.97, encode)
    picture, other = (torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(k)) for k in (1, 2))
    assert float(detector.locate(picture, picture).mean()) > 0.99 and float(detector.locate(picture, other).mean()) < 0.1
    half = torch.cat([picture[:, :16], other[:, 16:]], 1)
    found = detector.locate(half, picture)
    assert float(found[:2].mean()) > 0.95 and float(found[2:].mean()) < 0.1


def test_what_was_not_looked_at_closely_has_no_score(comfy, references):
    detectors = importlib.import_module("unmemorize_pack.host.copies.detectors")
    detector = detectors.BuiltIn()
    kept = detector.prepare(torch.stack([*references.sources, *(texture(200 + k).movedim(-1, 0) for k in range(6))]))
    scores = detector.compare(kept[:1], kept, lambda: None)[0]
    assert int(scores.isfinite().sum()) == detectors.CLOSER < len(kept) and float(scores[0]) > 0.5


def test_a_full_gpu_leaves_the_search_to_the_cpu(comfy, references, monkeypatch):
    detectors = importlib.import_module("unmemorize_pack.host.copies.detectors")
    built_in, real, places = detectors.BuiltIn(), detectors.BuiltIn._searched, []

    def searched(pictures, several, tick, device):
        places.append(device)
        if len(places) == 1:
            raise torch.OutOfMemoryError("full")
        return real(pictures, several, tick, device)

    monkeypatch.setattr(detectors.BuiltIn, "_searched", staticmethod(searched))
    few = built_in.prepare(torch.stack(references.sources[:2]))
    scores = built_in.compare(few, few, lambda: None)
    assert len(places) == 2 and places[1].type == "cpu" and scores.diagonal().min() > 0.95
