"""LoRAs as they lie about: 8 bits, a layer of another shape, all of it of a kind that passes, two updates of one layer."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

from ..loras import HOW, K, Q, kohya, pair, randn

DEFAULT = {"score": "cross-attention", "gate": "hard"}


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("keep", [0.5, 0.75, 0.97])
def test_eight_bits_lose_nothing_by_being_split(filtered, update_of, dtype, keep):
    tensors = pair(Q, (128, 128), rank=36, alpha=17, dtype=dtype)
    kept, removed, _ = filtered(tensors, score="mean", gate="ratio", keep=keep)
    name = kohya(Q)
    assert float(kept[f"{name}.alpha"]) == len(kept[f"{name}.lora_down.weight"])
    whole, a, b = (update_of(t, Q) for t in (tensors, kept, removed))
    assert float((a + b - whole).norm() / whole.norm()) < (0.02 if dtype == torch.bfloat16 else 0.005)
    if dtype.itemsize == 1:
        assert kept[f"{name}.lora_up.weight"].dtype == torch.float16 and kept[f"{name}.alpha"].dtype == torch.float32


def test_eight_bits_judged_as_a_layer(filtered, update_of):
    tensors = pair(K, (128, 64), dtype=torch.float8_e4m3fn) | pair(Q, (128, 128), dtype=torch.float8_e4m3fn, seed=5)
    kept, removed, _ = filtered(tensors, **DEFAULT, filter_strength=0.3)
    whole, a, b = (update_of(t, K) for t in (tensors, kept, removed))
    assert float((a + b - whole).norm() / whole.norm()) < 0.002


@pytest.mark.parametrize("how", [DEFAULT, {"score": "mean", "gate": "ratio"}])
def test_one_layer_of_another_shape_passes_and_is_named(filtered, how):
    odd = kohya("diffusion_model.input_blocks.0.0")
    tensors = {f"{odd}.lora_up.weight": randn(64, 4, 1, 1), f"{odd}.lora_down.weight": randn(4, 9, 3, 3)}
    tensors |= pair(Q, (128, 128)) | pair(K, (128, 64), seed=7)
    kept, _, report = filtered(tensors, **how)
    assert torch.equal(kept[f"{odd}.lora_up.weight"], tensors[f"{odd}.lora_up.weight"])
    assert f"{odd}.lora_up.weight" in report["passed_through"]["its shape is not the layer's"]


def test_mostly_other_shapes_are_another_model(filtered):
    tensors = pair(Q, (64, 64)) | pair(K, (64, 64), seed=7)
    with pytest.raises(ValueError, match="2 of 2 layers do not fit.*made for another model"):
        filtered(tensors)


def test_only_what_was_found_is_blamed(filtered):
    dora = pair(K, (128, 64)) | {f"{kohya(K)}.dora_scale": randn(128, 1).abs()}
    with pytest.raises(ValueError, match="Nothing in this LoRA can be filtered") as told:
        filtered(dora)
    assert "another model" not in str(told.value) and "DoRA" in str(told.value)
    encoder = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    tensors = {f"{encoder}.lora_up.weight": randn(64, 8), f"{encoder}.lora_down.weight": randn(8, 64)}
    with pytest.raises(ValueError, match="need the CLIP") as told:
        filtered(tensors)
    assert "another model" not in str(told.value)
    unknown = {"some.layer.lora_up.weight": randn(64, 8), "some.layer.lora_down.weight": randn(8, 64)}
    with pytest.raises(ValueError, match="may be made for another model"):
        filtered(unknown)


def test_nothing_vanishes_from_the_report(filtered):
    """Every key of the file is in a block or in a list of what passed through."""
    zero = pair(K, (128, 64))
    zero[f"{kohya(K)}.lora_up.weight"].zero_()
    tensors = zero | pair(Q, (128, 128), seed=3) | {"odd.key": torch.zeros(1)}
    _, _, report = filtered(tensors, **DEFAULT)
    assert sorted(report["passed_through"]["it changes nothing"]) == sorted(zero)
    passed = sum(len(keys) for keys in report["passed_through"].values())
    assert passed == len(zero) + 1 and report["layers"] == 1


@pytest.mark.parametrize("how", [DEFAULT, {"score": "mean", "gate": "ratio", "keep": 0.5}])
def test_a_shadowed_pair_does_not_wake(filtered, update_of, how):
    """The core uses the full difference; where the filter takes it, the pair beside it must not act in its place."""
    name = kohya(K)
    tensors = pair(K, (128, 64), alpha=None) | {f"{name}.diff": randn(128, 64) / 100} | pair(Q, (128, 128), seed=4)
    kept, removed, report = filtered(tensors, **how)
    whole = update_of(tensors, K)
    parts = [update_of(t, K) for t in (kept, removed)]
    total = sum((p for p in parts if p is not None), torch.zeros_like(whole))
    assert float((total - whole).norm() / whole.norm()) < 0.01
    assert any("the core ignores them" in reason for reason in report["passed_through"])


@pytest.mark.parametrize("outside", [False, True], ids=["merged only", "merged and applied"])
def test_loras_of_a_merged_model_are_named(nodes, model, comfy, outside):
    """ModelMerge carries the second model's LoRA inside of its own patches."""
    sd, merging = importlib.import_module("comfy.sd"), importlib.import_module("comfy_extras.nodes_model_merging")
    with_lora = sd.load_lora_for_models(model, None, pair(K, (128, 64)), 1.0, 0)[0]
    (merged,) = merging.ModelMergeSimple().merge(model, with_lora, 0.5)
    clean = nodes["UnmemorizeCleanAppliedLoRAs"].execute
    how = {k: v for k, v in HOW.items() if k != "text_encoder"} | DEFAULT
    if not outside:
        with pytest.raises(ValueError, match="1 LoRA update.* inside of a model that was merged"):
            clean(model=merged, **how)
        return
    applied = sd.load_lora_for_models(merged, None, pair(K, (128, 64), seed=3), 1.0, 0)[0]
    report = json.loads(clean(model=applied, **how).args[3])
    assert report["layers"] == 1
    assert [keys for reason, keys in report["passed_through"].items() if "was merged into it" in reason] == [[f"{K}.weight"]]


