"""LoRA files as trainers write them, on tiny models of real architectures: every adapter, every spelling of keys."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
from types import SimpleNamespace

import pytest
import torch

HOW = {
    "filter_strength": 1.0, "score": "mean", "gate": "ratio", "threshold": 0.0, "deviations": 0.0, "temperature": 0.05, "keep": 0.5,
    "base_energy": 0.5, "restore_norm": False, "text_encoder": True, "control_seed": 0,
}  # fmt: skip
LINEAR, CONV = "input_blocks.1.1.transformer_blocks.0.attn1.to_q", "input_blocks.1.0.in_layers.2"
RANK = 4


def weights_like(module, seed=0):
    """Random weights with a decaying spectrum, as a trained layer has."""
    generator = torch.Generator().manual_seed(seed)

    def one(shape):
        w = torch.randn(shape, generator=generator) * 0.02
        return w * torch.linspace(3, 0.1, len(w)).reshape(-1, *[1] * (w.ndim - 1)) if w.ndim > 1 else w

    return {k: one(p.shape) for k, p in module.state_dict().items()}


@pytest.fixture(scope="session")
def sd15(comfy):
    """SD1.5 with one level: the real widths."""
    import comfy.ops
    import comfy.sd
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    with torch.inference_mode():
        unet = UNetModel(
            image_size=32, in_channels=4, out_channels=4, model_channels=320, num_res_blocks=[1], channel_mult=[1], num_heads=8,
            context_dim=768, use_spatial_transformer=True, use_linear_in_transformer=False, legacy=False, transformer_depth=[1],
            transformer_depth_output=[1, 1], transformer_depth_middle=-1, use_checkpoint=False, operations=comfy.ops.disable_weight_init,
        )  # fmt: skip
        return comfy.sd.load_diffusion_model_state_dict(weights_like(unet))


@pytest.fixture(scope="session")
def sd3(comfy):
    import comfy.ops
    import comfy.sd
    from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT

    with torch.inference_mode():
        context = {"target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 64}}
        net = MMDiT(
            input_size=None, patch_size=2, in_channels=16, depth=1, adm_in_channels=64, context_embedder_config=context,
            pos_embed_max_size=16, pos_embed_scaling_factor=None, out_channels=16, dtype=torch.float32,
            operations=comfy.ops.disable_weight_init,
        )  # fmt: skip
        return comfy.sd.load_diffusion_model_state_dict(weights_like(net))


@pytest.fixture(scope="session")
def wan(comfy):
    import comfy.ops
    import comfy.sd
    from comfy.ldm.wan.model import WanModel

    with torch.inference_mode():
        net = WanModel(
            model_type="t2v", dim=128, ffn_dim=64, num_heads=1, num_layers=1, text_dim=4096, in_dim=16, out_dim=16, freq_dim=256,
            operations=comfy.ops.disable_weight_init, dtype=torch.float32, device="cpu",
        )  # fmt: skip
        return comfy.sd.load_diffusion_model_state_dict(weights_like(net))


def updates(model, tensors):
    """What ComfyUI itself adds to each weight for a LoRA, float32; keys without effect are left out."""
    import comfy.lora
    import comfy.sd

    patched = comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0)[0]
    zeros = {k: torch.zeros(w[0][0].shape) for k, w in model.get_key_patches().items() if k in patched.patches}
    return {k: comfy.lora.calculate_weight(patched.patches[k], z, k) for k, z in zeros.items()}


def split(nodes, model, lora, **changes):
    return nodes["UnmemorizeBAFFilterLoRA"].execute(lora=lora, model=model, clip=None, info=None, **(HOW | changes)).args


def assert_split(nodes, model, lora, count):
    """`count` weights are filtered; ComfyUI applies the two parts to the sum of the whole; half of the channels are gone."""
    kept, removed, _, energy, spectrum, text = split(nodes, model, lora)
    whole, first, second = (updates(model, t) for t in (lora, kept, removed))
    assert len(spectrum["layers"]) == count and set(first) <= set(whole) and set(second) <= set(whole) and second
    for key, dw in whole.items():
        both = first.get(key, 0.0) + second.get(key, 0.0)
        assert (both - dw).norm() < 1e-4 * dw.norm(), key
    assert 0 < energy < 1
    return kept, removed, json.loads(text)


def lora_pair(prefix, m, n, up="lora_up.weight", down="lora_down.weight", alpha=2.0, seed=0, separator="."):
    generator = torch.Generator().manual_seed(seed)
    pair = {
        f"{prefix}{separator}{up}": torch.randn(m, RANK, generator=generator),
        f"{prefix}{separator}{down}": torch.randn(RANK, n, generator=generator),
    }
    return pair | ({} if alpha is None else {f"{prefix}.alpha": torch.tensor(alpha)})


# --- LyCORIS and PEFT themselves ----------------------------------------------------------------------------


class Two(torch.nn.Module):
    """A linear layer and a convolution of the tiny SD1.5's widths."""

    def __init__(self) -> None:
        super().__init__()
        layers = torch.nn
        self.lin = layers.Linear(320, 320)
        self.conv = layers.Conv2d(320, 320, 3)


