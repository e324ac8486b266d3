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
from ..lab import Recorder

LEVEL_FACTOR = 0.5
"""A layout in the lab's latents (16 x 16, deviation 2) is lost at half of the noise at which SD's (64 x 64, deviation 1) is: half as wide
in each direction four times fewer values average a quarter of the noise, twice the deviation stands twice as much."""
STATIC_UNTIL, OPPOSITE_UNTIL = 500, 650
"""SONY's time steps until which guidance is 0, or opposite."""
OPPOSITE_SCALE, SD_SCALE = -2.0, 7.5
EMBEDDING_STEPS, EMBEDDING_RATE = 10, 0.05
"""WEN's prompt optimisation."""
CHANNELS = 8


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


def optimised_prompt(generator: Generator, caption: str, seeds: list[int], target: float, settings: dict[str, Any]) -> list:
    """WEN: one embedding for all the seeds, its first place frozen, moved until the norm of eps_c - eps_u over all of them at the first
    step is below `target`; CONDITIONING."""
    positive, empty = generator.condition(caption), generator.condition("")
    sampling = generator.model.get_model_object("model_sampling")
    sigma = schedule(generator, settings)[:1]
    noise = torch.cat([torch.randn(1, CHANNELS, 16, 16, generator=torch.manual_seed(s)) for s in seeds])
    start = sampling.noise_scaling(sigma, noise, torch.zeros_like(noise), True)
    net = generator.model.model
    with torch.inference_mode(False), differentiable(net.diffusion_model):
        x, level, uncond = start.clone(), sigma.clone().expand(2 * len(seeds)), empty[0][0].clone()
        first, rest = positive[0][0][:, :1].clone(), torch.nn.Parameter(positive[0][0][:, 1:].clone())
        optimizer = torch.optim.AdamW([rest], lr=EMBEDDING_RATE)
        for _ in range(EMBEDDING_STEPS):
            cond = torch.cat([first, rest], 1)
            context = torch.cat([cond.expand(len(x), -1, -1), uncond.expand(len(x), -1, -1)])
            denoised_c, denoised_u = net.apply_model(torch.cat([x, x]), level, c_crossattn=context).chunk(2)
            norm = ((denoised_u - denoised_c) / level[0]).norm() / len(x) ** 0.5
            if float(norm.detach()) < target:
                break
            optimizer.zero_grad()
            norm.backward()
            optimizer.step()
        found = torch.cat([first, rest.detach()], 1)
    return [[found, positive[0][1]]]


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