@pytest.mark.parametrize("bypass", ["alone", "beside another"])
def test_loras_in_bypass_mode_are_named(nodes, model, comfy, bypass):
    """Newer cores can run a LoRA beside the weights (LoraLoaderBypass): it is out of reach here, and said so."""
    with_bypass = model.clone()
    with_bypass.injections = {**getattr(model, "injections", {}), "bypass_lora": [object()]}
    clean = nodes["UnmemorizeCleanAppliedLoRAs"].execute
    how = {k: v for k, v in HOW.items() if k != "text_encoder"} | DEFAULT
    if bypass == "alone":
        with pytest.raises(ValueError, match="bypass mode"):
            clean(model=with_bypass, **how)
        return
    both = importlib.import_module("comfy.sd").load_lora_for_models(model, None, pair(K, (128, 64)), 1.0, 0)[0]
    both.injections = with_bypass.injections
    report = json.loads(clean(model=both, **how).args[3])
    assert any("bypass mode" in reason for reason in report["passed_through"])
    identity = importlib.import_module("unmemorize_pack.host.core.identity").identity
    assert identity(with_bypass)["patches"] != identity(model)["patches"]


HOWS = [("cross-attention", "hard"), ("mean", "ratio"), ("singular value", "soft"), ("mean", "scale"), ("random", "energy")]


