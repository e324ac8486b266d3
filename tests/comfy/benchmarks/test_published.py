"""Published baselines in closed form, and on the demo model: they do what their papers say, inside inference mode and outside."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch

SETTINGS = {"sampler": "euler", "scheduler": "normal", "steps": 6, "cfg": 2.0}
CAPTION = "a large red star on a white background"


@pytest.fixture(scope="module")
def published(comfy):
    return importlib.import_module("unmemorize_pack.benchmarks.parts.published")


@pytest.fixture(scope="module")
def generator(comfy, root):
    return importlib.import_module("unmemorize_pack.demo.scripts.generate").Generator(root / "demo/lab/checkpoint.safetensors")


class Constant:
    """eps is what the context says, one number a channel, wherever it is asked: denoised = x - sigma eps."""

    def apply_model(self, x, sigma, c_crossattn):
        return x - sigma.reshape(-1, 1, 1, 1) * c_crossattn[:, 0, :, None, None]


def contexts(*values: list[float]) -> list[torch.Tensor]:
    return [torch.tensor(v).reshape(1, 1, -1) for v in values]


def patched(published, patch, norms: list[float], sigmas: list[float], cfg: float = 3.0) -> list[float]:
    """Guidance in each step of a run whose eps_c - eps_u has these norms, by what comes out over what was predicted."""
    steps: list = []
    model = SimpleNamespace(clone=lambda: SimpleNamespace(set_model_sampler_post_cfg_function=lambda f, **_: steps.append(f)))
    patch(model)
    found = []
    for norm, sigma in zip(norms, sigmas, strict=True):
        cond, uncond = torch.full((1, 1, 1, 1), norm * sigma), torch.zeros(1, 1, 1, 1)
        facts = {"sigma": torch.tensor([sigma]), "cond_denoised": cond, "uncond_denoised": uncond, "cond_scale": cfg}
        found.append(float(steps[0](facts) / cond))
    return found


LEVELS = [14.0, 8.0, 5.0, 3.0, 2.0, 1.0]


def test_dynamic_transition_waits_for_a_norm_that_fell_and_rises(published):
    assert patched(published, published.sony_dynamic, [5, 3, 2, 4, 1, 1], LEVELS) == pytest.approx([1, 1, 1, 3, 3, 3])
    assert patched(published, published.sony_dynamic, [1, 2, 3, 4, 5, 6], LEVELS) == pytest.approx([1] * 6), "no minimum, no transition"
    assert patched(published, published.sony_dynamic, [2, 2, 2, 1, 1, 2], LEVELS) == pytest.approx([1, 1, 1, 1, 1, 3])


def test_static_and_opposite_guidance_by_corresponding_level(published):
    static, opposite = published.level_of(published.STATIC_UNTIL), published.level_of(published.OPPOSITE_UNTIL)
    assert 0 < static < opposite < 14.6 * published.LEVEL_FACTOR
    levels = [opposite * 1.1, opposite * 0.9, static * 1.1, static * 0.9]
    assert patched(published, published.sony_static, [1] * 4, levels) == pytest.approx([0, 0, 0, 3])
    assert patched(published, published.sony_opposite, [1] * 4, levels) == pytest.approx([-2 / 7.5 * 3, 3, 3, 3])


def test_sharpness_is_the_norm_where_the_noise_was_moved(published):
    """Of a constant difference: that difference, and not what moving changed about it."""
    cond, uncond = contexts([3.0, 0.0], [0.0, 4.0])
    noise = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    found = published.sharpness(Constant(), noise, torch.tensor([14.0]), cond, uncond)
    assert found.tolist() == pytest.approx([5 * 4.0] * 2, rel=1e-4)


def test_sharpness_is_measured_one_step_along_the_difference(published):
    """eps is the noise times the prompt's number: a difference of 2 n, which at n + n/|n| has the norm 2 (|n| + 1)."""

    class Growing(Constant):
        def apply_model(self, x, sigma, c_crossattn):
            level = sigma.reshape(-1, 1, 1, 1)
            return x - level * x / torch.sqrt(1 + level**2) * c_crossattn[:, 0, :, None, None]

    cond, uncond = contexts([3.0, 3.0], [1.0, 1.0])
    noise = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    found = published.sharpness(Growing(), noise, torch.tensor([14.0]), cond, uncond)
    assert torch.allclose(found, 2 * (noise.flatten(1).norm(dim=1) + 1), rtol=1e-4)


