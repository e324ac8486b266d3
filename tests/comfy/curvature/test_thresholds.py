"""Map thresholds and their calibration, on the real demo checkpoint."""

from __future__ import annotations

import importlib
import json

import pytest
import torch
from safetensors.torch import save_file

from ..maps import PHOTO, SETTINGS


def test_uncalibrated_threshold_is_flagged(nodes, measure):
    result = measure()[0]
    mask, area, calibrated, report = nodes["UnmemorizeMapThreshold"].execute(result).args
    assert mask.shape == (2, 16, 16) and set(mask.unique().tolist()) <= {0.0, 1.0} and 0 < area < 1
    assert calibrated is False and json.loads(report)["threshold"] == "uncalibrated (Otsu)"
    large, *_ = nodes["UnmemorizeMapThreshold"].execute(result, image=torch.rand(2, 128, 128, 3)).args
    assert large.shape == (2, 128, 128) and torch.equal(large[:, ::8, ::8], mask)


@pytest.fixture(scope="module")
def calibration(nodes, demo, root):
    facts = json.loads((root / "demo/lab/lab.json").read_text())
    prompts = "# clean\n" + "\n".join(facts["held_out_captions"][:20])
    node = nodes["UnmemorizeCalibrateMapThreshold"]
    sampling = {"steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}
    with torch.inference_mode():
        return node.execute(
            model=demo[0], clip=demo[1], latent={"samples": torch.zeros(1, 8, 16, 16)}, prompts=prompts, **sampling, **SETTINGS
        ).args


def test_calibrated_threshold(nodes, measure, calibration):
    found, threshold = calibration
    assert found["prompts"] == 20 and threshold == found["threshold"] > 0
    result = measure()[0]
    mask, _, calibrated, report = nodes["UnmemorizeMapThreshold"].execute(result, found).args
    assert calibrated is True and torch.equal(mask > 0, result["values"] / 8 > threshold)
    assert json.loads(report)["prompts"] == 20


def test_a_verdict_in_the_overlay(nodes, measure, calibration):
    """The threshold lies in the middle of the colours, the verdict speaks of what lies above it inside the mask."""
    result, picture = measure()[0], torch.rand(2, 128, 128, 3)
    look = {"colour_map": "ember", "opacity": 0.85, "full_heat": 0.0, "clip": 99.0, "smooth": "0"}
    node, threshold = nodes["UnmemorizeHeatmapOverlay"], calibration[1]
    plain = node.execute(picture, result, **look).ui["unmemorize_report"][0]
    assert "verdict" not in plain
    found = node.execute(picture, result, **look, calibration=calibration[0])
    report, view = found.ui["unmemorize_report"][0], found.ui["unmemorize_overlay"][0]
    assert report["full_heat"] == pytest.approx(2 * threshold) and view["limit"] == threshold
    assert [m["top"] for m in view["maps"]] == pytest.approx([2 * threshold] * 2, rel=1e-4)
    areas = (result["values"] / 8 > threshold).float().mean((1, 2)).tolist()
    assert report["areas"] == pytest.approx(areas)
    low, high = (
        {**calibration[0], "threshold": value} for value in (float(result["values"].min()) / 8 - 1, float(result["values"].max()) / 8)
    )
    verdict = lambda c, **more: node.execute(picture, result, **look, calibration=c, **more).ui["unmemorize_report"][0]["verdict"]  # noqa: E731
    assert (verdict(low), verdict(high)) == ("memorized", "clean")
    hottest = torch.zeros(1, 16, 16)
    hottest[0].view(-1)[result["values"][0].argmax()] = 1
    middle = {**calibration[0], "threshold": float(result["values"][0].max()) / 8 - 1e-6}
    inside = torch.nn.functional.interpolate(hottest[:, None], (128, 128))[:, 0]
    assert verdict(middle, mask=inside) == verdict(middle) != "memorized", "clean pictures were measured whole"
    nothing = {**result, "region": torch.zeros_like(result["region"])}
    assert json.loads(nodes["UnmemorizeMapThreshold"].execute(nothing, low).args[3])["verdict"] == "unclear"
    assert (
        node.execute(picture, result, **look | {"full_heat": 9.0}, calibration=calibration[0]).ui["unmemorize_report"][0]["full_heat"] == 9
    )


def test_a_threshold_is_kept_and_comes_back(nodes, calibration, monkeypatch, tmp_path):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    save, load = nodes["UnmemorizeSaveMapThreshold"], nodes["UnmemorizeLoadMapThreshold"]
    assert save.execute(calibration[0], "mine").args == ("mine",)
    assert save.execute(calibration[0], "mine").args == ("mine_001",)
    back, report = load.execute("mine").args
    assert back == calibration[0] and json.loads(report)["prompts"] == 20
    assert load.validate_inputs("mine") is True and "no map threshold" in load.validate_inputs("theirs")
    with pytest.raises(ValueError, match="not a calibration"):
        save.execute({"x": 1}, "mine")


@pytest.mark.parametrize(("caption", "verdict"), [(PHOTO, "memorized"), ("a small red circle on a gray background", "clean")])
def test_the_demo_threshold_judges_as_template_01_shows_it(nodes, demo, encode, sample, caption, verdict):
    """The bundled one, on maps as users measure them."""
    known = nodes["UnmemorizeLoadMapThreshold"].execute("demo/demo").args[0]
    given = {"model": demo[0], "positive": encode(caption), "negative": encode(""), "latent": {"samples": sample(caption, steps=20, n=1)}}
    result = nodes["UnmemorizeCurvatureDifferenceMap"].execute(**given | SETTINGS | {"preset": "recommended"}).args[0]
    report = json.loads(nodes["UnmemorizeMapThreshold"].execute(result, known).args[3])
    assert (report["threshold"], report["verdict"]) == ("calibrated", verdict)


def test_a_calibration_that_does_not_fit_is_refused(nodes, measure, calibration):
    node = nodes["UnmemorizeMapThreshold"]
    with pytest.raises(ValueError, match="another way than this map: sigmas"):
        node.execute(measure(sigmas="0.4")[0], calibration[0])
    with pytest.raises(ValueError, match="Calibrate at the size"):
        node.execute(measure()[0], {**calibration[0], "width": 64})
    other = {**calibration[0]["settings"], "model": {**calibration[0]["settings"]["model"], "layout": "of another model"}}
    with pytest.raises(ValueError, match="another model: the two differ in weights"):
        node.execute(measure()[0], {**calibration[0], "settings": other})
    with pytest.raises(ValueError, match="not a calibration"):
        node.execute(measure()[0], {"x": 1})


def test_too_few_prompts_are_refused_before_work(nodes, demo):
    node = nodes["UnmemorizeCalibrateMapThreshold"]
    sampling = {"steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}
    with pytest.raises(ValueError, match="2 different prompt"):
        node.execute(
            model=demo[0], clip=demo[1], latent={"samples": torch.zeros(1, 8, 16, 16)}, prompts="a\n# b\n\nc", **sampling, **SETTINGS
        )


@pytest.mark.parametrize("fact", [{"quantile": 1.0}, {"quantile": 0.0}, {"prompts": 1}, {"threshold": -1.0}])
def test_a_file_by_which_all_would_be_memorized_or_clean_is_refused(nodes, calibration, tmp_path, fact):
    """A verdict rests on the share of clean pixels that lie above the threshold: that must be a small one, and not none."""
    thresholds = importlib.import_module("unmemorize_pack.host.curvature.thresholds")
    for changes, refused in ((fact, True), ({}, False)):
        tensors, metadata = thresholds.as_file(calibration[0] | changes)
        save_file(tensors, tmp_path / "threshold.safetensors", metadata)
        if refused:
            with pytest.raises(ValueError, match=next(iter(fact))):
                thresholds.read_threshold(tmp_path / "threshold.safetensors")
        else:
            thresholds.read_threshold(tmp_path / "threshold.safetensors")


def test_a_small_region_is_judged_by_more_than_its_share(nodes, measure, calibration):
    """One hot spot of sixteen that were drawn is what chance makes of one clean picture in thirteen."""
    result = measure()[0]
    region, values = torch.zeros_like(result["region"]), torch.zeros_like(result["values"])
    region[:, 4:8, 4:8], values[:, 4, 4] = 1, 8 * 2 * calibration[1]
    judge = lambda **parts: json.loads(nodes["UnmemorizeMapThreshold"].execute({**result, **parts}, calibration[0]).args[3])["verdict"]  # noqa: E731
    assert judge(region=region, values=values) == "unclear"
    values[1, 4:8, 4:8] = 8 * 2 * calibration[1]
    assert judge(region=region, values=values) == "memorized", "the worst of the batch"
