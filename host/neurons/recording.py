"""Record the activity of a model's neurons while it samples prompts.

One pass serves all layers and noise levels. The hooks sit on the linear layers themselves: ComfyUI calls inner functions of many
containers, whose own hooks would stay silent. Layers are bound by name, rows by ComfyUI's own tags, never by order.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ...unmemorize.neurons.activity import COND, UNCOND, WINDOW, Activity
from ..core.denoiser import without_caches
from ..core.hooks import as_function
from ..core.identity import check_shows_weights, identity, shown
from ..core.latents import check_channels
from ..core.noise import noise_levels
from ..core.progress import Progress
from ..core.sampler_call import RECORDING, RunCall, options_of_another_run
from ..core.sampling import draw, first_of
from ..core.seeds import kept_generators, later_seed
from ..core.settings import check_range, check_sampling
from .layers import Layer, layers_of

KEY = "unmemorize_neurons"
MOST_LEVELS = 16
"""Longer windows put neighbouring steps together, so that memory does not grow with the steps."""


@dataclass(frozen=True)
class StoredActivity:
    """An activity and how it was recorded: model identity, place, sampling, window, noise levels, prompts, seeds."""

    activity: Activity
    facts: dict[str, Any]


@dataclass(frozen=True)
class Window:
    """The part of a sampler's schedule that is recorded."""

    sigmas: list[float]
    """The whole schedule, in the model's own sigmas."""
    level_of_step: dict[int, int]
    """Step -> level, for the steps inside."""
    ratios: list[float]
    """sigma = b / a at the beginning of each level."""

    @property
    def last_step(self) -> int:
        """Sampling may stop before this step."""
        return max(self.level_of_step) + 1

    def level(self, sigma: float) -> int | None:
        """The level of a model call: that of the step whose noise is nearest."""
        logs = [abs(math.log(max(s, 1e-6)) - math.log(max(sigma, 1e-6))) for s in self.sigmas]
        return self.level_of_step.get(logs.index(min(logs)))


def window_of(model: Any, sampling: dict[str, Any], low: float, high: float) -> Window:
    """The steps with low <= b / a <= high. ValueError if there are none."""
    sampler = comfy.samplers.KSampler(
        model, sampling["steps"], model.load_device, sampling["sampler_name"], sampling["scheduler"], model_options=model.model_options
    )
    return window_along(model, sampler.sigmas, low, high)