@pytest.fixture
def lycoris():
    """lycoris(algo, **options) -> the tensors its own modules write, with kohya's prefix, random values."""
    package = pytest.importorskip("lycoris")
    logging.getLogger("LyCORIS").setLevel(logging.ERROR)

    def make(algo, **options):
        with torch.inference_mode(False), contextlib.suppress(AttributeError):
            package.LycorisNetwork.apply_preset({"enable_conv": True, "target_module": ["Two"], "lora_prefix": "lora_unet"})
        with torch.inference_mode(False):
            ranks = {"linear_dim": RANK, "linear_alpha": 2, "conv_dim": RANK, "conv_alpha": 2}
            network = package.create_lycoris(Two(), 1.0, algo=algo, **(ranks | options))
            states = {f"{layer.lora_name}.{k}": v.detach().clone() for layer in network.loras for k, v in layer.state_dict().items()}
        generator = torch.Generator().manual_seed(0)
        for key, tensor in states.items():
            if not key.endswith((".alpha", ".dora_scale")):
                states[key] = torch.randn(tensor.shape, generator=generator) * 0.1
        names = {"lora_unet_lin": f"lora_unet_{LINEAR}".replace(".", "_"), "lora_unet_conv": f"lora_unet_{CONV}".replace(".", "_")}
        return {names[k.split(".")[0]] + "." + k.split(".", 1)[1]: t for k, t in states.items()}

    return make


FILTERED = {
    "LoRA, LoCon": ("lora", {}),
    "LoRA, LoCon with Tucker core": ("lora", {"use_tucker": True}),
    "DyLoRA": ("dylora", {}),
    "LoHa": ("loha", {}),
    "LoHa with Tucker core": ("loha", {"use_tucker": True}),
    "LoKr": ("lokr", {"factor": 8}),
    "full difference (`.diff`)": ("full", {}),
}
"""Adapter -> algorithm and options of LyCORIS that write it. The names are the README's."""
BY_HAND = {"LoKr with Tucker core": ("lokr", {"factor": 4, "use_tucker": True})}
PASSED = {
    "DoRA": ("lora", {"dora_wd": True}),
    "GLoRA": ("glora", {}),
    "OFT": ("diag-oft", {}),
    "BOFT": ("boft", {"linear_dim": 10, "conv_dim": 10}),
}
DIFFERENCES = {
    "differences of norms (`.w_norm`)": ("norm", ("w_norm", "b_norm")),
    "differences of biases (`.diff_b`)": ("proj_in", ("diff_b",)),
}


@pytest.mark.parametrize("adapter", FILTERED)
def test_what_lycoris_writes(nodes, sd15, lycoris, adapter):
    algo, options = FILTERED[adapter]
    lora = lycoris(algo, **options)
    kept, removed, report = assert_split(nodes, sd15, lora, 2)
    biases = {k for k in lora if k.endswith("diff_b")}
    assert {k for keys in report["passed_through"].values() for k in keys} == biases
    assert all(kept[k] is lora[k] for k in biases)
    for part in (kept, removed):
        for key, tensor in part.items():
            if key.endswith("lora_down.weight"):
                assert float(part[key.replace("lora_down.weight", "alpha")]) == len(tensor)