@pytest.mark.parametrize(("score", "gate"), HOWS)
@pytest.mark.parametrize("large", [3e37, 1e25, 1e19, "alpha"])
def test_huge_numbers_never_become_infinite(filtered, score, gate, large):
    """What would overflow passes as it is, named; energies stay numbers."""
    tensors = pair(K, (128, 64)) | pair(Q, (128, 128), seed=3)
    key = f"{kohya(K)}.alpha" if large == "alpha" else f"{kohya(K)}.lora_up.weight"
    tensors[key] = torch.full_like(tensors[key], 1e29 if large == "alpha" else large)
    kept, removed, report = filtered(tensors, score=score, gate=gate, keep=0.3)
    assert all(t.isfinite().all() for t in (*kept.values(), *removed.values()))
    json.dumps(report, allow_nan=False)
    assert torch.equal(kept[key], tensors[key]) and any("overflows" in reason for reason in report["passed_through"])


def test_large_halves_stay_finite(filtered):
    """fp16 factors near the largest number: a product would not fit."""
    tensors = {k: torch.full_like(t, 6e4) if "lora_" in k else t for k, t in pair(K, (128, 64), dtype=torch.float16).items()}
    kept, removed, _ = filtered(tensors | pair(Q, (128, 128), seed=3), score="mean", gate="ratio")
    assert all(t.isfinite().all() for t in (*kept.values(), *removed.values()))


SPELLINGS = [kohya(K), K, "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"]


@pytest.mark.parametrize("first", range(3))
@pytest.mark.parametrize("second", range(3))
def test_of_two_spellings_the_one_that_counts_is_filtered(filtered, update_of, first, second):
    """ComfyUI keeps one of them: kept and removed add up to what it adds, and the other wakes in neither."""
    if first == second:
        return
    layers = [{k.replace(kohya(K), SPELLINGS[i]): t for k, t in pair(K, (128, 64), seed=n).items()} for n, i in enumerate((first, second))]
    tensors = layers[0] | layers[1] | pair(Q, (128, 128), seed=7)
    kept, removed, report = filtered(tensors, score="mean", gate="energy", keep=0.5)
    whole = update_of(tensors, K)
    parts = [update_of(t, K) for t in (kept, removed)]
    total = sum((p for p in parts if p is not None), torch.zeros_like(whole))
    assert float((total - whole).norm() / whole.norm()) < 0.01
    assert any("the core ignores them" in reason for reason in report["passed_through"]) and report["layers"] == 2


def test_a_lora_beside_a_norm_is_not_blamed(filtered):
    """The core takes the norm and drops the LoRA: the layer is there, and so it is said."""
    tensors = pair(K, (128, 64)) | pair(Q, (128, 128), seed=3) | {f"{kohya(K)}.w_norm": torch.ones(128, 64)}
    report = filtered(tensors)[2]
    assert not any("no such layer" in reason for reason in report["passed_through"])
    assert any("the core ignores them" in reason for reason in report["passed_through"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9])
def test_strengths_by_api_are_checked(nodes, demo, value):
    for name in ("strength_model", "strength_clip"):
        given = {"strength_model": 1.0, "strength_clip": 1.0} | {name: value}
        with pytest.raises(ValueError, match=name):
            nodes["UnmemorizeLoadLoRABAF"].execute(model=demo[0], lora_name="demo/leaking", **given, **HOW)


def test_an_output_that_cannot_be_written_is_known_before_work(nodes, demo, monkeypatch, tmp_path):
    """A file where the folder should be: no LoRA is filtered first."""
    paths = importlib.import_module("folder_paths")
    (tmp_path / "loras").mkdir()
    monkeypatch.setitem(paths.folder_names_and_paths, "loras", ([str(tmp_path / "loras")], {".safetensors"}))
    monkeypatch.setattr(paths, "filename_list_cache", {})
    (tmp_path / "loras" / "out").write_text("a file")
    filtering = importlib.import_module("unmemorize_pack.host.lora.folder")
    monkeypatch.setattr(filtering, "filter_lora", lambda *_, **__: pytest.fail("work before the check"))
    with pytest.raises(ValueError, match="cannot be written"):
        nodes["UnmemorizeFilterLoRAFolder"].execute(model=demo[0], folder="demo", output="out", **HOW)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint64, torch.int8, torch.complex64, torch.float4_e2m1fn_x2, torch.float8_e8m0fnu])
