"""Every repair on the same flagged runs: the guard's, the paper's rule, and those of other papers, with what each costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...demo.recipe.lab import is_card
from ...host.combined.alternative_prompts import with_alternatives
from ...host.stability import guard as guarding
from ...host.stability.profiles import StoredProfile
from ...host.stability.restart import Phase, Restart, nothing
from ...unmemorize.stability.rule import Rule
from . import published, published_attention, published_noise
from .common import log, shared_out
from .counting import evaluations
from .guarding import Bench, always, judged, lent, pictures_of

STOP_SEEDS = [740, 741]

Draw = Callable[[str, list[int]], Tensor]
Outcome = dict[tuple[str, str], list[dict[str, float]]]
"""(Group, caption) -> for each run: copied, second, obeys, broken as 0 or 1; repaired ones also `evaluations` of the model."""


def repairs(bench: Bench, stored: StoredProfile) -> dict[str, Draw]:
    """Name -> pictures of a caption for seeds. Ours (guard ...) make the run that is flagged themselves."""
    model, early = bench.final.model, bench.early

    def guarded(**changes: Any) -> Draw:
        clone, _ = guarding.guarded(model, guarding.Guard(stored, "correct", **changes))
        return lambda caption, seeds: pictures_of(bench.final, clone, caption, seeds)

    def restarted(*phases: Phase, parent: Any = None) -> Draw:
        clone = always(model, Restart(phases, parent))
        return lambda caption, seeds: pictures_of(bench.final, clone, caption, seeds)

    def as_published(patch: Callable[[Any], Any]) -> Draw:
        clone = patch(model)
        return lambda caption, seeds: pictures_of(bench.final, clone, caption, seeds)

    use = bench.lab.facts["settings"]
    # stop levels are those of clean prompts of the same kind
    of_kind = {card: bench.tuning["card" if card else "scene"] for card in (False, True)}
    norms = {card: published.first_norm(bench.final, several, STOP_SEEDS, use) for card, several in of_kind.items()}
    sharps = {card: published.clean_sharpness(bench.final, several, STOP_SEEDS, use) for card, several in of_kind.items()}

    def optimised(caption: str, seeds: list[int]) -> Tensor:
        return published.with_optimised_prompt(bench.final, caption, seeds, norms[is_card(caption)], use)

    def selected(caption: str, seeds: list[int]) -> Tensor:
        return with_selected_noise(bench, caption, seeds, sharps[is_card(caption)])

    def moved_as_a_batch(caption: str, seeds: list[int]) -> Tensor:
        noise = published_noise.moved_as_a_batch(bench.final, caption, seeds, use)
        with lent(bench.final, published_noise.guided_late(bench.final, use)):
            return _from_noises(bench, caption, noise, seeds)

    def moved_alone(caption: str, seeds: list[int]) -> Tensor:
        noise = published_noise.moved_alone(bench.final, caption, seeds, norms[is_card(caption)], use)
        return _from_noises(bench, caption, noise, seeds)

    def with_other_words(caption: str, seeds: list[int]) -> Tensor:
        alternatives = with_alternatives(bench.final.clip, caption, "")[1]
        return guarded(alternatives=alternatives)(caption, seeds)

    off = Rule(rescale=False, clamp_update=False, clamp_latent=False)
    return {
        "guard": guarded(parent=early),
        "guard_without_parent": guarded(),
        "guard_with_alternatives": with_other_words,
        "paper": guarded(method="paper"),
        "paper_r1": guarded(method="paper", rule=Rule(reflect=True)),
        "paper_r2": guarded(method="paper", rule=dataclasses.replace(off, renormalise_guidance=True)),
        "paper_r3": guarded(method="paper", rule=dataclasses.replace(off, renoise=True)),
        "sony_static": as_published(published.sony_static),
        "sony_opposite": as_published(published.sony_opposite),
        "sony_dynamic": as_published(published.sony_dynamic),
        "other_seed": lambda c, s: bench.final.pictures(c, [x + 10_000 for x in s]),
        "no_condition": restarted(Phase(1.0, prompt=nothing)),
        "early_model": restarted(Phase(1.0, parent=True), parent=early),
        "wen_prompt": optimised,
        "attention_guard": as_published(published_attention.guard),
        "noise_as_a_batch": moved_as_a_batch,
        "noise_alone": moved_alone,
        "sail_noise": selected,
    }  # fmt: skip


def with_selected_noise(bench: Bench, caption: str, seeds: list[int], target: float) -> Tensor:
    """SAIL: pictures from other starting noises."""
    use = bench.lab.facts["settings"]
    return _from_noises(bench, caption, torch.cat([published.selected_noise(bench.final, caption, s, target, use) for s in seeds]), seeds)


def _from_noises(bench: Bench, caption: str, noises: Tensor, seeds: list[int]) -> Tensor:
    use = bench.lab.facts["settings"]
    pairs = zip(noises.split(1), seeds, strict=True)
    return torch.cat([published.from_noise(bench.final, caption, noise, s, use) for noise, s in pairs])


def outcome(bench: Bench, draw: Draw, groups: dict[str, list[str]], seeds: list[int], flagged: dict[str, Tensor], what: str) -> Outcome:
    """Copies, adherence and broken pictures when the flagged runs of each caption are repaired; the others keep their picture."""
    captions = [(g, c) for g, several in groups.items() for c in several]

    def work(part: list[tuple[str, str]]) -> Outcome:
        found = {}
        for group, caption in part:
            chosen = [s for s, f in zip(seeds, flagged[caption].tolist(), strict=True) if f]
            with torch.inference_mode(), evaluations(*(m.model.diffusion_model for m in (bench.final.model, bench.early))) as made:
                pictures = list(draw(caption, chosen)) if chosen else []
            each = {"evaluations": made.total / max(1, len(chosen))}
            found[group, caption] = [{k: float(v) for k, v in judged(bench, p, caption).items()} | each for p in pictures]
        log.info("%s: done", what)
        return found

    return shared_out(work, captions)
