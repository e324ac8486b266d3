"""What lies beside a layer's factors: every key of a file is in one place of the report, and what is said of it is so."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from safetensors.torch import save_file

from ..loras import HOW, K, Q, kohya, pair, randn

CONV = "diffusion_model.input_blocks.1.0.in_layers.2"


def passed(report: dict) -> Counter:
    return Counter(key for keys in report["passed_through"].values() for key in keys)


@pytest.mark.parametrize("kind", ["lora", "diff"])
def test_an_alpha_is_of_the_weight_where_the_bias_changes_too(filtered, kind):
    """LyCORIS writes a difference of the bias beside it: the alpha goes with the weight, and is not said to have passed."""
    name = kohya(Q)
    weight = pair(Q, (128, 128)) if kind == "lora" else {f"{name}.diff": randn(128, 128), f"{name}.alpha": torch.tensor(4.0)}
    tensors = weight | {f"{name}.diff_b": torch.ones(128)} | pair(K, (128, 64), seed=3)
    kept, removed, report = filtered(tensors, score="mean", gate="ratio")
    assert passed(report) == {f"{name}.diff_b": 1} and kept[f"{name}.diff_b"] is tensors[f"{name}.diff_b"]
    assert f"{name}.diff_b" not in removed and f"{name}.alpha" in removed
    alone = {f"{name}.diff_b": torch.ones(128), f"{name}.alpha": torch.tensor(4.0)}
    assert set(passed(filtered(alone | pair(K, (128, 64)))[2])) == set(alone)


def test_a_new_shape_is_part_of_its_layer(filtered):
    """Nothing in the layer is ignored: it changes the weight's shape, and stays as it is."""
    padded = pair(Q, (128, 128)) | {f"{kohya(Q)}.reshape_weight": torch.tensor([128, 128])}
    kept, _, report = filtered(padded | pair(K, (128, 64)))
    assert report["passed_through"] == {"it changes the layer's shape": list(padded)} and all(kept[k] is t for k, t in padded.items())


@pytest.mark.parametrize("score", ["mean", "singular value", "cross-attention"])
def test_factors_of_a_norm_have_no_base_and_are_no_error(filtered, score):
    """A norm's weight is one column."""
    norm = "diffusion_model.middle_block.1.transformer_blocks.0.norm2"
    report = filtered(pair(norm, (128, 1), rank=1) | pair(K, (128, 64)), score=score)[2]
    assert report["layers"] == (2 if score == "cross-attention" else 1)
    assert any("no principal subspace" in why for why in report["passed_through"]) == (score != "cross-attention")


def test_a_difference_of_another_shape_is_not_judged(filtered, update_of, nodes, model):
    """The core adds it to a weight of the very same shape only: what is not applied is not said to be removed."""
    flat, whole = randn(64, 64 * 9), randn(64, 64, 3, 3)
    tensors = {f"{kohya(CONV)}.diff": flat} | pair(K, (128, 64))
    assert not update_of(tensors, CONV).any()
    report = filtered(tensors, score="mean", gate="ratio")[2]
    assert report["passed_through"] == {"its shape is not the layer's": [f"{kohya(CONV)}.diff"]}
    assert filtered({f"{kohya(CONV)}.diff": whole}, score="mean", gate="ratio")[2]["layers"] == 1
    with pytest.raises(ValueError, match="a weight of 64 x 576, the model's is 64 x 64 x 3 x 3"):
        filtered({f"{kohya(CONV)}.diff": flat})
    applied = model.clone()
    applied.add_patches({f"{CONV}.weight": ("diff", (flat,)), f"{K}.weight": ("diff", (randn(128, 64),))})
    how = {k: v for k, v in HOW.items() if k != "text_encoder"}
    report = json.loads(nodes["UnmemorizeCleanAppliedLoRAs"].execute(model=applied, **how).args[3])
    assert report["layers"] == 1 and report["passed_through"] == {"its shape is not the layer's": [f"{CONV}.weight"]}


@pytest.mark.parametrize("gate", ["ratio", "ratio of the file", "energy", "scale"])
def test_keeping_all_keeps_all(filtered, gate):
    """However little a channel adds."""
    tensors = pair(Q, (128, 128)) | pair(K, (128, 64), seed=3)
    tensors[f"{kohya(K)}.lora_up.weight"] *= torch.logspace(0, -5, 8)
    for score in ("inverted", "mean", "random"):
        kept, removed, report = filtered(tensors, score=score, gate=gate, keep=1.0)
        assert list(kept) == list(tensors) and all(kept[k] is t for k, t in tensors.items()) and not removed
        assert report["energy_removed"] == 0 and report["layers_changed"] == 0


@pytest.mark.parametrize("score", ["mean", "cross-attention"])
def test_where_no_layer_can_be_judged_nothing_else_is_blamed(filtered, score):
    """The layer reads the prompt, but its numbers overflow."""
    tensors = {k: t.double() * 1e300 if t.ndim > 1 else t for k, t in pair(K, (128, 64)).items()}
    report = filtered(tensors, score=score)[2]
    assert report["layers"] == 0 and len(report["warnings"]) == 1 and "No layer could be judged" in report["warnings"][0]


@pytest.mark.parametrize("beside", [True, False])
def test_clean_lora_says_what_stays(nodes, model, loras, beside):
    """All of what can be filtered is gone, and a DoRA layer is not: that is no LoRA of which all is gone."""
    tensors = pair(K, (128, 64)) | (pair(Q, (128, 128)) | {f"{kohya(Q)}.dora_scale": torch.ones(1, 128)} if beside else {})
    save_file(tensors, loras / "one.safetensors")
    words = nodes["UnmemorizeCleanLoRA"].execute(model=model, lora_name="one.safetensors", strength=1.0, captions="").args[2]
    assert words.startswith("100% of what can be filtered was removed, by its weights alone.")
    assert ("Left as before: 4 keys of the file" in words) == beside
