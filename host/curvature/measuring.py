"""Measure curvature maps on ComfyUI models."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...unmemorize.curvature import diagonal, differences
from ...unmemorize.curvature.differences import METHODS
from ...unmemorize.curvature.maps import make_map, scores
from ..core.denoiser import Denoiser, computes_in, differentiable, may_remember, with_denoiser
from ..core.latents import both, check_channels, check_picture, check_somewhere, flat, generated
from ..core.noise import NoiseLevel, model_sigma
from ..core.progress import Progress
from ..core.seeds import derived_seed, unit_noise
from .circumstances import check_baseline, noted, short

ESTIMATORS = ("forward difference", "central difference", "reverse mode")
"""Of dh; ds needs none."""
MEMORY = 0.1
"""Largest change of an answer on a second asking, in units of what one step of a difference changes."""
FINE_STEP = 0.02
"""Of the differences that gradients are checked against, in units of the noise."""
INSTEAD = {"reverse mode": "central difference"}
"""What steps in where an estimator is not possible."""


@dataclass(frozen=True)
class How:
    """How a map is measured; everything that must agree before two maps may be compared."""

    method: str = "dh_0"
    sigmas: tuple[float, ...] = (1.6,)
    estimator: str = "central difference"
    probes: int = 16
    structured: bool = True
    noises: int = 1
    fitted: bool = False
    """Fit probes and estimator to the model, see `fitted_to`."""


MOST_BY_CHANNEL = 32
RECOMMENDED = How("dh_0", (1.6,), "forward difference", 16, structured=True, noises=1, fitted=True)
"""From `nox -s sweep -- curvature`: the level at which the demo model's templates and photographs stand out most. Its latents have twice
the deviation of SD's."""
PAPER = How("dh_0", (0.0413,), "reverse mode", 16, structured=False, noises=1)
"""arXiv 2605.26756: the last step of DDIM-50, 16 Rademacher probes, vector-Jacobian products."""


class Impossible(RuntimeError):
    """An estimator cannot be used with this model; the text says why."""


@dataclass
class Measured:
    """What one model contributed at every noise level and noise."""

    parts: list[Tensor] = dataclasses.field(default_factory=list)
    """Its weighted retained variances, channels summed [n, h, w]; for ds its weighted denoisers [n, c, h, w]."""
    evaluations: int = 0
    """Model evaluations per picture, a backward pass counted as two."""
    dtype: str = ""
    levels: list[NoiseLevel] = dataclasses.field(default_factory=list)
    """Of each part."""
    covered: Tensor | None = None
    """1 where every prompt is active, [n, h, w]; None: everywhere."""
    told: list[float | None] = dataclasses.field(default_factory=list)
    """The distilled guidance that the model was told with each prompt."""


def measure_map(
    model: Any, positive: Any, negative: Any, latent: dict[str, Any], how: How, seed: int, baseline: Any = None, why: str = "as chosen"
) -> dict[str, Any]:
    """The map of every picture of a LATENT, mean over sigmas and noises. Raises ValueError on bad input, before any work.

    `why` says in the map's settings why this estimator ran. Where reverse mode is asked for and a model does not allow it, central
    differences measure everything instead, and `why` says so.
    """
    samples = latent["samples"]
    check(model, positive, negative, samples, how, baseline)
    check_somewhere(generated(latent, torch.Size((len(samples), *samples.shape[-2:]))), "mapped")
    if how.fitted:
        how = fitted_to(how, samples.shape[1], computes_in(model.model))
    values, target = None, Measured()
    while values is None:
        try:
            values, target = _attempt(model, positive, negative, latent, how, seed, baseline)
        except (RuntimeError, NotImplementedError) as error:
            if how.estimator not in INSTEAD or METHODS[how.method].squared:
                raise
            why = f"{how.estimator} is not possible with this model here: {(str(error).splitlines() or [type(error).__name__])[0][:200]}"
        if values is None:  # outside the handler, where the failed attempt's tensors are gone
            how = dataclasses.replace(how, estimator=INSTEAD[how.estimator])
            gc.collect()
            comfy.model_management.soft_empty_cache()
    region = both(generated(latent, values.shape), target.covered)
    check_somewhere(region, "mapped")
    method = METHODS[how.method]
    beside = noted(model, baseline if method.needs_baseline else None, positive, negative if method.needs_negative else None, target.told)
    return make_map(values, samples.shape[1], _settings(how, why, seed, target) | beside, region)


