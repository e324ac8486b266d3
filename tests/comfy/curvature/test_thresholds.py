"""Map thresholds and their calibration, on the real demo checkpoint."""

from __future__ import annotations

import json

import pytest
import torch

from ..maps import SETTINGS


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


def test_a_calibration_that_does_not_fit_is_refused(nodes, measure, calibration):
    node = nodes["UnmemorizeMapThreshold"]
    with pytest.raises(ValueError, match="another way than this map: sigmas"):
        node.execute(measure(sigmas="0.4")[0], calibration[0])
    with pytest.raises(ValueError, match="Calibrate at the size"):
        node.execute(measure()[0], {**calibration[0], "width": 64})
    other = {**calibration[0]["settings"], "model": {**calibration[0]["settings"]["model"], "layout": "of another model"}}
    with pytest.raises(ValueError, match="another model: weights"):
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