@pytest.mark.parametrize("adapter", BY_HAND)
def test_lokr_with_a_core(nodes, sd15, lycoris, adapter):
    """By hand: with this torch, ComfyUI's own loader fails on such a convolution and leaves the layer out."""
    algo, options = BY_HAND[adapter]
    lora = lycoris(algo, **options)
    kept, removed, *_ = split(nodes, sd15, lora)
    name = f"lora_unet_{CONV}".replace(".", "_")
    w1, a, b, core = (lora[f"{name}.lokr_{part}"] for part in ("w1", "w2_a", "w2_b", "t2"))
    second = torch.einsum("ijkl,jr,ip->prkl", core, b, a).contiguous()
    dense = 2 / RANK * torch.kron(w1, second.flatten(1))
    parts = [part[f"{name}.lora_up.weight"].flatten(1) @ part[f"{name}.lora_down.weight"].flatten(1) for part in (kept, removed)]
    assert (parts[0] + parts[1] - dense).norm() < 1e-4 * dense.norm() and min(p.norm() for p in parts) > 0


@pytest.mark.parametrize("adapter", PASSED)
def test_what_cannot_be_filtered_passes_and_is_named(nodes, sd15, lycoris, adapter):
    """Beside a layer that can be, so that there is something to do."""
    algo, options = PASSED[adapter]
    lora = lycoris(algo, **options)
    other = lora_pair("lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_q", 320, 320)
    kept, removed, _, _, spectrum, text = split(nodes, sd15, lora | other)
    passed = {k for keys in json.loads(text)["passed_through"].values() for k in keys}
    assert passed == set(lora) and all(kept[k] is lora[k] for k in lora) and not passed & set(removed)
    assert len(spectrum["layers"]) == 1
    with pytest.raises(ValueError, match="Nothing in this LoRA can be filtered"):
        split(nodes, sd15, lora)


@pytest.mark.parametrize("adapter", DIFFERENCES)
def test_differences_of_norms_and_biases_pass_and_are_named(nodes, sd15, adapter):
    name, parts = DIFFERENCES[adapter]
    odd = {f"lora_unet_input_blocks_1_1_{name}.{part}": torch.ones(320) for part in parts}
    kept, removed, _, _, spectrum, text = split(nodes, sd15, odd | lora_pair(f"lora_unet_{LINEAR.replace('.', '_')}", 320, 320))
    assert {k for keys in json.loads(text)["passed_through"].values() for k in keys} == set(odd)
    assert all(kept[k] is odd[k] for k in odd) and not set(odd) & set(removed) and len(spectrum["layers"]) == 1


