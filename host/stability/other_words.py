"""Correct without a parent: other words while the layout forms, the exact words after (ours, measured in benchmarks/).

A memory hangs on the exact words together, while the layout forms; what each of them means adds up. So the prompt's prediction is put
together from variants of which none says the exact words. Which words to change is asked of the model at the first step: those without
which it asks for what is least like what the exact words ask for. Prompts of which nothing is known are mixed, those first that call least
up: there a memory shows in the norm of D_c - D_u (WEN, arXiv 2407.21720).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import comfy.sampler_helpers
import torch

from ...unmemorize.stability.agreement import agreement
from ...unmemorize.stability.other_words import without_the_exact_words
from ...unmemorize.stability.signals import rms
from ..core.predictions import predict_at_start
from ..core.sampler_call import RunCall
from .restart import Conds, Phase, PromptChange, Restart, others_early, restarted, together_early
from .strategies import Correction, Redrawing
from .watching import Watch

CHANGED = "unmemorize_changed"
"""In a conditioning: the words that this variant changes, by their places (see `loosened.Variant`)."""
Words = tuple[int, ...]
NEXT = 2
"""Words that may be the next to change."""
PARTS = "The prompt has several parts (areas, masks, ranges of steps), which alternatives cannot take the place of. Connect a parent model."


def check_alternatives(alternatives: Any) -> None:
    """ValueError before work unless these are prompts of which each can stand in a whole one's place, at every step: where a part is not
    active, ComfyUI predicts nothing."""
    if not alternatives:
        raise ValueError("The alternatives hold no prompt. Connect Alternative Prompts, or prompts of your own, combined.")
    if any(_limited(facts) for _, facts in alternatives):
        raise ValueError(
            "The alternatives have areas, masks or ranges of steps, so that none of them can stand in a whole prompt's place. Connect "
            "Alternative Prompts, or whole prompts of your own, combined."
        )


def _limited(facts: dict[str, Any]) -> bool:
    """Is a prompt active in a part of the picture, or of the run, alone?"""
    in_part = facts.get("area") is not None or facts.get("mask") is not None
    return in_part or facts.get("start_percent", 0.0) > 0 or facts.get("end_percent", 1.0) < 1


@dataclass(frozen=True)
class OtherWords:
    """Draw flagged samples again with other prompts early."""

    alternatives: Any
    """CONDITIONING: prompts of which each differs from the run's in a word or so."""
    until: float = 0.45
    """Share of the steps that variants of known words draw, put together to what the prompt asks for."""
    changed: int = 1
    """Words that are others in each of them; one more if the picture is still the one that was flagged."""
    mixed_until: float = 0.3
    """Share of the steps that prompts of the user's own draw, another at each step: the fewer, the more the exact words are obeyed."""
    mixed_at_last: float = 0.8
    """The same if the picture is still the one that was flagged."""
    kept: int = 6
    """Of them, those that call least up."""
    redraws = True
    same_prompt = False

    def obstacle(self, guider: Any, _sigmas: Any) -> str:
        """Why nothing could be changed in a run of that guider, in words; "" if it can."""
        conds = guider.original_conds
        if not conds.get("negative"):
            return "This run has no negative prompt, against which alternatives could be compared. Connect one, or a parent model."
        return "" if len(conds.get("positive", ())) == 1 else PARTS

    def begin(self, watch: Watch | None) -> Correction:
        """Of the run that was watched its first step is kept: what the exact words ask for there need not be asked again."""
        if watch is not None:
            watch.keeps_from = min(watch.keeps_from, watch.angles[0])
        more = dataclasses.replace(self, changed=self.changed + 1, mixed_until=self.mixed_at_last)
        return Redrawing(lambda call: drawn_with_others(call, self, watch), lambda call: drawn_with_others(call, more, watch))


def drawn_with_others(call: RunCall, how: OtherWords, watch: Watch | None = None) -> torch.Tensor:
    """One sample's run with other words early; a latent as nodes see it."""
    (prompt,) = call.guider.original_conds["positive"]
    others = [{**prompt, **other} for other in comfy.sampler_helpers.convert_cond(how.alternatives)]
    return restarted(call, Restart((Phase(1.0, prompt=_early(call, others, how, watch)),)))


def _early(call: RunCall, others: Conds, how: OtherWords, watch: Watch | None) -> PromptChange:
    """What the run begins with: variants put together where all of one prompt are there, else a mixture."""
    by_words = {tuple(other[CHANGED]): other for other in others if CHANGED in other}
    if len(by_words) == len(others) and (words := asking_for_something_else(call, by_words, how.changed, watch)):
        parts = without_the_exact_words(words, len(words) - 1)
        return together_early([(by_words[changed], weight) for changed, weight in parts], how.until)
    return others_early(calling_least_up(call, others)[: how.kept], how.mixed_until)


def asking_for_something_else(call: RunCall, by_words: dict[Words, dict[str, Any]], changed: int, watch: Watch | None = None) -> Words:
    """Which `changed` + 1 words to change, that many in a variant less one: without which the run asks for something else where it begins.
    First the word that turns the prediction most alone; then, of the two that turn it most after it, the one with which the variants' sum
    agrees least with the exact words' prediction, and so on. () if variants are missing.

    An evaluation a prompt: 8 for two of six words where the run was watched. The best of all pairs (23) had the first word in 21 of 22
    runs of tuning captions, and was one of these two in 19.
    """
    conds, seen = call.guider.original_conds, _seen_at_start(call, watch)
    alone = [words for words in by_words if len(words) == 1]
    own = [] if seen else [conds["negative"], conds["positive"]]
    several = predict_at_start(call, [*own, *([by_words[words]] for words in alone)])
    uncond, exact = seen or several[:2]
    found = dict(zip(alone, several[len(own) :], strict=True))

    def alike(d: torch.Tensor) -> float:
        return float(agreement(exact, uncond, d, uncond).nan_to_num(1.0).mean())

    ranked = [word for (word,) in sorted(alone, key=lambda words: alike(found[words]))]
    if len(ranked) < 2:
        return ()
    chosen: Words = tuple(ranked[:1])
    for size in range(2, min(changed + 1, len(ranked)) + 1):
        next_ones = [word for word in ranked if word not in chosen][:NEXT]
        sets = [tuple(sorted((*chosen, word))) for word in next_ones]
        parts = {s: without_the_exact_words(s, size - 1) for s in sets}
        parts = {s: several for s, several in parts.items() if all(words in by_words for words, _ in several)}
        if not parts:
            return ()
        unknown = list(dict.fromkeys(words for several in parts.values() for words, _ in several if words not in found))
        found.update(zip(unknown, predict_at_start(call, [[by_words[words]] for words in unknown]), strict=True))
        chosen = min(parts, key=lambda s: alike(torch.stack([w * found[words] for words, w in parts[s]]).sum(0)))
    return chosen


def _seen_at_start(call: RunCall, watch: Watch | None) -> list[torch.Tensor]:
    """What the run that was watched was told at its first step under the negative prompt and under its own; [] where that is not known."""
    first = None if watch is None else watch.kept.get(0)
    if first is None or first.uncond is None or call.index >= len(first.cond):
        return []
    return [d[call.index : call.index + 1] for d in (first.uncond, first.cond)]


def calling_least_up(call: RunCall, others: Conds) -> Conds:
    """Prompts, those first whose prediction is nearest to the negative prompt's where the run begins."""
    uncond, *found = predict_at_start(call, [call.guider.original_conds["negative"], *([other] for other in others)])
    norms = torch.stack([rms(d - uncond).mean() for d in found])
    return [others[i] for i in norms.argsort(stable=True).tolist()]
