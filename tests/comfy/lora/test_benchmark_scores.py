"""Scores of the sweep in closed form, on a base whose singular vectors are the coordinate axes."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch

SIDE = 40


@pytest.fixture
def parts(comfy):
    names = ("filter_scores", "lora_layers")
    return [importlib.import_module(f"unmemorize_pack.benchmarks.parts.{n}") for n in names]


@pytest.fixture
def layer(parts):
    """W = diag(40, 39, ..., 1); channels 2 e_0 e_0^T and 1 e_39 e_1^T."""
    channels = importlib.import_module("unmemorize_pack.unmemorize.lora.channels").Channels
    axes = torch.eye(SIDE)
    own = channels(axes[:, [0, 39]], torch.tensor([2.0, 1.0]), axes[:, [0, 1]])
    return parts[1].Layer("lora_unet_a", "a.attn2.to_k.weight", own, torch.diag(torch.arange(SIDE, 0.0, -1.0)))


def test_gain_and_joined_modes(parts, layer):
    """What W does along a channel's two directions, over what the channel adds."""
    left, right = parts[0].gains(layer)
    assert torch.allclose(left, torch.tensor([20.0, 1.0])) and torch.allclose(right, torch.tensor([20.0, 39.0]))
    assert torch.allclose(parts[0].joined(layer), torch.tensor([20.0, 0.0]))


def test_response_weighs_what_the_layer_sees(parts, layer):
    metric = torch.diag(torch.tensor([1.0, 5.0, *[0.0] * (SIDE - 2)]))
    assert torch.allclose(parts[0].response(layer.channels, metric), torch.tensor([4.0, 5.0]))
    found = parts[0].scores(*[parts[0].Moments({layer.target: metric}, {layer.target: metric})] * 2)
    inputs = found["input subspace E 0.5"](layer)
    assert float(inputs[1]) == pytest.approx(1.0) and float(inputs[0]) < 0
    assert all(len(score(layer)) == 2 and bool(torch.isfinite(score(layer)).all()) for score in found.values())


def test_what_every_caption_shares_is_told_from_what_one_has(parts):
    """Inputs are a pattern of place and step, the same for every caption, and noise of each caption: S holds the first, M both."""
    linear = torch.nn.Linear(6, 2)
    generator = torch.Generator().manual_seed(0)
    pattern = torch.randn(3, 400, 6, generator=generator) * torch.tensor([3.0, 2, 1, 0, 0, 0])

    def latents(_caption, _seeds):
        for step in pattern:
            linear((step + torch.randn(400, 6, generator=generator))[None])

    model = SimpleNamespace(model=torch.nn.ModuleDict({"a": linear}))
    moments = parts[0].Inputs(SimpleNamespace(model=model, latents=latents), ["a.weight"]).of(list("abcdefgh"), 0)
    wanted = sum(step.T @ step for step in pattern) / 1200
    assert torch.allclose(moments.shared["a.weight"], wanted, atol=0.1)
    assert torch.allclose(moments.own["a.weight"], wanted + torch.eye(6), atol=0.2)


def test_kinds_of_layers_go_first_or_last(parts, layer):
    found = parts[0].scores(*[parts[0].Moments({layer.target: torch.eye(SIDE)}, {layer.target: torch.eye(SIDE)})] * 2)
    assert bool((found["without text keys and values first"](layer) < 0).all())
    assert bool((found["only text keys and values last"](layer) > 1).all())
    assert torch.equal(found["without self-attention first"](layer), layer.channels.sigma / (1 + layer.channels.sigma))


def test_root_of_a_metric(parts):
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    metric = x.T @ x
    assert torch.allclose(parts[1].root(metric) @ parts[1].root(metric), metric, atol=1e-4)


