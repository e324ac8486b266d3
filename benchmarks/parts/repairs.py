"""Every repair on the same flagged runs: the guard's, the paper's rule, and those of other papers, with what each costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ...host.core.denoiser import differentiable
from ...host.stability import guard as guarding
from ...host.stability.profiles import StoredProfile
from ...host.stability.restart import Phase, Restart, nothing
from ...unmemorize.stability.rule import Rule
from . import published
from .common import log, shared_out
from .detecting import sampling_of
from .guarding import Bench, always, broken, obeys, pictures_of

SONY_STATIC, SONY_OPPOSITE = 0.5, 0.35
"""Shares of the steps: t <= 500 and t <= 650 of 1000."""
SD_CFG = 7.5
EMBEDDING_STEPS, EMBEDDING_RATE = 10, 0.05
NOISE_STEPS, NOISE_RATE, NOISE_CANDIDATES, NOISE_WEIGHT = 10, 0.05, 8, 0.05
"""WEN's prompt optimisation and SAIL's noise selection (METHODS.md, 6)."""

Draw = Callable[[str, list[int]], Tensor]
Outcome = dict[tuple[str, str], list[dict[str, bool]]]
"""(Group, caption) -> for each run: copied, obeys, broken."""


def repairs(bench: Bench, stored: StoredProfile, clean_norm: float) -> dict[str, tuple[Draw, float]]:
    """Name -> (pictures of a caption for seeds, extra cost of a flagged run in runs, a backward pass counted as two evaluations).

    `clean_norm`: of ||eps_c - eps_u|| at the first step of clean prompts, where WEN's optimisation stops.
    """
    model, early = bench.final.model, bench.early

    def guarded(**changes: Any) -> Draw:
        clone, _ = guarding.guarded(model, guarding.Guard(stored, "correct", **changes))
        return lambda caption, seeds: pictures_of(bench.final, clone, caption, seeds)

    def restarted(*phases: Phase, parent: Any = None) -> Draw:
        clone = always(model, Restart(phases, parent))
        return lambda caption, seeds: pictures_of(bench.final, clone, caption, seeds)

    off = Rule(rescale=False, clamp_update=False, clamp_latent=False)
    return {
        "guard": (guarded(parent=early), 1.0),
        "guard_without_parent": (guarded(), 1.0),
        "paper": (guarded(method="paper"), 0.0),
        "paper_r1": (guarded(method="paper", rule=Rule(reflect=True)), 0.0),
        "paper_r2": (guarded(method="paper", rule=dataclasses.replace(off, renormalise_guidance=True)), 0.0),
        "paper_r3": (guarded(method="paper", rule=dataclasses.replace(off, renoise=True)), 0.0),
        "sony_static": (restarted(Phase(SONY_STATIC, cfg=0.0), Phase(1.0)), 1.0),
        "sony_opposite": (restarted(Phase(SONY_OPPOSITE, cfg=-2.0 / SD_CFG), Phase(1.0)), 1.0),
        "sony_dynamic": (lambda c, s: pictures_of(bench.final, published.sony_dynamic(model), c, s), 1.0),
        "other_seed": (lambda c, s: bench.final.pictures(c, [x + 10_000 for x in s]), 1.0),
        "no_condition": (restarted(Phase(1.0, prompt=nothing)), 1.0),
        "early_model": (restarted(Phase(1.0, parent=True), parent=early), 1.0),
        "wen_prompt": (lambda c, s: optimised_prompt(bench, c, s, clean_norm), 1.0 + 3 * EMBEDDING_STEPS / 20),
        "sail_noise": (lambda c, s: selected_noise(bench, c, s), 1.0 + 6 * NOISE_STEPS / 20),
    }  # fmt: skip


def _difference(bench: Bench, x: Tensor, sigma: Tensor, cond: Tensor, uncond: Tensor) -> Tensor:
    """eps_c - eps_u of the network itself, differentiable in x and cond."""
    model = bench.final.model.model
    sigma = sigma.clone()  # autograd may not keep a tensor that was made in inference mode
    both = model.apply_model(torch.cat([x, x]), sigma.expand(2 * len(x)), c_crossattn=torch.cat([cond, uncond]))
    denoised_c, denoised_u = both.chunk(2)
    return (denoised_u - denoised_c) / sigma


def _first_step(bench: Bench, seeds: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Sigmas of the run, its starting latents and unit noises, [n, c, h, w]."""
    use = sampling_of(bench)
    sampling = bench.final.model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, use["scheduler"], use["steps"])
    noise = torch.cat([torch.randn(1, 8, 16, 16, generator=torch.manual_seed(s)) for s in seeds])
    x = sampling.noise_scaling(sigmas[:1], noise, torch.zeros_like(noise), True)
    return sigmas, x, noise


