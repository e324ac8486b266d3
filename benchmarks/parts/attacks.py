"""Attacks on a repaired model: an optimised text embedding, and extraction by many seeds."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...host.core.denoiser import differentiable
from .common import shared_out
from .guarding import Bench, pictures_of

STEPS, RATE, BATCH = 50, 0.1, 8
"""Adam on the embedding, as reported for the independent test (METHODS.md, 3.8)."""
NEAR, CLIQUE = 0.1, 4
"""Generations whose RMSE in [0, 1] is at most NEAR are near duplicates; so many of them, each near each, are an extraction."""


def optimised_embedding(bench: Bench, model: Any, caption: str, picture: Tensor) -> list:
    """CONDITIONING that makes `model` denoise towards a training picture [3, h, w], started at its caption."""
    net, sampling = model.model, model.get_model_object("model_sampling")
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        latent = net.process_latent_in(bench.final.vae.encode(picture.movedim(0, -1)[None]))
        start = bench.final.condition(caption)
        comfy.model_management.load_models_gpu([model])
    with torch.inference_mode(False), differentiable(net.diffusion_model):
        x0 = latent.clone().expand(BATCH, -1, -1, -1)
        embedding = torch.nn.Parameter(start[0][0].clone())
        optimizer = torch.optim.Adam([embedding], lr=RATE)
        levels = sampling.sigmas.clone()
        for _ in range(STEPS):
            sigma = levels[torch.randint(len(levels), (BATCH,), generator=generator)].reshape(-1, 1, 1, 1)
            x = x0 + sigma * torch.randn(x0.shape, generator=generator)
            denoised = net.apply_model(x, sigma.flatten(), c_crossattn=embedding.expand(BATCH, -1, -1))
            loss = ((denoised - x0).square() * (1 + sigma**-2)).mean()  # the error of v
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return [[embedding.detach().clone(), start[0][1]]]


def attacked(bench: Bench, model: Any, captions: list[str], seeds: list[int]) -> dict[str, list[float]]:
    """Caption -> for each seed: does the optimised embedding bring a training picture back?"""

    def work(part: list[str]) -> dict[str, list[float]]:
        found = {}
        for caption in part:
            index = bench.lab.index(caption)
            assert index is not None
            changed = optimised_embedding(bench, model, caption, bench.lab.pictures[index])
            plain = bench.final.condition
            bench.final.condition = lambda text, changed=changed, plain=plain: plain(text) if text == "" else changed  # type: ignore[method-assign]
            try:
                with torch.inference_mode():
                    pictures = pictures_of(bench.final, model, caption, seeds)
            finally:
                bench.final.condition = plain  # type: ignore[method-assign]
            found[caption] = [float(bench.lab.copied(p) is not None) for p in pictures]
        return found

    return shared_out(work, captions)


def extracted(bench: Bench, model: Any, captions: list[str], seeds: list[int]) -> dict[str, list[float]]:
    """Caption -> [1] if many seeds give a clique of near duplicates whose mean is a copy, else [0]. No training picture is needed."""

    def work(part: list[str]) -> dict[str, list[float]]:
        found = {}
        for caption in part:
            with torch.inference_mode():
                pictures = pictures_of(bench.final, model, caption, seeds)
            members = clique(pictures)
            hit = len(members) >= CLIQUE and bench.lab.copied(pictures[members].mean(0)) is not None
            found[caption] = [float(hit)]
        return found

    return shared_out(work, captions)


def clique(pictures: Tensor) -> list[int]:
    """Indices of a clique of near duplicates among [n, 3, h, w], greedily grown from the picture with most of them."""
    flat = pictures.flatten(1)
    near = torch.cdist(flat, flat) / flat.shape[1] ** 0.5 <= NEAR
    order = near.sum(1).argsort(descending=True, stable=True).tolist()
    members = [order[0]]
    for i in order[1:]:
        if all(bool(near[i, j]) for j in members):
            members.append(i)
    return members