def test_intruders_are_taken_out_and_the_rest_stays(parts, layer):
    """A strong channel across two axes of W is a new direction of W + dW; one along an axis is none."""
    channels = importlib.import_module("unmemorize_pack.unmemorize.lora.channels")
    mixed = torch.full((SIDE, 1), SIDE**-0.5)
    along = channels.Channels(torch.eye(SIDE)[:, :1], torch.tensor([500.0]), torch.eye(SIDE)[:, :1])
    across = channels.Channels(mixed, torch.tensor([500.0]), mixed)
    for own, gone in ((along, False), (across, True)):
        tensors, removed = parts[1].without_intruders([parts[1].Layer("x", "x", own, layer.weight)], 0.5)
        assert (removed > 0.9) == gone
        if not gone:
            whole = tensors["x.lora_up.weight"] @ tensors["x.lora_down.weight"]
            assert torch.allclose(whole, 500 * torch.eye(SIDE)[:, :1] @ torch.eye(SIDE)[:1], atol=1e-2)


def test_channels_compete_within_layers_or_within_the_file(parts, layer):
    scores = [torch.tensor([1.0, 2.0])]
    assert parts[1].kept_in_layers([layer], scores, 0.5)[0].tolist() == [0.0, 1.0]
    assert parts[1].kept_in_file([layer], scores, 0.2)[0].tolist() == [0.0, 1.0]
    assert parts[1].kept_in_file([layer], scores, 0.21)[0].tolist() == [2.0, 1.0]
    assert parts[1].energy_removed([layer], [torch.tensor([0.0, 1.0])]) == pytest.approx(0.8)


def test_rank_dropout_leaves_ranks_out_and_keeps_the_mean(comfy):
    """Every pass holds whole ranks, each at 1 / (1 - dropout); on average it is the update itself, and without dropout always."""
    adapter = importlib.import_module("unmemorize_pack.demo.scripts.lora").LowRank
    plain, dropping = (adapter(torch.Size((4, 4)), 4, 4.0, torch.Generator().manual_seed(0), share) for share in (0.0, 0.25))
    for one in (plain, dropping):
        one.up.data, one.down.data = torch.eye(4), torch.eye(4)
    nothing = torch.zeros(4, 4)
    assert torch.equal(plain(nothing), torch.eye(4))
    passes = torch.stack([dropping(nothing).detach() for _ in range(2000)])
    kept = passes.diagonal(dim1=1, dim2=2)
    assert bool(((kept == 0) | torch.isclose(kept, torch.tensor(4 / 3))).all())
    assert torch.allclose(passes.mean(0), torch.eye(4), atol=0.06)


def test_a_trained_adapter_is_what_comfyui_makes_of_its_file(comfy, root):
    """Linear layers, convolutions and the text encoder: the weight while training is the weight under the saved LoRA."""
    lora, host = (importlib.import_module(f"unmemorize_pack.{n}") for n in ("demo.scripts.lora", "host.demo"))
    import comfy.lora
    import comfy.sd

    (model, clip, _), (fresh, plain_clip, _) = (host.load_demo(root / "demo/lab/checkpoint.safetensors") for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    adapters = lora.attach(lora.unet_layers(model.model) | lora.text_layers(clip.cond_stage_model), 4, 2.0, generator)
    for one in adapters.values():
        one.up.data = 0.1 * torch.randn(one.up.shape, generator=generator)
    under_file = comfy.sd.load_lora_for_models(fresh, plain_clip, lora.state_dict(adapters), 1.0, 1.0)
    trained, plain = (
        dict(m.model.diffusion_model.named_modules()) | dict(c.cond_stage_model.named_modules())
        for m, c in ((model, clip), (fresh, plain_clip))
    )
    patched = under_file[0].patches | under_file[1].patcher.patches
    assert len(patched) == len(adapters) and any(one.kernel for one in adapters.values()) and under_file[1].patcher.patches
    for key, patches in patched.items():
        path = key.removeprefix("diffusion_model.").removesuffix(".weight")
        before = plain[path].weight.detach().clone()
        found = comfy.lora.calculate_weight(patches, before.clone(), key)
        assert (found - trained[path].weight).norm() < 0.01 * (found - before).norm(), key
