"""GUARD and the moved starting noises in closed form, and on the demo model."""

from __future__ import annotations

import importlib
import math
from types import SimpleNamespace

import pytest
import torch

SETTINGS = {"sampler": "euler", "scheduler": "normal", "steps": 6, "cfg": 2.0}
CAPTION = "a large red star on a white background"


@pytest.fixture(scope="module")
def parts(comfy):
    names = ("published_attention", "published_noise", "guarding")
    return SimpleNamespace(**{n: importlib.import_module(f"unmemorize_pack.benchmarks.parts.{n}") for n in names})


@pytest.fixture(scope="module")
def generator(comfy, root):
    return importlib.import_module("unmemorize_pack.demo.scripts.generate").Generator(root / "demo/lab/checkpoint.safetensors")


class Growing:
    """eps_c - eps_u = x times what the context says: denoised = x - sigma x c."""

    def apply_model(self, x, sigma, c_crossattn):
        return x - sigma.reshape(-1, 1, 1, 1) * x * c_crossattn[:, :1, :1, None]


def test_a_batch_moves_against_the_growth_of_its_guidance(parts, monkeypatch):
    """e(x) = k x, so that e(x + r u) - e(x) = k r u with u = x / |x|: both steps go k r .7 s towards the origin, s the scale of x."""
    k, sigma = 0.1, torch.tensor([2.0])
    contexts = {"": torch.zeros(1, 1, 1), CAPTION: torch.full((1, 1, 1), k)}
    fake = SimpleNamespace(model=SimpleNamespace(model=Growing()), condition=lambda text: [[contexts[text]]])
    monkeypatch.setattr(parts.published_noise, "schedule", lambda *_: sigma)
    plain = parts.published_noise._noises([1, 2])
    moved = parts.published_noise.moved_as_a_batch(fake, CAPTION, [1, 2], SETTINGS)
    lengths = [x.flatten(1).norm(dim=1) for x in (plain, moved)]
    reach = 50.0 * math.sqrt(plain[0].numel() / (4 * 64 * 64)) * math.sqrt(1 + 2.0**2)
    assert torch.allclose(lengths[0] - lengths[1], torch.full((2,), 2 * 0.7 * k * reach), rtol=1e-4)
    assert torch.allclose(torch.cosine_similarity(plain.flatten(1), moved.flatten(1)), torch.ones(2), atol=1e-5)


def test_a_noise_moves_alone_until_its_guidance_is_small(parts, generator):
    far = parts.published_noise.moved_alone(generator, CAPTION, [3], 1e9, SETTINGS)
    assert torch.equal(far, parts.published_noise._noises([3])), "small enough where it is"
    near = parts.published_noise.moved_alone(generator, CAPTION, [3], 0.0, SETTINGS)
    published = importlib.import_module("unmemorize_pack.benchmarks.parts.published")
    sigma, cond, uncond = parts.published_noise._given(generator, CAPTION, SETTINGS)
    with torch.no_grad():
        norms = [
            float(published.difference(generator.model.model, z * torch.sqrt(1 + sigma**2), sigma, cond, uncond).norm())
            for z in (far, near)
        ]
    assert norms[1] < norms[0]


def test_late_guidance_is_the_empty_prompt_at_first(parts, generator):
    """Six steps: the first one (a tenth, rounded) is not guided."""
    heard = []
    model = parts.published_noise.guided_late(generator, SETTINGS)
    model.set_model_sampler_post_cfg_function(lambda f: heard.append(torch.equal(f["denoised"], f["uncond_denoised"])) or f["denoised"])
    with torch.inference_mode(), parts.guarding.lent(generator, model):
        generator.latents(CAPTION, [4], **SETTINGS)
    assert heard == [True] + [False] * 5


def attention(query, keys, values, heads, factor):
    """Softmax of scaled logits, by hand."""
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, keys, values))
    logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]) * factor
    return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)


def test_telling_tokens_lose_their_logits_in_the_prompts_rows_alone(parts):
    """Token 2 of the prompt stands out: its logits shrink to .3; the empty prompt's rows, and the first token, keep theirs."""
    keys = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)) * 0.01
    keys[:, 2], keys[:, 0] = 3.0, 9.0
    query, values = torch.full((2, 4, 8), 0.5), torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    options = {"n_heads": 2, "cond_or_uncond": [0, 1]}
    found = parts.published_attention.attenuated(query, keys, values, options)
    factor = torch.ones(1, 1, 1, 5)
    factor[..., 2] = parts.published_attention.KEPT
    assert torch.allclose(found[:1], attention(query[:1], keys[:1], values[:1], 2, factor), atol=1e-5)
    assert torch.allclose(found[1:], attention(query[1:], keys[1:], values[1:], 2, 1.0), atol=1e-5)


def test_guard_changes_the_way_down_and_asks_three_times(parts, generator):
    """On the demo model: other pictures, and each step costs the prompt's plain prediction more."""
    calls = []
    hook = generator.model.model.diffusion_model.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    try:
        made = []
        for model in (generator.model, parts.published_attention.guard(generator.model)):
            calls.clear()
            with torch.inference_mode(), parts.guarding.lent(generator, model):
                made.append((generator.latents(CAPTION, [4], **SETTINGS), sum(calls)))
    finally:
        hook.remove()
    assert made[0][1] == 12 and made[1][1] == 18 and not torch.allclose(made[0][0], made[1][0], atol=1e-3)