def window_along(model: Any, sigmas: Tensor, low: float, high: float = math.inf) -> Window:
    """The same along a schedule that is known, [steps + 1]."""
    levels = noise_levels(model.get_model_object("model_sampling"), sigmas)
    ratios = [n.b / n.a if n.a > 0 else math.inf for n in levels[:-1]]
    inside = [step for step, ratio in enumerate(ratios) if low <= ratio <= high]
    if not inside:
        raise ValueError(
            f"No step of this schedule has a noise level between {low:g} and {high:g}; its own go from {ratios[0]:.4g} down to "
            f"{ratios[-1]:.4g}. Use more steps, or another window."
        )
    count = min(len(inside), MOST_LEVELS)
    level_of_step = {step: position * count // len(inside) for position, step in enumerate(inside)}
    first = {level: step for step, level in reversed(level_of_step.items())}
    shown = [1e9 if math.isinf(ratios[first[level]]) else round(ratios[first[level]], 4) for level in range(count)]
    return Window([float(s) for s in sigmas], level_of_step, shown)


class Hears(Protocol):
    """What takes rows in."""

    def add(self, key: str, sides: Sequence[int], level: int, z: Tensor, /) -> None:
        """Rows [parts, ..., d] of a layer at a level of the window, a part of the batch for each of `sides` (COND, UNCOND)."""


@dataclass
class Listener:
    """Adds what enters the layers to an activity, while a model call tells whose rows they are."""

    activity: Hears
    window: Window
    strict: bool = True
    """Rows that cannot be told apart are an error; otherwise they are not heard."""
    now: tuple[int, list[int]] | None = field(default=None)
    """Level, and the side of each part of the batch."""

    def around_call(self, executor: Any, *arguments: Any, **more: Any) -> Tensor:
        """A wrapper of the model's own calls (x, t, c_concat, c_crossattn, control, transformer_options)."""
        options = arguments[5] if len(arguments) > 5 else more.get("transformer_options", {})
        tags, sigmas = options.get("cond_or_uncond"), options.get("sigmas")
        if tags and sigmas is not None:
            level = self.window.level(float(sigmas.reshape(-1)[0]))
            self.now = None if level is None else (level, [COND if tag == 0 else UNCOND for tag in tags])
        try:
            return executor(*arguments, **more)
        finally:
            self.now = None

    def hook(self, layer: Layer) -> Callable[[Any, tuple[Any, ...]], None]:
        """A forward pre-hook of a layer."""

        def before(_: Any, inputs: tuple[Any, ...]) -> None:
            if self.now is None:
                return
            level, sides = self.now
            z = inputs[0]
            if z.shape[0] % len(sides):
                if not self.strict:
                    return
                raise ValueError(
                    f"The rows that enter {layer.key} cannot be told apart: {z.shape[0]} for {len(sides)} prompts. Take this layer out of "
                    "the table in host/neurons/layers.py."
                )
            rows = z.movedim(1, -1) if layer.convolution else z[..., layer.first :]
            self.activity.add(layer.key, sides, level, rows)

        return before


@contextlib.contextmanager
def hooked(layers: list[Layer], listener: Listener) -> Iterator[None]:
    """Inside, the listener hears the layers. All clones of a MODEL share its modules: the hooks must not outlive the run."""
    handles = []
    try:
        for layer in layers:
            handles.append(layer.module.register_forward_pre_hook(listener.hook(layer)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def record(
    model: Any, positives: list[Any], negative: Any, latent: dict[str, Any], seeds: int, sampling: dict[str, Any], place: str,
    low: float = WINDOW, high: float = math.inf,
) -> StoredActivity:  # fmt: skip
    """Sample each prompt with each seed as far as the window goes; sampling: seed, steps, cfg, sampler_name, scheduler."""
    known = identity(model)
    check_shows_weights(known)
    check_sampling(sampling)
    check_range("window", low, 0)
    layers = layers_of(model, place)
    window = window_of(model, sampling, low, high)
    latent = first_of(model, latent)
    check_channels(model, latent["samples"])
    progress = Progress(len(positives) * seeds * window.last_step)
    heard = Activity(len(window.ratios))
    listener = Listener(heard, window)
    clone = without_caches(model).clone()  # a cache leaves out calls, others under each prompt
    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, KEY, as_function(listener.around_call))
    # ComfyUI's noise seeds the global generator, which a node that only measures should leave alone
    with hooked(layers, listener), kept_generators(model.load_device):
        for positive in positives:
            for k in range(seeds):
                use = {**sampling, "seed": later_seed(sampling["seed"], k), "last_step": window.last_step}
                draw(clone, positive, negative, latent, use, progress.advance)
    activity = heard.to("cpu")
    _check_recorded(activity, layers)
    kept = {k: sampling[k] for k in ("seed", "steps", "cfg", "sampler_name", "scheduler")}
    facts = {
        "place": place, **kept, "window": [low, min(high, 1e9)], "levels": window.ratios, "prompts": len(positives), "seeds": seeds,
        "shape": list(latent["samples"].shape[1:]), "model": known,
    }  # fmt: skip
    return StoredActivity(activity, facts)


def record_run(call: RunCall, place: str, low: float = WINDOW) -> Activity:
    """Activity in one run, sampled once more as far as its noise lies above `low` = b / a; both sides of its guidance, on the CPU.

    ValueError if no layer is known, no step lies there, or the run is not guided.
    """
    model = call.guider.model_patcher
    layers, window = layers_of(model, place), window_along(model, call.sigmas, low)
    heard = Activity(len(window.ratios))
    listener = Listener(heard, window)
    guider = copy.copy(call.guider)
    guider.model_options = options_of_another_run(call.guider) | {RECORDING: True}
    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    comfy.patcher_extension.add_wrapper_with_key(kind, KEY, as_function(listener.around_call), guider.model_options, is_model_options=True)
    with hooked(layers, listener), kept_generators(model.load_device):
        guider.sample(call.noise, call.latent, call.sampler, call.sigmas[: window.last_step + 1], call.mask, None, True, call.seed)
    activity = heard.to("cpu")
    _check_recorded(activity, layers)
    if any(int(rows[UNCOND].sum()) == 0 for rows in activity.rows.values()):
        raise ValueError("The run has no guidance (CFG 1), so that nothing can be compared with the empty prompt.")
    return activity


def _check_recorded(activity: Activity, layers: list[Layer]) -> None:
    """ValueError unless every layer was heard, and heard numbers."""
    silent = [layer.key for layer in layers if layer.key not in activity.squares]
    if silent:
        raise ValueError(
            f"{len(silent)} of {len(layers)} layers were never heard while sampling, {silent[0]} for one. A compiled model, or one with "
            "its activations quantised, hides them: record with the plain model, without TorchCompile."
        )
    broken = [k for k, v in activity.squares.items() if not torch.isfinite(v).all()]
    if broken:
        raise ValueError(f"{broken[0]} received values that are not numbers (NaN or infinite). Record in a higher precision.")


def report_of(stored: StoredActivity) -> dict[str, Any]:
    """What was recorded; JSON-able."""
    return {**stored.facts, "model": shown(stored.facts["model"]), "layers": len(stored.activity.squares)}