def test_anisotropy_takes_the_cosine_over_channels_at_the_third_last_level(published, monkeypatch):
    cond, uncond = contexts([1.0] + [0.0] * 7, [0.0, 2.0] + [0.0] * 6)
    asked = []

    class Noted(Constant):
        def apply_model(self, x, sigma, c_crossattn):
            asked.append(round(float(sigma[0]), 3))
            return super().apply_model(x, sigma, c_crossattn)

    fake = SimpleNamespace(model=SimpleNamespace(model=Noted()), condition=lambda text: [[cond if text else uncond, {}]])
    monkeypatch.setattr(published, "schedule", lambda *_: torch.tensor([14.0, 9.0, 5.0, 2.0, 1.0, 0.0]))
    found = published.anisotropy(fake, "a", [1, 2], SETTINGS)
    cosine = float(torch.nn.functional.cosine_similarity(uncond[0, 0], cond[0, 0] - uncond[0, 0], dim=0))
    assert found.tolist() == pytest.approx([5**0.5 * 16 + 2 * cosine] * 2, rel=1e-4)
    assert sorted(set(asked)) == [5.0, 14.0]


@pytest.mark.parametrize("inference", [True, False])
def test_optimised_prompt_lowers_the_norm_and_keeps_its_first_place(published, generator, inference):
    with torch.inference_mode(inference):
        plain = generator.condition(CAPTION)[0][0]
        changed = published.optimised_prompt(generator, CAPTION, [1, 2], 0.0, SETTINGS)[0][0]
        same = published.optimised_prompt(generator, CAPTION, [1, 2], 1e9, SETTINGS)[0][0]
    assert torch.equal(changed[:, 0], plain[:, 0]) and not torch.allclose(changed[:, 1:], plain[:, 1:], atol=0.01)
    assert torch.equal(same, plain), "below the level nothing is moved"
    empty = generator.condition("")[0][0]
    x = torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(3)) * 14.65
    sigma = published.schedule(generator, SETTINGS)[:1]
    with torch.inference_mode():
        before, after = (published.difference(generator.model.model, x, sigma, c, empty).norm() for c in (plain, changed))
    assert float(after) < float(before)


@pytest.mark.parametrize("inference", [True, False])
def test_selected_noise_is_the_best_of_eight_moved_towards_less_sharpness(published, generator, inference):
    with torch.inference_mode(inference):
        kept = published.selected_noise(generator, CAPTION, 5, 1e9, SETTINGS)
        moved = published.selected_noise(generator, CAPTION, 5, 0.0, SETTINGS)
    drawn = [torch.randn(1, 8, 16, 16, generator=torch.manual_seed(5 + 1000 * k)) for k in range(published.NOISE_CANDIDATES)]
    assert any(torch.equal(kept, z) for z in drawn) and not torch.equal(moved, kept)
    cond, uncond = (generator.condition(text)[0][0] for text in (CAPTION, ""))
    sigma = published.schedule(generator, SETTINGS)[:1]
    with torch.inference_mode():
        sharp = [float(published.sharpness(generator.model.model, z, sigma, cond, uncond)) for z in (moved, kept, *drawn)]
    assert sharp[0] < sharp[1] and sharp[1] <= min(sharp[2:]) * 1.1
    assert published.from_noise(generator, CAPTION, moved, 1, SETTINGS).shape == (1, 3, 128, 128)


def test_the_significant_word_is_the_one_whose_place_moves_the_norm(published, monkeypatch):
    """A network that hears one place of the prompt alone; little words are never named, though one moves the norm most."""

    class Hears:
        diffusion_model = torch.nn.Linear(1, 1)

        def __init__(self, weights: list[float]) -> None:
            self.weights = torch.tensor(weights)

        def apply_model(self, x, sigma, c_crossattn):
            return x - sigma.reshape(-1, 1, 1, 1) * (c_crossattn.sum(2) @ self.weights.clone()).reshape(-1, 1, 1, 1)

    def named(*weights: float) -> str:
        ones = [[torch.ones(1, 6, 2), {}]], [[torch.zeros(1, 6, 2), {}]]
        made = SimpleNamespace(condition=lambda text: ones[0] if text else ones[1], model=SimpleNamespace(model=Hears(list(weights))))
        return published.significant_word(made, "a red ring on sand", [1], SETTINGS)

    monkeypatch.setattr(published, "first_step", lambda *_: (torch.zeros(1, 8, 4, 4), torch.tensor([5.0])))
    assert named(9.0, 9.0, 1.0, 3.0, 9.0, 2.0) == "ring" and named(9.0, 9.0, 1.0, 0.5, 9.0, 2.0) == "sand"