def test_tensors_that_are_no_weights_are_refused_in_words(filtered, dtype):
    tensors = pair(K, (128, 64))
    key = f"{kohya(K)}.lora_up.weight"
    tensors[key] = torch.zeros(tensors[key].shape, dtype=torch.uint8).view(dtype) if dtype.itemsize == 1 else tensors[key].to(dtype)
    with pytest.raises(ValueError, match="which are no weights"):
        filtered(tensors)


def test_a_rank_is_read_off_matrices_only(comfy):
    """A file may hold anything under a factor's name, in a layer that is passed through."""
    metadata = importlib.import_module("unmemorize_pack.host.lora.lora_files").new_metadata
    tensors = pair(K, (128, 64)) | {"some.other.lora_down.weight": torch.tensor(1.0)}
    assert metadata(tensors, {"metadata": {"ss_network_dim": "4"}}, Path("beside"))["ss_network_dim"] == "8"


def test_metadata_say_what_the_file_holds(comfy):
    """Ranks and alphas of matrices; 3 x 3 convolutions have their own. A hash of other tensors goes."""
    metadata = importlib.import_module("unmemorize_pack.host.lora.lora_files").new_metadata
    alpha, conv = {f"{kohya(K)}.alpha": torch.tensor(8.0)}, {"lora_unet_c.lora_down.weight": torch.ones(4, 4, 3, 3)}
    old = {"ss_network_dim": "8", "ss_network_alpha": "8.0", "modelspec.hash_sha256": "0xabc", "modelspec.title": "mine"}
    made = metadata(pair(K, (128, 64)) | alpha | conv, {"metadata": old}, Path("beside"))
    assert made == {"ss_network_dim": "8", "ss_network_alpha": "8.0", "modelspec.title": "mine"}
    alpha = {f"{kohya(K)}.alpha": torch.tensor(2.0)}
    assert metadata(pair(K, (128, 64)) | alpha, {"metadata": old}, Path("beside"))["ss_network_alpha"] == "2"


@pytest.mark.parametrize(
    "layer",
    [
        {"lokr_w1": (8, 8, 1), "lokr_w2": (16, 8)},
        {"lokr_w1": (8,), "lokr_w2": (16, 8)},
        {"lokr_w1": (8, 8), "lokr_w2_a": (16, 4), "lokr_w2_b": (3, 8)},
        {"hada_w1_a": (128, 4), "hada_w1_b": (4, 64), "hada_w2_a": (128, 4, 1), "hada_w2_b": (4, 64)},
    ],
)
def test_factors_that_do_not_fit_are_said(filtered, layer):
    with pytest.raises(ValueError, match="does not fit together|damaged|broken"):
        filtered({f"{kohya(K)}.{name}": randn(*shape) for name, shape in layer.items()})


def test_an_alpha_holds_its_rank(comfy):
    """bfloat16 counts to 256 in ones."""
    holding = importlib.import_module("unmemorize_pack.host.lora.adapters")._holding
    assert [float(holding(r, torch.tensor(1.0, dtype=torch.bfloat16))) for r in (8.0, 303.0)] == [8.0, 303.0]


@pytest.mark.parametrize("ends", [("lora_up.weight", "lora_down.weight"), ("lokr_w1", "lokr_w2"), ("diff",), ("hada_w1_a",)])
def test_a_factor_that_is_a_single_number_is_refused_in_words(filtered, ends):
    """In each place of each kind of adapter; a difference that is one is passed over like that of a norm."""
    good = {"lora_up.weight": (128, 4), "lora_down.weight": (4, 64), "lokr_w1": (2, 2), "lokr_w2": (64, 32), "diff": (128, 64)}
    loha = {"hada_w1_a": (128, 4), "hada_w1_b": (4, 64), "hada_w2_a": (128, 4), "hada_w2_b": (4, 64)}
    names = list(loha) if ends == ("hada_w1_a",) else list(ends)
    for broken in names:
        layer = {f"{kohya(K)}.{n}": torch.tensor(1.0) if n == broken else randn(*(good | loha)[n]) for n in names}
        said = "differences of biases and norms" if broken == "diff" else "does not fit together: a factor is a single number"
        with pytest.raises(ValueError, match=said):
            filtered(layer)


