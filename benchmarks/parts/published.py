"""Published repairs and attacks as their papers give them (METHODS.md, 6), at the lab's corresponding noise levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ...demo.recipe import scenes
from ...demo.recipe.scenes import Scene
from ...demo.scripts.generate import Generator
from ...host.core.denoiser import differentiable
from ...host.demo import noise_levels
from ...unmemorize.copies.trigger_words import LITTLE

LEVEL_FACTOR = 0.5
"""A layout in the lab's latents (16 x 16, deviation 2) is lost at half of the noise at which SD's (64 x 64, deviation 1) is: half as wide
in each direction four times fewer values average a quarter of the noise, twice the deviation stands twice as much."""
STATIC_UNTIL, OPPOSITE_UNTIL = 500, 650
"""SONY's time steps until which guidance is 0, or opposite."""
OPPOSITE_SCALE, SD_SCALE = -2.0, 7.5
IMAGES, EMBEDDING_STEPS, EMBEDDING_RATE = 4, 10, 0.05
"""WEN's prompt optimisation."""
NOISE_STEPS, NOISE_RATE, NOISE_CANDIDATES, NOISE_WEIGHT = 10, 0.05, 8, 0.05
"""SAIL's noise selection."""
ANISOTROPY = (1.0, 2.0)
"""Weights of SD1.x: norm of the score difference, mean cosine."""
CHANNELS = 8


class Recorder:
    """WEN's norm ||eps_c - eps_u|| of each step of each sample, read while sampling, no extra evaluation."""

    def __init__(self, generator: Generator) -> None:
        self._generator, self._plain = generator, generator.model
        self.steps: list[Tensor] = []

    def __enter__(self) -> Recorder:
        model = self._plain.clone()
        model.set_model_sampler_post_cfg_function(self._record, disable_cfg1_optimization=True)
        self._generator.model = model
        return self

    def __exit__(self, *_: object) -> None:
        self._generator.model = self._plain

    def _record(self, facts: dict[str, Any]) -> Tensor:
        gap = (facts["cond_denoised"] - facts["uncond_denoised"]).flatten(1).norm(dim=1)
        self.steps.append((gap / facts["sigma"].reshape(-1)[0]).cpu())
        return facts["denoised"]


def level_of(time_step: int) -> float:
    """The lab's noise level that corresponds to SD's at a time step."""
    return LEVEL_FACTOR * float(noise_levels()[time_step])


def guided(model: Any, scale: Callable[[float, float], float]) -> Any:
    """MODEL -> MODEL whose guidance at a noise level is `scale(sigma, cfg asked for)`; the empty prompt alone at 0."""
    clone = model.clone()

    def guide(facts: dict[str, Any]) -> Tensor:
        sigma = float(facts["sigma"].reshape(-1)[0])
        cond, uncond = facts["cond_denoised"], facts["uncond_denoised"]
        return uncond + scale(sigma, facts["cond_scale"]) * (cond - uncond)

    clone.set_model_sampler_post_cfg_function(guide, disable_cfg1_optimization=True)
    return clone


def sony_static(model: Any) -> Any:
    """Guidance 0 until t = 500, then as asked for."""
    return guided(model, lambda sigma, cfg: 0.0 if sigma > level_of(STATIC_UNTIL) else cfg)


def sony_opposite(model: Any) -> Any:
    """Guidance opposite until t = 650 (-2 where 7.5 was asked for), then as asked for."""
    return guided(model, lambda sigma, cfg: cfg * OPPOSITE_SCALE / SD_SCALE if sigma > level_of(OPPOSITE_UNTIL) else cfg)