def test_what_peft_writes(nodes, sd15):
    peft = pytest.importorskip("peft")
    with torch.inference_mode(False):
        wrapped = peft.get_peft_model(Two(), peft.LoraConfig(r=RANK, target_modules=["lin", "conv"], init_lora_weights=False))
        state = {k: v.detach().clone() for k, v in peft.get_peft_model_state_dict(wrapped).items()}
    names = {"base_model.model.lin": f"diffusion_model.{LINEAR}", "base_model.model.conv": f"diffusion_model.{CONV}"}
    lora = {new + k.removeprefix(old): t for k, t in state.items() for old, new in names.items() if k.startswith(f"{old}.")}
    kept, _, _ = assert_split(nodes, sd15, lora, 2)
    assert set(kept) == set(lora) and all(len(t) == RANK // 2 for k, t in kept.items() if "lora_A" in k)


# --- spellings ----------------------------------------------------------------------------------------------

Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"


SPELLINGS_OF_SD15 = {
    "kohya": lora_pair(f"lora_unet_{Q.replace('.', '_')}_to_q", 320, 320),
    "kohya with ComfyUI's names, no alpha": lora_pair(f"lora_unet_{LINEAR.replace('.', '_')}", 320, 320, alpha=None),
    "SimpleTuner": lora_pair(f"lycoris_{Q.replace('.', '_')}_to_q", 320, 320),
    "old diffusers": lora_pair(f"unet.{Q}.processor.to_q", 320, 320, "lora.up.weight", "lora.down.weight", None, separator="_"),
    "PEFT": lora_pair(f"diffusion_model.{LINEAR}", 320, 320, "lora_B.weight", "lora_A.weight", None),
    "PEFT with adapter name": lora_pair(f"diffusion_model.{LINEAR}", 320, 320, "lora_B.default.weight", "lora_A.default.weight", None),
}
SPELLINGS_OF_SD3 = {"diffusers": "transformer.{}", "PEFT": "base_model.model.{}", "OneTrainer": "lora_transformer_{}"}
SPELLINGS_OF_WAN = {
    "kohya": lora_pair("lora_unet_blocks_0_self_attn_q", 128, 128),
    "PEFT": lora_pair("diffusion_model.blocks.0.self_attn.q", 128, 128, "lora_B.weight", "lora_A.weight", None),
    # ComfyUI renames these keys while loading; the file's own names must stay
    "Wan Fun": lora_pair("lora_unet__blocks_0_cross_attn_k", 128, 128),
}


@pytest.mark.parametrize("spelling", SPELLINGS_OF_SD15)
def test_spellings_of_sd15(nodes, sd15, spelling):
    lora = SPELLINGS_OF_SD15[spelling]
    kept, removed, report = assert_split(nodes, sd15, lora, 1)
    assert set(kept) == set(removed) == set(lora) and not report["passed_through"]


@pytest.mark.parametrize("spelling", SPELLINGS_OF_SD3)
def test_sd3_with_fused_qkv_and_swapped_halves(nodes, sd3, spelling):
    """to_q, to_k, to_v are thirds of one weight; the last layer's halves are swapped by the core."""
    lora = {}
    names = [(f"transformer_blocks.0.attn.{p}", 64, 64) for p in ("to_q", "to_k", "to_v")] + [("norm_out.linear", 128, 64)]
    for seed, (name, m, n) in enumerate(names):
        prefix = SPELLINGS_OF_SD3[spelling]
        if spelling == "OneTrainer":
            lora |= lora_pair(prefix.format(name.replace(".", "_")), m, n, seed=seed)
        else:
            lora |= lora_pair(prefix.format(name), m, n, "lora_B.weight", "lora_A.weight", None, seed)
    kept, removed, report = assert_split(nodes, sd3, lora, 4)
    assert set(kept) == set(lora) and not report["passed_through"]


def test_a_third_of_a_fused_weight_is_its_own_base(nodes, sd3):
    """Scores of to_k are those against rows 64 to 128 of qkv."""
    scores, subspace, channels = (
        importlib.import_module(f"unmemorize_pack.unmemorize.lora.{n}") for n in ("scores", "subspace", "channels")
    )
    lora = lora_pair("transformer.transformer_blocks.0.attn.to_k", 64, 64, "lora_B.weight", "lora_A.weight", None)
    *_, spectrum, _ = split(nodes, sd3, lora)
    fused = sd3.get_key_patches()["diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"][0][0].float()
    base = subspace.principal_subspace(fused[64:128], 0.5)
    expected = scores.SCORES["mean"].of(SimpleNamespace(channels=channels.of_factors(*lora.values(), 1.0), base=base), 0)
    assert torch.allclose(spectrum["layers"][0]["scores"], expected, atol=5e-3)


@pytest.mark.parametrize("spelling", SPELLINGS_OF_WAN)
def test_spellings_of_wan(nodes, wan, spelling):
    lora = SPELLINGS_OF_WAN[spelling]
    kept, removed, report = assert_split(nodes, wan, lora, 1)
    assert set(kept) == set(removed) == set(lora) and not report["passed_through"]


def test_several_adapters_on_one_layer_are_cleaned_one_by_one(nodes, sd15, lycoris):
    import comfy.sd

    model = sd15
    for lora in (lycoris("loha"), lycoris("lokr", factor=8), lycoris("lora")):
        model = comfy.sd.load_lora_for_models(model, None, lora, 0.5, 0)[0]
    how = {k: v for k, v in HOW.items() if k != "text_encoder"}
    cleaned, energy, spectrum, _ = nodes["UnmemorizeCleanAppliedLoRAs"].execute(model=model, **how).args
    assert len(spectrum["layers"]) == 6 and 0 < energy < 1
    assert {k: len(v) for k, v in cleaned.patches.items()} == {k: len(v) for k, v in model.patches.items()}
    assert all(p[0] == 0.5 for several in cleaned.patches.values() for p in several)


def test_what_does_not_fit_a_packed_weight_passes_and_is_named(nodes, sd15, host, monkeypatch):
    """Its stored shape may not be its shape: only when it is read is it known."""
    adapter = importlib.import_module("comfy.weight_adapter").LoRAAdapter
    key, other = (f"diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.{n}.weight" for n in ("to_k", "to_q"))
    model = sd15.clone()
    for target, width in ((key, 640), (other, 320)):
        up, down = torch.randn(320, RANK), torch.randn(RANK, width)
        model.add_patches({target: adapter({target}, (up, down, None, None, None, None))}, 1.0)
    monkeypatch.setattr(host("core.weights").Weights, "is_plain", lambda *_: False)
    how = {k: v for k, v in HOW.items() if k != "text_encoder"}
    cleaned, energy, spectrum, report = nodes["UnmemorizeCleanAppliedLoRAs"].execute(model=model, **how).args
    assert json.loads(report)["passed_through"] == {"its shape is not the layer's": [key]} and len(spectrum["layers"]) == 1
    assert cleaned.patches[key] == model.patches[key] and 0 < energy < 1


KINDS = [("lora", {}), ("lora", {"use_tucker": True}), ("loha", {}), ("loha", {"use_tucker": True}), ("lokr", {"factor": 8}), ("full", {})]


@pytest.mark.parametrize(("algo", "options"), KINDS, ids=lambda v: str(v))
def test_size_and_rank_without_decomposing(lycoris, sd15, host, algo, options):
    """||dW|| from the factors is that of the channels, and a sound layer has as many channels as its rank says."""
    updates = host("lora.keys").take_apart(lycoris(algo, **options), sd15, None).updates
    assert len(updates) == 2
    for update in updates:
        adapter, cpu = update.layer.adapter, torch.device("cpu")
        channels = adapter.channels(cpu)
        assert float(adapter.norm(cpu)) == pytest.approx(channels.energy**0.5, rel=1e-4)  # of a whole matrix channels are that exact
        assert len(channels) == min(adapter.rank, *adapter.shape)


@pytest.mark.parametrize(("algo", "options"), KINDS, ids=lambda v: str(v))
def test_a_score_for_whole_layers_decomposes_nothing(nodes, lycoris, sd15, monkeypatch, algo, options):
    """Half strength halves the update of a layer that reads the prompt, in its own kind; the two parts add up to it."""
    lora = {k.replace("attn1_to_q", "attn2_to_q"): v for k, v in lycoris(algo, **options).items()}
    whole = updates(sd15, lora)
    for name in ("svd", "qr", "eigh", "svdvals", "eigvalsh"):
        monkeypatch.setattr(torch.linalg, name, lambda *_, **__: pytest.fail("a layer was decomposed"))
    kept, removed, _, energy, spectrum, _ = split(nodes, sd15, lora, score="cross-attention", gate="hard", filter_strength=0.5)
    first, second = updates(sd15, kept), updates(sd15, removed)
    (read,) = second
    assert torch.allclose(first[read], 0.5 * whole[read], rtol=1e-3, atol=1e-6)
    assert torch.allclose(first[read] + second[read], whole[read], rtol=1e-3, atol=1e-6)
    assert len(spectrum["layers"]) == 2 and 0 < energy < 1 and all(kept[k] is lora[k] for k in lora if "attn2_to_q" not in k)


# --- text encoders ------------------------------------------------------------------------------------------


def test_text_encoder_layers(nodes, demo, host):
    """The demo's text encoder, by ComfyUI's generic names; a separate switch, and a reason without the CLIP."""
    weights = demo[1].patcher.get_key_patches()
    names = host("lora.keys").key_maps(demo[0], demo[1])[1]
    name, (m, n) = next((k, weights[w][0][0].shape) for k, w in names.items() if weights[w][0][0].ndim == 2 and "embedding" not in k)
    lora = lora_pair(name, m, n) | lora_pair("lora_unet_input_blocks_3_1_proj_in", 128, 128)
    node = nodes["UnmemorizeBAFFilterLoRA"]
    both = node.execute(lora=lora, model=demo[0], clip=demo[1], info=None, **HOW).args
    assert len(both[4]["layers"]) == 2 and "text encoder" in both[5] and set(both[1]) == set(lora)
    by_layer = node.execute(lora=lora, model=demo[0], clip=demo[1], info=None, **HOW | {"score": "cross-attention", "gate": "hard"}).args
    assert set(by_layer[1]) == {k for k in lora if k.startswith(name)}, "its changes are how the prompt is read, too"
    for clip, how in ((demo[1], HOW | {"text_encoder": False}), (None, HOW)):
        one = node.execute(lora=lora, model=demo[0], clip=clip, info=None, **how).args
        assert len(one[4]["layers"]) == 1 and all(one[0][k] is lora[k] for k in lora if k.startswith(name))
        assert "text encoder" in str(json.loads(one[5])["passed_through"])