def test_a_complex_alpha_is_refused_in_words(filtered):
    tensors = pair(K, (128, 64))
    with pytest.raises(ValueError, match="complex number as its alpha"):
        filtered(tensors | {f"{kohya(K)}.alpha": torch.tensor(1 + 2j)})


def kronecker(alpha: float, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    """Two layers as LyCORIS writes LoKr of full dimension: both factors whole."""
    made = {}
    for key, n in ((Q, 128), (K, 64)):
        parts = {"lokr_w1": randn(8, 8), "lokr_w2": randn(16, n // 8, seed=1) / 10, "alpha": torch.tensor(alpha)}
        made |= {f"{kohya(key)}.{part}": t.to(dtype) for part, t in parts.items()}
    return made


def test_the_alpha_of_a_whole_kronecker_product_counts_for_nothing(filtered, update_of):
    """Trainers of full dimension write 100000 there, which is infinite in half precision; the core does not look at it."""
    tensors = kronecker(1e5)
    assert not torch.isfinite(tensors[f"{kohya(Q)}.alpha"])
    kept, removed, report = filtered(tensors, score="mean", gate="ratio", keep=0.5)
    assert report["layers"] == 2 and report["layers_changed"] == 2
    for key in (Q, K):
        parts = sum(u.float() for u in (update_of(kept, key), update_of(removed, key)))
        assert torch.allclose(parts, update_of(tensors, key).float(), atol=2e-2)


def test_a_file_that_would_grow_is_foretold_or_refused_before_work(filtered, monkeypatch):
    tensors = kronecker(1.0)
    _, _, report = filtered(tensors, score="mean", gate="ratio")
    assert any("times as large" in w and "cross-attention" in w for w in report["warnings"])
    assert not any("times as large" in w for w in filtered(tensors, **DEFAULT)[2]["warnings"])
    assert not any("times as large" in w for w in filtered(pair(Q, (128, 128)), score="mean", gate="ratio")[2]["warnings"])
    monkeypatch.setattr(importlib.import_module("comfy.model_management"), "get_free_memory", lambda *_: 1 << 10)
    with pytest.raises(ValueError, match="needs up to .* GB of memory"):
        filtered(tensors, score="mean", gate="ratio")


def test_settings_that_remove_nothing_say_so(filtered):
    """All layers of one score are ties: the best nine tenths are all of them."""
    tensors = pair(Q, (128, 128)) | pair(K, (128, 64))
    kept, _, report = filtered(tensors, **(DEFAULT | {"gate": "ratio of the file", "keep": 0.9}))
    assert all(kept[k] is t for k, t in tensors.items()) and any("nothing is removed" in w for w in report["warnings"])
    assert not filtered(tensors, **DEFAULT)[2]["warnings"]


def test_a_layer_that_is_weakened_as_one_is_not_made_as_strong_again(filtered, update_of):
    tensors = pair(Q, (128, 128)) | pair(K, (128, 64))
    kept, _, _ = filtered(tensors, **DEFAULT, filter_strength=0.5, restore_norm=True)
    assert torch.allclose(update_of(kept, K), update_of(tensors, K) / 2, atol=1e-5)


def test_off_refuses_nothing(nodes, model):
    """A file that cannot be filtered is given on as it is where the filter is off."""
    tensors = pair(Q, (128, 128)) | {f"{kohya(Q)}.dora_scale": torch.ones(1, 128)}
    with pytest.raises(ValueError, match="Nothing in this LoRA"):
        nodes["UnmemorizeBAFFilterLoRA"].execute(lora=tensors, model=model, **HOW)
    found = nodes["UnmemorizeBAFFilterLoRA"].execute(lora=tensors, model=model, **(HOW | {"filter_strength": 0.0})).args
    assert found[0] is tensors and found[1] == {} and found[3] == 0
