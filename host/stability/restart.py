"""Correct by starting again: a flagged sample is sampled a second time, from the same noise, in phases that cannot recall.

What pulls a run back to a memory is the conditional prediction of the model that stored it. A phase therefore takes its predictions from
a parent model (the model before the LoRA, an older checkpoint), or from a prompt of which another part is missing at each step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.sampler_helpers
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.noise import noise_level
from ..core.sampler_call import RunCall, options_for, options_of_another_run, with_schedule
from ..core.seeds import derived_seed
from .strategies import Correction, Redrawing
from .watching import Watch

SCALES = ("cfg", "cfg1", "cfg2")
"""What the core's guiders call their guidance."""
Conds = list[dict[str, Any]]
PromptChange = Callable[[Conds, Conds, Tensor, int], Conds]
"""(positive, negative, sigmas of the phase, seed) -> the positive prompt to sample with."""


@dataclass(frozen=True)
class Phase:
    """A part of a restarted run, up to a share of its steps."""

    until: float
    parent: bool = False
    """Sample with the parent instead of the model."""
    prompt: PromptChange | None = None
    """None: the prompt as it is."""
    cfg: float = 1.0
    """Factor on the guidance; a run without guidance (1) stays without."""


@dataclass(frozen=True)
class Restart:
    """Draw flagged samples again: the phases, and the model that those of the parent use."""

    phases: tuple[Phase, ...]
    parent: Any = None
    redraws = True

    @property
    def same_prompt(self) -> bool:
        """Do all phases sample the prompt itself, with the model itself?"""
        return not any(phase.prompt is not None or phase.parent for phase in self.phases)

    def obstacle(self, guider: Any, _sigmas: Tensor) -> str:
        """A run without guidance and without a second prompt has nothing that a phase could change, unless a parent draws it."""
        conds = guider.original_conds
        two = "positive" in conds and "negative" in conds and not _alike(conds["positive"], conds["negative"])
        guided = two and any(getattr(guider, name, 1) != 1 for name in SCALES)
        if any(p.parent or (p.prompt is not None and two) or (p.cfg != 1 and guided) for p in self.phases):
            return ""
        return (
            "This run has no guidance, or no negative prompt that differs from the positive one, so that it would be drawn again just as "
            "it was. Connect a parent model."
        )

    def begin(self, watch: Watch | None) -> Correction:
        """Nothing of the run that was watched is needed."""
        return Redrawing(lambda call: restarted(call, self))


def default_restart(parent: Any) -> Restart:
    """The default, with a parent model or without one; chosen by `nox -s sweep -- stability`.

    A parent has learnt less and needs more guidance for whole pictures; so does a prompt of which half is missing.
    """
    if parent is not None:
        return Restart((Phase(1.0, parent=True, cfg=1.5),), parent)
    return Restart((Phase(1.0, prompt=parts_left_out(0.5), cfg=2.5),))


def check_parent(parent: Any, model: Any) -> None:
    """ValueError unless the parent can take over the model's runs: same kind of prediction, same latents, same noise levels."""
    theirs, ours = parent.get_model_object("latent_format"), model.get_model_object("latent_format")
    a, b = parent.get_model_object("model_sampling"), model.get_model_object("model_sampling")
    same_levels = torch.allclose(torch.as_tensor([a.sigma_min, a.sigma_max]), torch.as_tensor([b.sigma_min, b.sigma_max]), rtol=1e-3)
    if theirs.latent_channels != ours.latent_channels or type(theirs) is not type(ours) or not same_levels:
        raise ValueError(
            "The parent is another kind of model: its latents or its noise levels differ. Connect the model before the LoRA, or an older "
            "checkpoint of the same model, or nothing."
        )


