"""Stability Chart reads text that may come from anywhere."""

from __future__ import annotations

import copy
import importlib
import json
import math
from types import SimpleNamespace

import pytest
import torch

BAD = [None, True, -1, 1e308, 10**400, math.nan, "", "\ud800", [], {}, [[]], [None], {"a": 1}, "x" * 10_000]


@pytest.fixture(scope="module")
def report(nodes, demo, encode):
    """Of two guarded pictures."""
    with torch.inference_mode():
        profile = nodes["UnmemorizeLoadStabilityProfile"].execute("demo/demo").args[0]
        given = {"seed": 1, "steps": 4, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0, "mode": "detect"}
        given |= {"cfg": profile.facts["cfg"], "method": "recommended", "profile": profile, "model": demo[0]}
        given |= {"positive": encode("a small red ring on a gray background"), "negative": encode("")}
        result = nodes["UnmemorizeKSamplerStabilityGuard"].execute(**given, latent_image={"samples": torch.zeros(2, 8, 16, 16)})
    return json.loads(result.args[3])


@pytest.fixture
def chart(nodes):
    return lambda found: nodes["UnmemorizeStabilityChart"].execute(0, report=found if isinstance(found, str) else json.dumps(found))


def test_a_report_is_read(chart, report):
    assert chart(report).args[0].shape[0] == 1


def test_every_fact_of_a_report_is_looked_at(chart, report):
    for key in report:
        for value in BAD:
            found = {**report, key: value}
            try:
                chart(found)
            except ValueError as error:
                str(error).encode()
                assert "report" in str(error) and len(str(error)) < 800, (key, value)
        less = {k: v for k, v in report.items() if k != key}
        try:
            chart(less)
        except ValueError as error:
            assert "report" in str(error)


def test_a_report_of_before_there_were_trials_is_read(chart, report):
    assert chart({k: v for k, v in report.items() if k != "acquitted"}).args[0].shape[0] == 1


def test_deep_damage(chart, report):
    changes = [
        ("observed", lambda d: d["prediction"].pop()), ("observed", lambda d: d["prediction"][0].pop()), ("scores", lambda d: d.pop()),
        ("memorized", lambda d: d.append(True)), ("restarted", lambda d: d.append(7)), ("sigmas", lambda d: d.pop()),
        ("regions", lambda d: d["update"][0].append(1.0)), ("edited_steps", lambda d: d.update({"0": ["x"]})),
        ("redrawn", lambda d: d.update({"0": {"tries": 1, "memorized": "no", "score": None}})),
        ("acquitted", lambda d: d.update({"0": "no"})),
        ("observed", lambda d: d["update"][0].__setitem__(0, "<img src=x onerror=alert(1)>")),
    ]  # fmt: skip
    for key, change in changes:
        found = copy.deepcopy(report)
        change(found[key])
        with pytest.raises(ValueError, match="report"):
            chart(found)


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "NaN", "[" * 100_000, '{"observed": {}}', '"x"', "3"])
def test_what_is_no_report(chart, text):
    with pytest.raises(ValueError, match="report"):
        chart(text)


# --- video with its sound, which newer cores keep as one latent of several kinds ---------------------------------


@pytest.fixture
def nested(comfy):
    """A latent of two kinds, as ComfyUI 0.33 has them; 0.3.75 has none, so that its class stands here."""
    try:
        made = importlib.import_module("comfy.nested_tensor").NestedTensor
    except ModuleNotFoundError:
        made = lambda parts: SimpleNamespace(is_nested=True, unbind=lambda: parts, shape=parts[0].shape)  # noqa: E731
    return made([torch.arange(512.0).reshape(1, 8, 8, 8), torch.ones(1, 4, 32)])


def test_marks_of_several_kinds_are_those_of_the_run_that_made_them(host, nested):
    """The guard sees such a run as one row of numbers; Stability Chart is given the latent that came of it."""
    latents = host("core.latents")
    packed = torch.cat([part.reshape(1, 1, -1) for part in nested.unbind()], 2)
    assert latents.is_marked(nested, latents.marks(packed)) and not latents.is_marked(nested, latents.marks(packed + 1))


def test_no_profile_is_measured_of_several_kinds(nodes, demo, encode, nested):
    """Since no run of them is judged, and before anything is drawn."""
    given = {"model": demo[0], "clip": demo[1], "negative": encode(""), "latent": {"samples": nested}, "seed": 1, "steps": 2, "cfg": 2.0}
    given |= {"sampler_name": "euler", "scheduler": "normal"}
    for name, more in (
        ("UnmemorizeCalibrateStabilityProfile", {"seeds": 5, "prompts": "a ring"}),
        ("UnmemorizeModelStabilityProfile", {"prompts": ""}),
    ):
        with pytest.raises(ValueError, match="one kind of latent"):
            nodes[name].execute(**given, **more)