def optimised_prompt(bench: Bench, caption: str, seeds: list[int], target: float) -> Tensor:
    """WEN: the prompt's embedding moved until ||eps_c - eps_u|| at the first step is that of a clean prompt, a run for each seed."""
    pictures: list[Tensor] = []
    positive, empty = bench.final.condition(caption), bench.final.condition("")
    for seed in seeds:
        sigmas, x, _ = _first_step(bench, [seed])
        with torch.inference_mode(False), differentiable(bench.final.model.model.diffusion_model):
            x, uncond = x.clone(), empty[0][0].clone()
            cond = torch.nn.Parameter(positive[0][0].clone())
            optimizer = torch.optim.AdamW([cond], lr=EMBEDDING_RATE)
            for _ in range(EMBEDDING_STEPS):
                norm = _difference(bench, x, sigmas[:1], cond, uncond).flatten(1).norm(dim=1).mean()
                if float(norm.detach()) < target:
                    break
                optimizer.zero_grad()
                norm.backward()
                optimizer.step()
        changed = [[cond.detach().clone(), positive[0][1]]]
        plain = bench.final.condition
        bench.final.condition = lambda text, changed=changed, plain=plain: plain(text) if text == "" else changed  # type: ignore[method-assign]
        try:
            pictures.append(bench.final.pictures(caption, [seed]))
        finally:
            bench.final.condition = plain  # type: ignore[method-assign]
    return torch.cat(pictures)


def selected_noise(bench: Bench, caption: str, seeds: list[int]) -> Tensor:
    """SAIL: starting noise moved towards low sharpness (finite-difference proxy), from the best of 8 candidates a seed."""
    pictures: list[Tensor] = []
    cond, uncond = bench.final.condition(caption)[0][0].clone(), bench.final.condition("")[0][0].clone()
    sampling = bench.final.model.get_model_object("model_sampling")
    for seed in seeds:
        sigmas, _, noise = _first_step(bench, [seed + 1000 * k for k in range(NOISE_CANDIDATES)])

        def sharp(z: Tensor, sigmas: Tensor = sigmas) -> Tensor:
            x = sampling.noise_scaling(sigmas[:1], z, torch.zeros_like(z), True)
            several = (cond.expand(len(z), -1, -1), uncond.expand(len(z), -1, -1))
            d = _difference(bench, x, sigmas[:1], *several)
            unit = d / d.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1).clamp_min(1e-8)
            moved = _difference(bench, x + unit * float(sigmas[0]), sigmas[:1], *several)
            return (moved - d).flatten(1).norm(dim=1) + NOISE_WEIGHT * z.flatten(1).norm(dim=1)

        with torch.inference_mode(False), differentiable(bench.final.model.model.diffusion_model):
            noise = noise.clone()
            with torch.no_grad():
                best = noise[sharp(noise).argmin()][None]
            z = torch.nn.Parameter(best.clone())
            optimizer = torch.optim.Adam([z], lr=NOISE_RATE)
            for _ in range(NOISE_STEPS):
                optimizer.zero_grad()
                sharp(z).sum().backward()
                optimizer.step()
        pictures.append(_from_noise(bench, caption, z.detach().clone(), seed))
    return torch.cat(pictures)


def _from_noise(bench: Bench, caption: str, noise: Tensor, seed: int) -> Tensor:
    use = sampling_of(bench)
    settings = (use["steps"], use["cfg"], use["sampler_name"], use["scheduler"])
    conds = (bench.final.condition(caption), bench.final.condition(""))
    with torch.inference_mode():
        latents = comfy.sample.sample(bench.final.model, noise, *settings, *conds, torch.zeros_like(noise), disable_pbar=True, seed=seed)
        return bench.final.vae.decode(latents).movedim(-1, 1).clone()


def outcome(bench: Bench, draw: Draw, groups: dict[str, list[str]], seeds: list[int], flagged: dict[str, Tensor], what: str) -> Outcome:
    """Copies, adherence and broken pictures when the flagged runs of each caption are repaired; the others keep their picture."""
    captions = [(g, c) for g, several in groups.items() for c in several]

    def work(part: list[tuple[str, str]]) -> Outcome:
        found = {}
        for group, caption in part:
            chosen = [s for s, f in zip(seeds, flagged[caption].tolist(), strict=True) if f]
            with torch.inference_mode():
                pictures = list(draw(caption, chosen)) if chosen else []
            found[group, caption] = [_judged(bench, p, group, caption) for p in pictures]
        log.info("%s: done", what)
        return found

    return shared_out(work, captions)


def _judged(bench: Bench, picture: Tensor, group: str, caption: str) -> dict[str, bool]:
    scene = group in ("MC", "scene")
    return {
        "copied": bench.lab.copied(picture) is not None,
        "obeys": scene and obeys(picture, caption),
        "broken": broken(picture, bench.usual, scene),
    }