def sony_dynamic(model: Any) -> Any:
    """Guidance 1 until the first strict local minimum of the norm of eps_c - eps_u (it has fallen, then rises), then as asked for; by
    sample. A norm that never does so leaves guidance at 1."""
    clone = model.clone()
    state: dict[str, Any] = {}

    def guide(facts: dict[str, Any]) -> Tensor:
        sigma = float(facts["sigma"].reshape(-1)[0])
        cond, uncond = facts["cond_denoised"], facts["uncond_denoised"]
        norm = (cond - uncond).flatten(1).norm(dim=1) / sigma
        if state.get("sigma", 0.0) <= sigma:
            nowhere = torch.zeros(len(norm), dtype=torch.bool)
            state.update(before=norm, fallen=nowhere.clone(), found=nowhere)
        state["found"] |= state["fallen"] & (norm > state["before"])
        state["fallen"] |= norm < state["before"]
        state.update(before=norm, sigma=sigma)
        scale = torch.where(state["found"], facts["cond_scale"], 1.0).reshape(-1, 1, 1, 1)
        return uncond + scale * (cond - uncond)

    clone.set_model_sampler_post_cfg_function(guide, disable_cfg1_optimization=True)
    return clone


def inserted(caption: str, count: int, vocabulary: list[str], generator: torch.Generator) -> str:
    """The caption with so many random known words at random places."""
    words = caption.split()
    for _ in range(count):
        place = int(torch.randint(len(words) + 1, (), generator=generator))
        words.insert(place, vocabulary[int(torch.randint(len(vocabulary), (), generator=generator))])
    return " ".join(words)


def replaced(caption: str, generator: torch.Generator) -> list[str]:
    """The scene caption with each content word in turn replaced by another of its class, `plain` left as it is."""
    item, found = scenes.scene_of(caption), []
    for slot, several in scenes.grammar().items():
        word = getattr(item, slot)
        others = [w for w in several if w not in (word, "plain")]
        if word != "plain":
            other = others[int(torch.randint(len(others), (), generator=generator))]
            found.append(Scene(**{**item.__dict__, slot: other}).caption)
    return found


def schedule(generator: Generator, settings: dict[str, Any]) -> Tensor:
    """Noise levels of a run, the last 0."""
    sampling = generator.model.get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(sampling, settings["scheduler"], settings["steps"]).cpu()


def difference(net: Any, x: Tensor, sigma: Tensor, cond: Tensor, uncond: Tensor) -> Tensor:
    """eps_c - eps_u of the network itself at x [n, c, h, w] and one noise level [1], for contexts [1, tokens, d]; differentiable."""
    context = torch.cat([cond.expand(len(x), -1, -1), uncond.expand(len(x), -1, -1)])
    denoised_c, denoised_u = net.apply_model(torch.cat([x, x]), sigma.expand(2 * len(x)), c_crossattn=context).chunk(2)
    return (denoised_u - denoised_c) / sigma


