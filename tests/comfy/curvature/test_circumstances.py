"""A threshold and a map must have been measured under the same: baseline, nodes that change the model, what prompts carry."""

from __future__ import annotations

import importlib
import json

import pytest
import torch
from safetensors.torch import save_file

from ..maps import SETTINGS

SHORT = SETTINGS | {"probes": 1}
SAMPLING = {"steps": 1, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}


@pytest.fixture(scope="module")
def calibrate(nodes, demo, root):
    captions = json.loads((root / "demo/lab/lab.json").read_text())["held_out_captions"][:20]

    def run(model=None, **changes):
        given = {"latent": {"samples": torch.zeros(1, 8, 16, 16)}, "prompts": "\n".join(captions), **SAMPLING, **SHORT, **changes}
        with torch.inference_mode():
            return nodes["UnmemorizeCalibrateMapThreshold"].execute(model=model or demo[0], clip=demo[1], **given).args[0]

    return run


@pytest.fixture(scope="module")
def weak(nodes, demo):
    return nodes["UnmemorizeLoadDemoLoRA"].execute(demo[0], "style", 0.15).args[0]


@pytest.fixture(scope="module")
def against_the_base(calibrate, demo, weak):
    return calibrate(weak, method="ds_~", baseline=demo[0])


@pytest.fixture
def judge(nodes):
    return lambda found, calibration: json.loads(nodes["UnmemorizeMapThreshold"].execute(found, calibration).args[3])["verdict"]


# --- the baseline -------------------------------------------------------------------------------------------


def test_another_baseline_gives_no_verdict(measure, judge, against_the_base, nodes, demo, weak, early):
    ask = lambda **more: judge(measure(**SHORT | {"method": "ds_~"} | more)[0], against_the_base)  # noqa: E731
    assert ask(model=weak, baseline=demo[0]) in ("memorized", "unclear", "clean")
    stronger = nodes["UnmemorizeLoadDemoLoRA"].execute(demo[0], "style", 1.0).args[0]
    for changed, words in (
        ({"model": weak, "baseline": early}, "another baseline: the two differ in weights of the baseline"),
        ({"model": stronger, "baseline": weak}, "another baseline: the two differ in LoRAs of the model, LoRAs of the baseline"),
        ({"model": stronger, "baseline": demo[0]}, "another baseline: the two differ in LoRAs of the model"),
    ):
        with pytest.raises(ValueError, match=words):
            ask(**changed)


def test_the_baseline_is_kept_and_files_without_it_are_refused(host, measure, judge, against_the_base, demo, weak, tmp_path):
    thresholds, found = host("curvature.thresholds"), measure(**SHORT | {"method": "ds_~", "model": weak, "baseline": demo[0]})[0]
    older = {**against_the_base, "settings": {k: v for k, v in against_the_base["settings"].items() if k != "baseline"}}
    for calibration in (against_the_base, older):
        tensors, metadata = thresholds.as_file(calibration)
        save_file(tensors, tmp_path / "threshold.safetensors", metadata)
        back = thresholds.read_threshold(tmp_path / "threshold.safetensors")
        assert back == calibration and "baseline" not in thresholds.report_of(back)
        if calibration is older:
            with pytest.raises(ValueError, match="another baseline: its file does not say which"):
                judge(found, back)
        else:
            judge(found, back)


def test_reports_show_short_identities(measure, demo):
    report = json.loads(measure(**SHORT | {"method": "ds_~", "baseline": demo[0]})[2])
    assert set(report["baseline"]) == set(report["model"]) and "values" not in report["model"]


# --- other nodes --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def freed(demo):
    free = importlib.import_module("comfy_extras.nodes_freelunch").FreeU_V2
    return free.execute(demo[0], 1.3, 1.4, 0.9, 0.2).args[0] if hasattr(free, "execute") else free().patch(demo[0], 1.3, 1.4, 0.9, 0.2)[0]


def test_a_map_under_other_nodes_has_no_verdict(measure, judge, nodes, freed, demo, sample):
    """By the bundled threshold, which was measured without any: its file does not speak of them."""
    known = nodes["UnmemorizeLoadMapThreshold"].execute("demo/demo").args[0]
    settings = SETTINGS | {"preset": "recommended", "latent": {"samples": sample("a red ring", steps=2)}}
    assert judge(measure(**settings)[0], known) in ("memorized", "unclear", "clean")
    with pytest.raises(ValueError, match=r"Other nodes .*output_block_patch only now"):
        judge(measure(**settings, model=freed)[0], known)
    listened = nodes["UnmemorizeRecordScoreDifference"].execute(demo[0], 0.0, 1.0).args[0]
    assert judge(measure(**settings, model=listened)[0], known), "our own nodes only listen"


def test_a_threshold_under_the_same_nodes_serves(host, measure, judge, calibrate, freed, tmp_path):
    found = calibrate(freed)
    tensors, metadata = host("curvature.thresholds").as_file(found)
    save_file(tensors, tmp_path / "threshold.safetensors", metadata)
    assert host("curvature.thresholds").read_threshold(tmp_path / "threshold.safetensors") == found
    assert judge(measure(**SHORT, model=freed)[0], found)
    with pytest.raises(ValueError, match=r"output_block_patch only while it was measured"):
        judge(measure(**SHORT)[0], found)


# --- what prompts carry -------------------------------------------------------------------------------------


def test_a_picture_in_the_positive_prompt_alone_is_said(measure, judge, nodes, encode):
    """An editing model's reference picture is no memory."""
    helpers = importlib.import_module("node_helpers")
    carries = lambda text: helpers.conditioning_set_values(encode(text), {"reference_latents": [torch.zeros(1, 8, 16, 16)]})  # noqa: E731
    for negative, said in ((encode(""), True), (carries(""), False)):
        found, _, report = measure(**SHORT, positive=carries("a red ring"), negative=negative)
        warnings = json.loads(report).get("warnings", [])
        assert len(warnings) == said and all("Only the positive prompt holds reference_latents" in w for w in warnings)
        assert found["settings"]["influences"] == ["reference_latents"]