def _alike(one_side: Conds, other: Conds) -> bool:
    """Are these the same words?"""
    if len(one_side) != len(other):
        return False
    pairs = [(a.get("cross_attn"), b.get("cross_attn")) for a, b in zip(one_side, other, strict=True)]
    return all(a is not None and b is not None and a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def restarted(call: RunCall, restart: Restart) -> Tensor:
    """The run once more, phase by phase; a latent as nodes see it."""

    def guider_of(phase: Phase) -> Callable[[Tensor], Any]:
        return lambda sigmas: _guider_for(call.guider, phase, restart.parent, sigmas, call.seed)

    return in_phases(call, [(phase.until, guider_of(phase)) for phase in restart.phases])


def in_phases(call: RunCall, phases: list[tuple[float, Callable[[Tensor], Any]]]) -> Tensor:
    """The run once more; each phase goes to a share of its steps, with the guider that its sigmas give. A latent as nodes see it."""
    sigmas, callback, seed = call.sigmas, call.callback, call.seed
    steps, start, samples, noise = len(sigmas) - 1, 0, call.latent, call.noise
    for until, guider_for in phases:
        stop = round(until * steps)
        if stop <= start:
            continue
        part = sigmas[start : stop + 1]
        shown = None if callback is None else (lambda i, x0, x, _total, start=start: callback(start + i, x0, x, steps))
        phase_seed = seed if start == 0 or seed is None else derived_seed("phase", seed, start)
        guider = guider_for(part)
        guider.model_options = with_schedule(guider.model_options, sigmas)
        samples = guider.sample(noise, call.latent, call.sampler, part, call.mask, shown, call.disable_pbar, phase_seed)
        if stop < steps:
            noise = _noise_to_go_on(call.guider.model_patcher.model, samples, call.latent, float(sigmas[stop]), call.noise, call.mask)
        start = stop
    return samples.to(call.latent)


def _guider_for(guider: Any, phase: Phase, parent: Any, sigmas: Tensor, seed: int | None) -> Any:
    other = copy.copy(guider)
    if phase.parent:
        other.model_patcher = parent
    other.model_options = options_for(parent, guider) if phase.parent else options_of_another_run(guider)
    for name in SCALES:
        if getattr(guider, name, 1) != 1:
            setattr(other, name, getattr(guider, name) * phase.cfg)
    conds = other.original_conds
    if phase.prompt is not None and "positive" in conds and "negative" in conds:
        changed = phase.prompt(conds["positive"], conds["negative"], sigmas, seed or 0)
        other.original_conds = {**conds, "positive": _in_both_ranges(changed, other.model_patcher.get_model_object("model_sampling"))}
    return other


def _in_both_ranges(conds: Conds, model_sampling: Any) -> Conds:
    """Prompts that are active in a step alone (see `_step_by_step`) and had a range of steps of their own: in what the two share. The core
    would otherwise put the second in the first one's place."""
    found = []
    for cond in conds:
        own = {name: cond[name] for name in ("start_percent", "end_percent") if name in cond}
        if own and "timestep_start" in cond:
            cond = {k: v for k, v in cond.items() if k not in own}
            cond["timestep_start"] = min(cond["timestep_start"], model_sampling.percent_to_sigma(own.get("start_percent", 0.0)))
            cond["timestep_end"] = max(cond["timestep_end"], model_sampling.percent_to_sigma(own.get("end_percent", 1.0)))
            if cond["timestep_start"] < cond["timestep_end"]:
                continue
        found.append(cond)
    return found


def nothing(_positive: Conds, negative: Conds, _sigmas: Tensor, _seed: int) -> Conds:
    """The negative prompt in place of the positive one: no guidance at all."""
    return negative


def parts_left_out(share: float) -> PromptChange:
    """At each step another random share of the positive prompt's tokens is replaced by the negative prompt's at their places.

    A memory that hangs on the whole prompt is then never asked for, while every word is heard at most steps.
    """

    def change(positive: Conds, negative: Conds, sigmas: Tensor, seed: int) -> Conds:
        empty = negative[0].get("cross_attn") if negative else None

        def of_step(step: int) -> Conds:
            generator, parts = torch.Generator().manual_seed(derived_seed("parts", seed, step)), []
            for cond in positive:
                part, tokens = dict(cond), cond.get("cross_attn")
                if tokens is not None and empty is not None:
                    kept = torch.rand(tokens.shape[1], generator=generator).to(tokens.device) >= share
                    part["cross_attn"] = torch.where(kept[None, :, None], tokens, _as_long_as(empty[:1].to(tokens), tokens.shape[1]))
                parts.append(part)
            return parts

        return _step_by_step(sigmas, of_step)

    return change


def others_early(alternatives: Conds, until: float) -> PromptChange:
    """Another of the alternatives at each step, up to a share of the steps; then the prompt itself.

    A memory hangs on the exact words while the layout forms; later they only name details.
    """

    def change(positive: Conds, _negative: Conds, sigmas: Tensor, seed: int) -> Conds:
        early = round(until * (len(sigmas) - 1))

        def of_step(step: int) -> Conds:
            if step >= early:
                return positive
            return [alternatives[derived_seed("others", seed, step) % len(alternatives)]]

        return _step_by_step(sigmas, of_step)

    return change


def together_early(parts: list[tuple[dict[str, Any], float]], until: float) -> PromptChange:
    """A weighted sum of several prompts' predictions up to a share of the steps, weights of sum 1; then the prompt itself.

    ComfyUI takes the mean of prompts by their strength, and a strength may be negative.
    """
    several = [{**cond, "strength": weight * cond.get("strength", 1.0)} for cond, weight in parts]

    def change(positive: Conds, _negative: Conds, sigmas: Tensor, _seed: int) -> Conds:
        early = round(until * (len(sigmas) - 1))
        return _step_by_step(sigmas, lambda step: positive if step >= early else several)

    return change


def _step_by_step(sigmas: Tensor, of_step: Callable[[int], Conds]) -> Conds:
    """Prompts of which each is active for the model calls of its step alone."""
    steps, parts = len(sigmas) - 1, []
    for step in range(steps):
        high = float(sigmas[step]) * (1 + 1e-4) if step else 1e9
        low = float(sigmas[step + 1]) * (1 + 1e-4) if step + 1 < steps else 0.0
        parts += [{**cond, "timestep_start": high, "timestep_end": low} for cond in of_step(step)]
    return parts


def _as_long_as(tokens: Tensor, length: int) -> Tensor:
    """[1, n, d] cut or padded with zeros to [1, length, d]."""
    return tokens[:, :length] if tokens.shape[1] >= length else F.pad(tokens, (0, 0, 0, length - tokens.shape[1]))


def _noise_to_go_on(model: Any, samples: Tensor, latent: Tensor, sigma: float, noise: Tensor, mask: Tensor | None) -> Tensor:
    """The noise from which a sampler that starts at `sigma` with `latent` continues exactly where `samples` ended.

    So that inpainting still knows the picture it must keep. The core's way out of a run is undone first. What an inpainting keeps goes
    on with the run's own noise: the core mixes the two anew at every call, but starts from a little more noise than it mixes in.
    """
    level = noise_level(model.model_sampling, sigma)
    x = level.a * model.process_latent_in(samples)
    latent = latent.to(x)  # a run ends on the model's device, and is asked for from another
    clean = model.process_latent_in(latent) if torch.count_nonzero(latent) > 0 else latent
    onward = (x - level.a * clean) / level.b
    if mask is None:
        return onward
    generated = comfy.sampler_helpers.prepare_mask(mask, noise.shape, onward.device)
    return torch.where(generated > 0, onward, noise.to(onward))
