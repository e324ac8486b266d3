"""Bright Ending: attention to the end token, on the real demo checkpoint."""

from __future__ import annotations

import importlib
import json

import pytest
import torch

from ..maps import PHOTO


def test_bright_ending_is_attention_to_the_end_token(nodes, demo, latent, untouched):
    node = nodes["UnmemorizeBrightEndingMap"]
    with untouched(demo[0], latent):
        result, score, report = node.execute(demo[0], demo[1], PHOTO, {"samples": latent}, 0).args
    assert result["values"].shape == (2, 16, 16) and result["channels"] == 1
    assert json.loads(report)["evaluations"] == 1 and score == pytest.approx(result["values"].mean((1, 2)).max().item())
    assert torch.allclose(result["values"], attention_by_hand(demo, latent), atol=1e-5)


def attention_by_hand(demo, latent):
    """Softmax over the prompt's tokens in the finest cross-attention of the down path, from ComfyUI's own attention patch."""
    denoising, seeds = (importlib.import_module(f"unmemorize_pack.host.core.{n}") for n in ("denoiser", "seeds"))
    seen = []

    def replace(q, k, v, extra):
        heads = extra["n_heads"]
        split = [t.reshape(*t.shape[:2], heads, -1).transpose(1, 2) for t in (q, k, v)]
        weights = (split[0] @ split[1].transpose(2, 3) / split[0].shape[-1] ** 0.5).softmax(-1)
        seen.append((q.shape[1], weights.mean(1)))
        return (weights @ split[2]).transpose(1, 2).reshape(q.shape)

    model, clip = demo[0].clone(), demo[1]
    for block in range(1, 5):
        model.set_model_attn2_replace(replace, "input", block)

    def work(denoiser):
        denoiser.branches(denoiser.noised(seeds.unit_noise(latent, seeds.derived_seed("noise", 0, 0))))

    positive = clip.encode_from_tokens_scheduled(clip.tokenize(PHOTO))
    denoising.with_denoiser(model, positive, None, {"samples": latent}, 0.0413, 0, work)
    end = 1 + len(PHOTO.split())
    most = max(pixels for pixels, _ in seen)
    finest, side = torch.stack([w[..., end] for pixels, w in seen if pixels == most]).mean(0), int(most**0.5)
    return finest.reshape(2, side, side).repeat_interleave(16 // side, 1).repeat_interleave(16 // side, 2)


def test_a_failed_bright_ending_leaves_no_hooks(nodes, demo, latent, untouched):
    def fail(*_):
        raise RuntimeError("the network failed")

    middle = demo[0].model.diffusion_model.middle_block[0]
    with untouched(demo[0]):
        hook = middle.register_forward_pre_hook(fail)
        try:
            with pytest.raises(RuntimeError, match="the network failed"):
                nodes["UnmemorizeBrightEndingMap"].execute(demo[0], demo[1], PHOTO, {"samples": latent}, 0)
        finally:
            hook.remove()


def test_the_end_token_is_found_in_short_and_long_prompts(demo):
    module = importlib.import_module("unmemorize_pack.host.curvature.bright_ending")
    clip = demo[1]
    empty = clip.tokenize("")
    assert module.end_position(clip.tokenize("a red ring"), empty) == 4
    assert module.end_position(empty, empty) == 1
    assert module.end_position(clip.tokenize("red " * 25), empty) == 24 + 1 + 3


def test_bright_ending_refuses_networks_without_cross_attention():
    module = importlib.import_module("unmemorize_pack.host.curvature.bright_ending")
    with pytest.raises(ValueError, match="Use Curvature Difference Map"):
        module.down_attention(torch.nn.Linear(2, 2))


def test_a_network_that_returns_no_numbers_has_no_map(nodes, demo, latent):
    """Half precision that overflows in one layer: a mean of 0 would read as clean."""
    module = importlib.import_module("unmemorize_pack.host.curvature.bright_ending")
    layer = next(iter(module.down_attention(demo[0].model.diffusion_model).values()))
    hook = layer.to_q.register_forward_hook(lambda _m, _i, out: out * float("nan"))
    try:
        with pytest.raises(ValueError, match="not numbers.*--force-fp32"):
            nodes["UnmemorizeBrightEndingMap"].execute(demo[0], demo[1], PHOTO, {"samples": latent}, 0)
    finally:
        hook.remove()