def first_step(generator: Generator, seeds: list[int], settings: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Where the runs of some seeds begin, x [n, c, h, w], and the noise level there [1]."""
    sigma = schedule(generator, settings)[:1]
    noise = torch.cat([torch.randn(1, CHANNELS, 16, 16, generator=torch.manual_seed(s)) for s in seeds])
    return generator.model.get_model_object("model_sampling").noise_scaling(sigma, noise, torch.zeros_like(noise), True), sigma


def optimised_prompt(generator: Generator, caption: str, seeds: list[int], target: float, settings: dict[str, Any]) -> list:
    """WEN: one embedding for all the seeds, its first place frozen, moved until the norm of eps_c - eps_u over all of them at the first
    step is below `target`; CONDITIONING."""
    positive, empty = generator.condition(caption), generator.condition("")
    start, sigma = first_step(generator, seeds, settings)
    net = generator.model.model
    with torch.inference_mode(False), differentiable(net.diffusion_model):
        x, level, uncond = start.clone(), sigma.clone(), empty[0][0].detach().clone()
        first, rest = positive[0][0][:, :1].detach().clone(), torch.nn.Parameter(positive[0][0][:, 1:].detach().clone())
        optimizer = torch.optim.AdamW([rest], lr=EMBEDDING_RATE)
        for _ in range(EMBEDDING_STEPS):
            cond = torch.cat([first, rest], 1)
            norm = difference(net, x, level, cond, uncond).norm() / len(x) ** 0.5
            if float(norm.detach()) < target:
                break
            optimizer.zero_grad()
            norm.backward()
            optimizer.step()
        found = torch.cat([first, rest.detach()], 1)
    return [[found, positive[0][1]]]


def significant_word(generator: Generator, caption: str, seeds: list[int], settings: dict[str, Any]) -> str:
    """WEN's token significance at the first step: the word whose place in the embedding has the largest gradient of the norm of
    eps_c - eps_u. Little words are left out, as everywhere here; the demo's tokenizer has one token a word, after the first place."""
    positive, empty = generator.condition(caption), generator.condition("")
    start, sigma = first_step(generator, seeds, settings)
    net = generator.model.model
    with torch.inference_mode(False), differentiable(net.diffusion_model):
        cond, uncond = torch.nn.Parameter(positive[0][0].detach().clone()), empty[0][0].detach().clone()
        difference(net, start.clone(), sigma.clone(), cond, uncond).norm().backward()
        assert cond.grad is not None
        by_place = cond.grad[0].norm(dim=1)
    words = [(float(by_place[k + 1]), w) for k, w in enumerate(caption.split()) if w.lower() not in LITTLE]
    return max(words)[1]


def with_optimised_prompt(generator: Generator, caption: str, seeds: list[int], target: float, settings: dict[str, Any]) -> Tensor:
    """WEN: pictures [n, 3, 128, 128] of one optimised embedding for all seeds."""
    changed = optimised_prompt(generator, caption, seeds, target, settings)
    plain = generator.condition
    generator.condition = lambda text: plain(text) if text == "" else changed  # type: ignore[method-assign]
    try:
        return generator.pictures(caption, seeds, **settings)
    finally:
        generator.condition = plain  # type: ignore[method-assign]


def pulled(generator: Generator, caption: str, latents: Tensor, seed: int, settings: dict[str, Any]) -> Tensor:
    """Unrelated latents [n, c, h, w] noised to the level of t = 500 and denoised at full guidance over all steps below it; pictures."""
    sigmas = schedule(generator, settings)
    start = int((sigmas > level_of(STATIC_UNTIL)).sum())
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    conds = (generator.condition(caption), generator.condition(""))
    use = (settings["steps"], settings["cfg"], settings["sampler"], settings["scheduler"])
    with torch.inference_mode():
        found = comfy.sample.sample(
            generator.model, noise, *use, *conds, latents, start_step=start, force_full_denoise=True, disable_pbar=True, seed=seed
        )
        return generator.vae.decode(found).movedim(-1, 1).clone()


def first_norm(generator: Generator, captions: list[str], seeds: list[int], settings: dict[str, Any]) -> float:
    """WEN's stop level: mean over captions of the norm of eps_c - eps_u at the first step, root mean square over the seeds."""
    norms = []
    for caption in captions:
        with Recorder(generator) as recorder:
            generator.latents(caption, seeds, **settings)
        norms.append(float(recorder.steps[0].square().mean().sqrt()))
    return sum(norms) / len(norms)


def anisotropy(generator: Generator, caption: str, seeds: list[int], settings: dict[str, Any]) -> Tensor:
    """ANI for SD1: norm of eps_c - eps_u at the first level, plus twice the mean over pixels of the cosine over channels of s_u and
    s_c - s_u at the third-last, on the same pure noise at both, [n]."""
    levels = schedule(generator, settings)
    noise = torch.cat([torch.randn(1, CHANNELS, 16, 16, generator=torch.manual_seed(s)) for s in seeds])
    cond, uncond = (generator.condition(text)[0][0] for text in (caption, ""))
    net = generator.model.model

    def eps_of(level: Tensor, context: Tensor) -> Tensor:
        x = noise * torch.sqrt(1 + level**2)
        denoised = net.apply_model(x, level.reshape(1).expand(len(x)), c_crossattn=context.expand(len(x), -1, -1))
        return (x - denoised) / level

    with torch.inference_mode():
        norm = (eps_of(levels[0], cond) - eps_of(levels[0], uncond)).flatten(1).norm(dim=1)
        unguided = eps_of(levels[-4], uncond)  # the last level is 0; scores point the other way, all of them
        cosine = torch.cosine_similarity(unguided, eps_of(levels[-4], cond) - unguided, dim=1)
        return ANISOTROPY[0] * norm + ANISOTROPY[1] * cosine.mean((1, 2))


def sharpness(net: Any, noise: Tensor, sigma: Tensor, cond: Tensor, uncond: Tensor) -> Tensor:
    """SAIL's proxy, [n]: norm of eps_c - eps_u where the unit noise [n, c, h, w] is moved by one along its direction."""
    x = noise * torch.sqrt(1 + sigma**2)
    d = difference(net, x, sigma, cond, uncond)
    unit = d / d.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1).clamp_min(1e-8)
    return difference(net, (noise + unit) * torch.sqrt(1 + sigma**2), sigma, cond, uncond).flatten(1).norm(dim=1)