def fitted_to(how: How, channels: int, compute_dtype: torch.dtype) -> How:
    """At least a probe a latent channel: with fewer colours, channels of one pixel would share one. Central differences where the network
    rounds more coarsely than float16: they bear the longer step that it needs (r with float32 .96 by forward ones, .99 by these)."""
    probes = max(how.probes, min(channels, MOST_BY_CHANNEL))
    coarse = torch.finfo(compute_dtype).eps > diagonal.FINE_EPS and how.estimator == "forward difference"
    return dataclasses.replace(how, probes=probes, estimator="central difference" if coarse else how.estimator)


def _attempt(
    model: Any, positive: Any, negative: Any, latent: dict[str, Any], how: How, seed: int, baseline: Any
) -> tuple[Tensor, Measured]:
    """Values [n, h, w] by one estimator for the model and its baseline; raises what the estimator raises."""
    method = METHODS[how.method]
    progress = Progress(_calls(how) * (1 + method.needs_baseline))
    target = read(model, positive, negative if method.needs_negative else None, latent, how, method.weights, seed, progress)
    if method.needs_baseline:
        other = read(baseline, positive, None, latent, how, (method.baseline,), seed, progress)
        target.parts = [a + b for a, b in zip(target.parts, other.parts, strict=True)]
        target.evaluations += other.evaluations
        target.covered = both(target.covered, other.covered)
    if method.squared:
        pairs = zip(target.parts, target.levels, strict=True)
        target.parts = [differences.channel_sum(differences.score_difference(gap, level)) for gap, level in pairs]
    values = torch.stack(target.parts).mean(0)
    if not torch.isfinite(values).all():
        if how.estimator in INSTEAD:
            raise Impossible("its gradients are not numbers in this precision")
        raise ValueError(
            f"The model returned values that are not numbers (NaN or infinite) at sigma {how.sigmas}. Start ComfyUI with --force-fp32, "
            "or choose a larger sigma."
        )
    return (values if values.ndim == 3 else values[:, 0]), target


def _settings(how: How, why: str, seed: int, target: Measured) -> dict[str, Any]:
    """What a map says of itself."""
    level = target.levels[-1]
    settings = {
        "method": how.method, "estimator": how.estimator, "why": why, "sigmas": list(how.sigmas), "a": level.a, "b": level.b,
        "noises": how.noises, "seed": seed, "dtype": target.dtype, "evaluations": target.evaluations,
    }  # fmt: skip
    if METHODS[how.method].squared:
        return {**settings, "estimator": "score difference"}
    return {**settings, "probes": how.probes, "structured": how.structured}


def read(
    model: Any, positive: Any, negative: Any, latent: dict[str, Any], how: How, weights: tuple[float, ...], seed: int, progress: Progress
) -> Measured:
    """One model's weighted retained variances, or for ds denoisers, under its prompts; noises and probes are the same for every model."""
    found = Measured()
    streamed = hasattr(model, "is_dynamic") and model.is_dynamic()
    if streamed and how.estimator == "reverse mode" and not METHODS[how.method].squared:
        raise Impossible("its weights are streamed from memory as they are needed (dynamic VRAM)")

    def work(denoiser: Denoiser) -> None:
        found.told = denoiser.told
        found.dtype = str(denoiser.compute_dtype).removeprefix("torch.")
        found.covered = both(found.covered, flat(denoiser.covered))
        for k in range(how.noises):
            x = denoiser.noised(unit_noise(latent["samples"], derived_seed("noise", seed, k)))
            once = METHODS[how.method].squared and len(how.sigmas) * how.noises == 1
            if not found.parts and not once and may_remember(model):
                found.evaluations += _check_forgets(denoiser, x, seed) * len(weights)
            if METHODS[how.method].squared:
                progress.advance()
                part, calls = differences.contrast(denoiser.branches(x).float().cpu(), weights), 1
            else:
                probes = _probes(x, how, derived_seed("probe", seed, k))
                part, calls = _retained_variance(denoiser, x, weights, how.estimator, probes, progress)
            found.parts.append(part)
            found.levels.append(denoiser.level)
            found.evaluations += calls * len(weights)

    for sigma in how.sigmas:
        with_denoiser(model, positive, negative, {**latent, "samples": latent["samples"].float()}, sigma, seed, work)
    return found


