"""What a map costs: correlation with the exact diagonal against model evaluations, and peak memory.

The whole Jacobian of d = D_u - D_c is computed once for a few pictures by reverse mode. What reverse mode measures with any set of
probes follows from it exactly, by matrix products, and so do random differences but for their finite step. The node's differences are
really run, at every number of probes: their finite step is in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ...demo.recipe.lab import Lab
from ...demo.scripts.generate import Generator
from ...host.core.denoiser import Denoiser, differentiable, with_denoiser
from ...host.core.seeds import derived_seed, unit_noise
from ...host.curvature.measuring import RECOMMENDED, How, measure_map
from ...unmemorize.curvature import diagonal
from .common import log, shared_out
from .meter import peak_bytes
from .scoring import pearson

ROWS = 32
"""Rows of the Jacobian in one backward pass."""
COUNTS = (1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 48, 64, 128)
"""Of probes, where the result follows from the Jacobian."""
REAL_COUNTS = (4, 8, 9, 10, 11, 12, 14, 16, 20, 24, 32)
"""Of probes that are really run."""
CENTRAL_COUNTS = (8, 12, 16)
REPEATS = 8
TARGET = 0.99

Probes = Callable[[tuple[int, ...], int, int], Iterable[Tensor]]
"""(shape, count, seed) -> probes."""


def pictures_of(lab: Lab) -> list[str]:
    """Two captions of each kind."""
    strong = {g: [f["caption"] for f in lab.facts["fixed"] if f["group"] == g and f["degree"] == "strong"] for g in ("MV", "MC", "TV")}
    return [c for g in ("MV", "MC", "TV") for c in strong[g][:2]] + lab.facts["held_out_captions"][:2]


def jacobian(generator: Generator, caption: str, sigma: float) -> Tensor:
    """a dd/dx of d = D_u - D_c on a generation of the caption, [2048, 2048], float32."""
    latent = {"samples": generator.latents(caption, [400])}
    rows: list[Tensor] = []

    def work(denoiser: Denoiser) -> None:
        x = denoiser.noised(unit_noise(latent["samples"], derived_seed("noise", 0, 0)))
        with differentiable(denoiser.network):
            x = x.clone()
            for start in range(0, x.numel(), ROWS):
                leaf = x.expand(ROWS, *x.shape[1:]).clone().requires_grad_(True)
                positive, negative = denoiser.branches(leaf)
                chosen = (negative - positive).flatten(1)[torch.arange(ROWS), start + torch.arange(ROWS)]
                rows.append(denoiser.level.a * torch.autograd.grad(chosen.sum(), leaf)[0].flatten(1))

    with_denoiser(generator.model, generator.condition(caption), generator.condition(""), latent, sigma, 0, work)
    return torch.cat(rows)


def simulated(matrix: Tensor, shape: tuple[int, ...], probes: Iterable[Tensor]) -> float:
    """Correlation of the channel-summed mean of v * (matrix v) with the channel-summed exact diagonal; the transpose gives reverse mode."""
    v = torch.stack([p.flatten().float() for p in probes], 1)
    estimate = (v * (matrix @ v)).mean(1)
    return pearson(estimate.reshape(shape[1:]).sum(0), matrix.diagonal().reshape(shape[1:]).sum(0))


def evaluations(estimator: str, count: float) -> float:
    """Model evaluations a picture: two prompts; a backward pass counts as two."""
    calls = {"forward difference": count + 1, "central difference": 2 * count, "reverse mode": 1 + 2 * count}
    return 2 * calls[estimator]


def random_count_until(curve: dict[int, float]) -> float | None:
    """Number of random probes at which the curve crosses TARGET, linear in log count between measured counts; None if never."""
    before: tuple[int, float] | None = None
    for count, r in sorted(curve.items()):
        if r >= TARGET:
            if before is None or before[1] >= r:
                return count
            return before[0] * (count / before[0]) ** ((TARGET - before[1]) / (r - before[1]))
        before = (count, r)
    return None


def cost(generator: Generator, lab: Lab) -> dict[str, Any]:
    """evals_r99_*, the ratio, the curves r_<probes>_<count>, and peak memory."""
    shape = (1, *generator.latents("", [0]).shape[1:])
    captions = pictures_of(lab)

    def work(part: list[str]) -> dict[str, Tensor]:
        found = {}
        for caption in part:
            found[caption] = jacobian(generator, caption, RECOMMENDED.sigmas[0])
            log.info("Jacobian of %r", caption)
        return found

    matrices = shared_out(work, captions)

    def mean_r(draw: Probes, count: int, turned: bool) -> float:
        several = (m.T if turned else m for m in matrices.values())
        return _mean([simulated(m, shape, draw(shape, count, s)) for m in several for s in range(REPEATS)])

    random = {n: mean_r(diagonal.rademacher, n, True) for n in COUNTS}
    real = {n: _mean(list(real_correlations(generator, matrices, n).values())) for n in REAL_COUNTS}
    metrics: dict[str, Any] = {f"r_random_reverse_{n}": r for n, r in random.items()}
    metrics |= {f"r_structured_reverse_{n}": mean_r(diagonal.structured, n, True) for n in REAL_COUNTS}
    metrics |= {f"r_random_difference_{n}": mean_r(diagonal.rademacher, n, False) for n in COUNTS}
    metrics |= {f"r_default_{n}": r for n, r in real.items()}
    central = {n: real_correlations(generator, matrices, n, "central difference") for n in CENTRAL_COUNTS}
    metrics |= {f"r_structured_central_{n}": _mean(list(r.values())) for n, r in central.items()}
    paper, ours = random_count_until(random), next((n for n in sorted(real) if real[n] >= TARGET), None)
    metrics["evals_r99_paper"] = None if paper is None else evaluations("reverse mode", paper)
    metrics["evals_r99_best"] = None if ours is None else evaluations(RECOMMENDED.estimator, ours)
    metrics["cost_ratio_r99"] = None if paper is None or ours is None else metrics["evals_r99_best"] / metrics["evals_r99_paper"]
    metrics["r_default"] = real.get(RECOMMENDED.probes)
    metrics["evals_default"] = evaluations(RECOMMENDED.estimator, RECOMMENDED.probes)
    return metrics | memory(generator, captions[0])


def real_correlations(
    generator: Generator, matrices: dict[str, Tensor], count: int, estimator: str = RECOMMENDED.estimator
) -> dict[str, float]:
    """The node's probes, really run with `count` of them, against the exact diagonal."""
    how = _dh0(dataclasses.replace(RECOMMENDED, probes=count, estimator=estimator))

    def work(part: list[str]) -> dict[str, float]:
        found = {}
        for caption in part:
            latent = {"samples": generator.latents(caption, [400])}
            with torch.inference_mode():
                values = measure_map(generator.model, generator.condition(caption), generator.condition(""), latent, how, 0)["values"]
            found[caption] = pearson(values[0], matrices[caption].diagonal().reshape(latent["samples"].shape[1:]).sum(0))
        return found

    return shared_out(work, list(matrices))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _dh0(how: How) -> How:
    return How("dh_0", how.sigmas[:1], how.estimator, how.probes, how.structured, 1)


def memory(generator: Generator, caption: str) -> dict[str, float]:
    """Peak of live tensor bytes above the weights, relative to one guided evaluation."""
    latent = {"samples": generator.latents(caption, [400])}
    positive, empty = generator.condition(caption), generator.condition("")

    def peak(how: How) -> int:
        with torch.inference_mode():
            return peak_bytes(lambda: measure_map(generator.model, positive, empty, latent, how, 0))

    once = peak_bytes(lambda: generator.latents(caption, [400], steps=1))
    gradient_free = peak(_dh0(RECOMMENDED))
    reverse = peak(How("dh_0", RECOMMENDED.sigmas[:1], "reverse mode", 2, structured=False, noises=1))
    return {"peak_memory_ratio_fd": gradient_free / once, "peak_memory_ratio_vjp": reverse / once}