def clean_sharpness(generator: Generator, captions: list[str], seeds: list[int], settings: dict[str, Any]) -> float:
    """Mean of the proxy over clean captions: SAIL's stop level 8.2, less the noise's own term, is such a level of SD's."""
    sigma, uncond = schedule(generator, settings)[:1], generator.condition("")[0][0]
    noise = torch.cat([torch.randn(1, CHANNELS, 16, 16, generator=torch.manual_seed(s)) for s in seeds])
    with torch.inference_mode():
        found = [sharpness(generator.model.model, noise, sigma, generator.condition(c)[0][0], uncond).mean() for c in captions]
    return float(torch.stack(found).mean())


def selected_noise(generator: Generator, caption: str, seed: int, target: float, settings: dict[str, Any]) -> Tensor:
    """SAIL: the best of 8 starting noises moved by Adam, at most ten steps, until the proxy alone is below `target`; unit noise
    [1, c, h, w]. Ours: one round, no threshold that grows with failed rounds."""
    net = generator.model.model
    several = [torch.randn(1, CHANNELS, 16, 16, generator=torch.manual_seed(seed + 1000 * k)) for k in range(NOISE_CANDIDATES)]
    given = (schedule(generator, settings)[:1], *(generator.condition(text)[0][0] for text in (caption, "")))
    with torch.inference_mode(False), differentiable(net.diffusion_model):
        sigma, cond, uncond = (x.detach().clone() for x in given)  # autograd keeps no tensor that was made in inference mode
        noise = torch.cat(several).clone()
        with torch.no_grad():
            values = sharpness(net, noise, sigma, cond, uncond) + NOISE_WEIGHT * noise.flatten(1).norm(dim=1)
        z = torch.nn.Parameter(noise[values.argmin()][None].clone())
        optimizer = torch.optim.Adam([z], lr=NOISE_RATE)
        for _ in range(NOISE_STEPS):
            optimizer.zero_grad()
            value = sharpness(net, z, sigma, cond, uncond).sum()
            if float(value.detach()) < target:
                break
            (value + NOISE_WEIGHT * z.norm()).backward()
            optimizer.step()
        return z.detach().clone()


def from_noise(generator: Generator, caption: str, noise: Tensor, seed: int, settings: dict[str, Any]) -> Tensor:
    """Pictures [n, 3, 128, 128] of a caption that start from given unit noises."""
    use = (settings["steps"], settings["cfg"], settings["sampler"], settings["scheduler"])
    conds = (generator.condition(caption), generator.condition(""))
    with torch.inference_mode():
        latents = comfy.sample.sample(generator.model, noise, *use, *conds, torch.zeros_like(noise), disable_pbar=True, seed=seed)
        return generator.vae.decode(latents).movedim(-1, 1).clone()