def _check_forgets(denoiser: Denoiser, x: Tensor, seed: int) -> int:
    """ValueError if D is no function of x: asked again after a visit elsewhere, it answers otherwise. Returns how many calls that took.

    A cache (TeaCache and the like) answers near points from the last real call; after a far point it has to ask the network again.
    """
    probe = next(diagonal.rademacher((1, *x.shape[1:]), 1, derived_seed("forgets", seed, 0))).to(x)
    near = x + diagonal.probe_step(x, denoiser.level.b, denoiser.compute_dtype) * probe
    here, before = denoiser.branches(x).float(), denoiser.branches(near).float()
    denoiser.branches(x.flip(-1, -2) + denoiser.level.b * probe)
    again = denoiser.branches(near).float()
    if float((again - before).norm()) > MEMORY * float((before - here).norm()):
        raise ValueError(
            "This model's answer depends on its earlier calls or on chance (a cache such as TeaCache or WaveSpeed, or a patch that draws "
            "random numbers), so that a map of it would say nothing. Connect the MODEL before that patch."
        )
    return 4


def _retained_variance(
    denoiser: Denoiser, x: Tensor, weights: tuple[float, ...], estimator: str, probes: Iterator[Tensor], progress: Progress
) -> tuple[Tensor, int]:
    """Contrast of the prompts' rho, channels summed, [n, h, w], and how many calls it took (a backward pass counts as two)."""
    calls = 0

    def with_first(y: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal calls
        copies = len(y) // len(x)
        progress.advance(copies)
        calls += copies
        branches = denoiser.branches(y)
        return differences.contrast(branches, weights), branches[0]

    def f(y: Tensor) -> Tensor:
        return with_first(y)[0]

    def counted() -> Iterator[Tensor]:
        nonlocal calls
        for probe in probes:
            progress.advance()
            calls += 2
            yield probe

    step = diagonal.probe_step(x, denoiser.level.b, denoiser.compute_dtype)
    if estimator == "reverse mode":
        with differentiable(denoiser.network):
            x = x.clone()
            found = diagonal.reverse_mode(f, x, counted())
            calls += 2  # the check's own backward pass
            fine = diagonal.probe_step(x, denoiser.level.b, denoiser.compute_dtype, FINE_STEP)
            if not diagonal.gradients_hold(with_first, x, fine):
                raise Impossible("its gradients disagree with differences: some kernel (often attention) has no backward pass")
    else:
        difference = diagonal.forward_difference if estimator == "forward difference" else diagonal.central_difference
        found = difference(f, x, probes, step, denoiser.most_together)
    return differences.channel_sum(differences.retained_variance(found, denoiser.level)).float().cpu(), calls


def _probes(x: Tensor, how: How, seed: int) -> Iterator[Tensor]:
    draw = diagonal.structured if how.structured else diagonal.rademacher
    return draw((1, *x.shape[1:]), how.probes, seed)


def _calls(how: How) -> int:
    """Network calls of one model, for the progress bar."""
    each = {"forward difference": how.probes + 1, "central difference": 2 * how.probes, "reverse mode": how.probes + 3}
    return len(how.sigmas) * how.noises * (1 if METHODS[how.method].squared else each[how.estimator])


def check(model: Any, positive: Any, negative: Any, samples: Tensor, how: How, baseline: Any) -> None:
    """ValueError in plain words for everything that cannot be measured."""
    if how.method not in METHODS or how.estimator not in ESTIMATORS:
        raise ValueError(f"Unknown method {how.method!r} or estimator {how.estimator!r}.")
    method = METHODS[how.method]
    if method.needs_negative and not negative:
        raise ValueError(
            f"{how.method} compares the prompt with the empty prompt, but nothing is connected to `negative`. "
            "Connect a CLIP Text Encode without text."
        )
    if not positive:
        raise ValueError("`positive` is empty. Connect the CLIP Text Encode of the prompt the picture was made with.")
    if method.needs_baseline and baseline is None:
        raise ValueError(
            f"{how.method} compares with a less-trained model, but nothing is connected to `baseline`. For a LoRA that is the model "
            "before the LoRA loader; for a checkpoint an older one. Or choose dh_0, which needs none."
        )
    if how.probes < 1 or how.noises < 1 or not how.sigmas:
        raise ValueError(f"At least one probe, noise and sigma are needed (probes = {how.probes}, noises = {how.noises}).")
    check_picture(samples)
    check_channels(model, samples)
    if method.needs_baseline:
        check_baseline(model, baseline)
    for m in [model, baseline] if method.needs_baseline else [model]:
        for sigma in how.sigmas:
            model_sigma(m, sigma)


def numbers_of(found: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    """The highest score of a map's pictures, and its settings with the scores of all, JSON-able."""
    numbers = scores(found)
    return float(numbers.max()), {**short(found["settings"]), "scores": [round(v, 6) for v in numbers.tolist()]}
