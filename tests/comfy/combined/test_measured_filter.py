"""Filter LoRA by Measuring against the real ComfyUI: a LoRA of two known parts, files, refusals."""

from __future__ import annotations

import importlib
import json

import pytest
import torch
from unmemorize_pack.tests.comfy.loras import LEAKING

USE = {"seed": 3, "steps": 6, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
LATENT = {"samples": torch.zeros(1, 8, 16, 16)}
CAPTION = "a small red circle on a gray background"


@pytest.fixture(scope="module")
def measuring(comfy):
    return importlib.import_module("unmemorize_pack.host.combined.measured_filter")


@pytest.fixture(scope="module")
def file(nodes):
    with torch.inference_mode():
        return nodes["UnmemorizeOpenLoRA"].execute(LEAKING).args[:2]


@pytest.fixture(scope="module")
def two_parts(demo, host):
    """A LoRA that changes values of attention to text in two directions: one that the words alone call, and feed-forward layers, which
    every prompt passes."""
    generator = torch.Generator().manual_seed(7)
    weights = demo[0].model.state_dict()
    names = [k.removesuffix(".weight") for k in weights if k.startswith("diffusion_model.")]
    tensors = {}
    for name in names:
        weight = weights.get(f"{name}.weight")
        if weight is None or weight.ndim != 2 or not ("attn2.to_k" in name or "ff.net.2" in name):
            continue
        key = "lora_unet_" + name.removeprefix("diffusion_model.").replace(".", "_")
        size = 0.25 if "attn2" in name else 0.02
        up, down = torch.randn(weight.shape[0], 2, generator=generator), torch.randn(2, weight.shape[1], generator=generator)
        tensors |= {
            f"{key}.lora_up.weight": size * up,
            f"{key}.lora_down.weight": down / down.shape[1] ** 0.5,
            f"{key}.alpha": torch.tensor(2.0),
        }
    return tensors


def job_of(measuring, demo, lora, **changes):
    facts = {
        "tensors": lora, "model": demo[0], "clip": demo[1], "captions": [CAPTION, "a large blue star on a white background"],
        "reference": "", "latent": LATENT, "use": USE, "keep": 0.5,
    }  # fmt: skip
    return measuring.MeasuredJob(**(facts | changes))


def test_groups_are_named_and_counted(measuring, demo, file):
    found = measuring.filter_by_measuring(job_of(measuring, demo, file[0], captions=[CAPTION], keep=1.0, use=USE | {"steps": 4}))
    kinds = {"cross-attention queries", "cross-attention keys", "cross-attention values", "cross-attention output", "attention"}
    assert kinds <= set(found.layers) <= {*kinds, "feed-forward", "other layers"}
    assert sum(found.layers.values()) == len({k.split(".")[0] for k in file[0]})


def test_what_only_the_words_call_goes_and_the_rest_keeps_its_bytes(measuring, demo, two_parts, sample):
    """Where the part in the attention to text moves each prompt its own way, it is what is weakened; the model draws what it drew."""
    before = sample(CAPTION)
    found = measuring.filter_by_measuring(job_of(measuring, demo, two_parts))
    assert torch.equal(before, sample(CAPTION))
    assert set(found.layers) == {"cross-attention keys", "feed-forward"}
    last = found.path[-1]
    assert found.leaks, f"the planted part does not stand out: {found.agreements}"
    assert last.strengths["cross-attention keys"] < 1 and last.effect.leak < 0.6 and last.effect.kept >= 0.5
    for key, tensor in two_parts.items():
        if "_ff_" in key and last.strengths["feed-forward"] == 1:
            assert found.kept[key] is tensor and key not in found.removed
    assert all(a >= b for a, b in zip(found.after, found.agreements, strict=True))


def test_kept_and_removed_add_up(measuring, demo, two_parts):
    found = measuring.filter_by_measuring(job_of(measuring, demo, two_parts))

    def total(tensors, key):
        up = f"{key}.lora_up.weight"
        return tensors[up].float() @ tensors[f"{key}.lora_down.weight"].float() if up in tensors else 0.0

    for key in {k.split(".")[0] for k in two_parts}:
        assert torch.allclose(total(found.kept, key) + total(found.removed, key), total(two_parts, key), atol=1e-6)


def test_a_lora_that_moves_all_alike_is_left_alone(measuring, demo, two_parts):
    """Feed-forward layers alone: nothing leaks, nothing is removed, every tensor is the very same."""
    common = {k: t for k, t in two_parts.items() if "_ff_" in k}
    found = measuring.filter_by_measuring(job_of(measuring, demo, common))
    assert not found.leaks and len(found.path) == 1 and all(found.kept[k] is t for k, t in common.items()) and not found.removed
    assert "nothing was removed" in measuring.report(found, job_of(measuring, demo, common))["verdict"]


def test_same_seed_same_answer_and_the_cost_is_counted(measuring, demo, two_parts):
    one, two = (measuring.filter_by_measuring(job_of(measuring, demo, two_parts, captions=[CAPTION])) for _ in range(2))
    assert one.path == two.path and one.evaluations == two.evaluations
    runs, places = 2 * USE["steps"], 2 * len({int(p * USE["steps"]) for p in measuring.PLACES})
    assert (one.evaluations - runs) % places == 0


def test_the_node_notes_what_was_done_and_saves(nodes, demo, two_parts, host, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    result = nodes["UnmemorizeMeasuredLoRAFilter"].execute(
        lora=two_parts, model=demo[0], clip=demo[1], latent=LATENT, captions=f"# mine\n{CAPTION}", reference="", keep=0.5,
        info={"name": "two"}, **USE,
    )  # fmt: skip
    kept, _removed, info, leak, share, text = result.args
    facts = json.loads(text)
    assert facts["leak_left"] == pytest.approx(leak, abs=1e-3) and facts["common_kept"] == pytest.approx(share, abs=1e-3)
    assert facts["settings"]["captions"] == 1 and info["filter"]["source"]["name"] == "two" and CAPTION not in json.dumps(info)
    name = nodes["UnmemorizeSaveFilteredLoRA"].execute(lora=kept, name="mine", info=info).args[0]
    assert (tmp_path / name).exists() or (tmp_path / f"{name}.safetensors").exists()


def test_bad_input_is_refused_before_any_work(measuring, demo, two_parts, monkeypatch):
    monkeypatch.setattr(measuring, "_Measuring", lambda *_: pytest.fail("work began"))
    for changes, words in (
        ({"captions": []}, "no caption"),
        ({"keep": 1.5}, "keep"),
        ({"use": USE | {"scheduler": "nobody"}}, "nobody"),
        ({"tensors": {"nobody.lora_up.weight": torch.zeros(2, 2)}}, "Nothing in this LoRA"),
    ):
        with pytest.raises(ValueError, match=words):
            measuring.filter_by_measuring(job_of(measuring, demo, two_parts, **changes))


def test_what_no_filter_touches_is_kept_and_never_called_removed(measuring, demo, two_parts):
    """The two parts add up to the LoRA."""
    foreign = two_parts | {"mystery.weight": torch.ones(3)}
    found = measuring.filter_by_measuring(job_of(measuring, demo, foreign))
    assert "mystery.weight" in found.kept and "mystery.weight" not in found.removed and found.removed


def test_one_place_below_the_limit_alone_removes_nothing(measuring, demo, two_parts, monkeypatch):
    """Report and search go by the mean of a caption's run."""
    values = iter([0.9, 0.9, 0.3, 0.9] * 50)
    monkeypatch.setattr(measuring, "agreements", lambda changes, _before: [next(values) for _ in changes])
    found = measuring.filter_by_measuring(job_of(measuring, demo, two_parts))
    assert not found.leaks and all(torch.equal(found.kept[k], v) for k, v in two_parts.items())
