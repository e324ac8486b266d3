"""What nodes put on a model beside weights: other values are another model, the same values made anew are the same."""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch

USE = {"seed": 1, "steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}


@pytest.fixture(scope="module")
def extras(comfy):
    return importlib.import_module("unmemorize_pack.host.combined.audit_extras").extras


@pytest.fixture
def put(demo):
    """put("RescaleCFG", 0.7): the demo model behind ComfyUI's own node."""

    def run(name, *values):
        node = getattr(importlib.import_module("comfy_extras.nodes_model_advanced"), name)
        found = getattr(node(), getattr(node, "FUNCTION", "execute"))(demo[0], *values)
        return getattr(found, "args", found)[0]

    return run


@pytest.mark.parametrize(
    ("node", "one", "other"),
    [("ModelSamplingSD3", (3.0,), (3.01,)), ("ModelSamplingFlux", (1.15, 0.5, 512, 512), (1.2, 0.5, 512, 512)),
     ("ModelSamplingDiscrete", ("eps", False), ("v_prediction", False)), ("ModelSamplingDiscrete", ("eps", False), ("eps", True)),
     ("ModelSamplingContinuousEDM", ("eps", 120.0, 0.002), ("eps", 80.0, 0.002)), ("RescaleCFG", (0.7,), (0.5,))],
)  # fmt: skip
def test_another_value_is_another_model_and_the_same_made_anew_is_not(extras, put, node, one, other):
    first, second = extras(put(node, *one)), extras(put(node, *other))
    assert first.digests.keys() == second.digests.keys() and first.digests != second.digests
    assert extras(put(node, *one)) == first and not first.unseen


def test_the_schedule_of_the_checkpoint_itself_counts(extras, demo, put, monkeypatch):
    plain = extras(demo[0])
    assert extras(demo[0].clone()) == plain and list(plain.digests) == ["sampling"]
    sampling = demo[0].get_model_object("model_sampling")
    monkeypatch.setattr(sampling, "linear_end", 0.013, raising=False)
    assert extras(demo[0]) != plain


def test_a_run_changes_nothing(extras, put, demo, draw, stored):
    guarding = importlib.import_module("unmemorize_pack.host.stability.guard")
    guarded, record = guarding.guarded(demo[0], guarding.Guard(stored))
    for model in (put("ModelSamplingDiscrete", "eps", True), put("RescaleCFG", 0.7), guarded):
        before = extras(model)
        draw(model)
        assert extras(model) == before and extras(model.clone()) == before
    assert record.facts and extras(guarding.guarded(demo[0], guarding.Guard(stored, limit=0.5))[0]) != before


def test_what_a_function_was_made_with_is_seen(extras, demo):
    class Held:
        __slots__ = ("inner",)

        def __init__(self, inner):
            self.inner = inner

        def patch(self, x):
            return x

    def with_patch(function):
        model = demo[0].clone()
        model.set_model_attn2_patch(function)
        return extras(model)

    def made(value):
        kept = {"list": [1, (value, "a")], "me": None}
        kept["me"] = kept  # a circle
        return lambda x: (kept, x)

    kinds = (
        made, lambda v: functools.partial(made, v), lambda v: Held(SimpleNamespace(a=v)).patch, lambda v: made(torch.full((2, 3), v)),
        lambda v: made(torch.full((3,), v).numpy()), lambda v: made(demo[0].clone() if v < 2 else demo[0].clone().model_options.copy),
        lambda v: lambda x, y=v: x, lambda v: made({"a", "b", str(v)}), lambda v: made(torch.nn.ParameterList([torch.full((2,), v)])),
    )  # fmt: skip
    for kind in kinds:
        one, again, other = with_patch(kind(1.0)), with_patch(kind(1.0)), with_patch(kind(2.0))
        assert one == again != other and not one.unseen
    assert with_patch(lambda x: x + 1) != with_patch(lambda x: x + 2)


def test_wrappers_and_what_is_attached_count_too(extras, demo):
    def with_all(value):
        model = demo[0].clone()
        model.add_wrapper_with_key("outer_sample", "x", lambda executor, *a: executor(*a) * value)
        model.set_attachments("y", SimpleNamespace(value=value))
        return extras(model).digests

    one, other = with_all(1), with_all(2)
    assert {name for name in one if one[name] != other[name]} == {"wrapper outer_sample", "attachment y"}


def test_what_cannot_be_looked_into_is_named(extras, demo):
    model, lock, generator = demo[0].clone(), threading.Lock(), (x for x in (1, 2))
    model.set_model_attn2_patch(lambda x: (lock, x))
    model.set_model_sampler_cfg_function(lambda args: next(generator))
    assert extras(model).unseen == ["option sampler_cfg_function", "transformer patches"]


PROGRAM = """
import importlib, sys
sys.argv[1:] = []
sys.path.insert(0, ROOT + "/demo")
import run
run.add_comfyui(), run.load_pack()
module = lambda name: importlib.import_module("unmemorize_pack.host." + name)
demo, files = module("demo"), module("core.files")
model = demo.load_demo(files.HERE / "demo/lab/checkpoint.safetensors")[0]
words = {"a", "b", "c", "d"}
model.set_model_attn2_patch(lambda x: x if str(x) in {"e", "f", "g"} else (words, object()))
sys.stdout.write("found " + repr(module("combined.audit_extras").extras(model)))
"""


def test_another_start_of_comfyui_finds_the_same(comfy, root):
    line = [sys.executable, "-c", f"ROOT = {str(root)!r}\n{PROGRAM}"]
    first, second = (subprocess.run(line, capture_output=True, text=True, timeout=200, check=True).stdout for _ in range(2))
    assert "transformer patches" in first and first.partition("found")[2] == second.partition("found")[2]


@pytest.fixture
def audit(comfy, demo, encode, tmp_path, monkeypatch):
    import folder_paths

    tool = importlib.import_module("unmemorize_pack.host.combined.audit")
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    facts = {
        "clip": demo[1], "vae": demo[2], "negative": encode(""), "latent": {"samples": torch.zeros(1, 8, 8, 8)}, "prompts": ["a hat"],
        "seeds": 2, "use": USE, "name": "mine", "neighbours": 0,
    }  # fmt: skip
    return lambda model, **more: tool.run(tool.Audit(**(facts | {"model": model} | more))).rows


def test_an_audit_carries_on_with_the_same_value_alone(audit, put, nodes):
    (row,) = audit(put("RescaleCFG", 0.7))
    assert "error" not in row and audit(put("RescaleCFG", 0.7)) == [row]
    with pytest.raises(ValueError, match=r"another model or other settings \(extras \(option sampler_cfg_function\) differ\)"):
        audit(put("RescaleCFG", 0.5))
    with pytest.raises(ValueError, match="base_extras"):
        audit(put("RescaleCFG", 0.7), base=nodes["UnmemorizeLoadDemoCheckpoint"].execute("early").args[0])


def test_an_audit_of_what_cannot_be_seen_does_not_carry_on(audit, demo):
    model, lock = demo[0].clone(), threading.Lock()
    model.set_model_attn2_patch(lambda q, k, v, extra: (q, k, v) if lock else None)
    assert len(audit(model)) == 1
    with pytest.raises(ValueError, match="cannot all be looked into.*transformer patches.*another name"):
        audit(model)
    assert len(audit(model, name="another")) == 1


def test_what_is_usual_is_seen_whole(comfy, demo):
    """A compiled network, patches that hold a text encoder, a VAE or another MODEL: an audit carries on under each."""
    look = importlib.import_module("unmemorize_pack.host.combined.audit_extras").extras
    model, clip, vae = demo
    compiled, closure, patched = (model.clone() for _ in range(3))
    importlib.import_module("comfy_api.torch_helpers").set_torch_compile_wrapper(compiled, backend="inductor")
    closure.set_model_unet_function_wrapper(lambda predict, a: clip and predict(a["input"], a["timestep"], **a["c"]))

    class Holding:
        def __init__(self):
            self.model, self.vae = model, vae

    patched.set_model_patch(Holding(), "double_block")
    for one in (compiled, closure, patched):
        found = look(one)
        assert found.unseen == [] and found.digests != look(model).digests and look(one) == found
