"""Which words of a prompt call a memory up? The first steps are sampled with each word taken away, and with another in its place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch

from ...unmemorize.copies.trigger_words import (
    Significance,
    Word,
    alternatives,
    ranked,
    share,
    trigger,
    with_another,
    without,
    words_of,
)
from ...unmemorize.stability.profile import WINDOW, default_score
from ..core.noise import noise_levels
from ..core.progress import Progress
from ..core.prompts import encoded
from ..core.sampling import draw, first_of
from ..core.seeds import kept_generators, later_seed
from ..core.settings import check_range, check_sampling
from ..stability.profiles import StoredProfile, check_guidance, check_profile
from ..stability.verdicts import LIMIT, early_steps, serves_steps
from ..stability.watching import watched
from .neighbours import vocabulary_of

MOST_WORDS = 60
GUIDANCE, SCORE = "guidance norm", "guard score"


@dataclass(frozen=True)
class Question:
    """What is asked: MODEL, CLIP, a prompt and the negative CONDITIONING, a LATENT for the size, settings, seeds."""

    model: Any
    clip: Any
    prompt: str
    negative: Any
    latent: dict[str, Any]
    use: dict[str, Any]
    """seed, steps, cfg, sampler_name, scheduler"""
    seeds: int
    word_list: str = ""
    profile: StoredProfile | None = None
    """With one, the signal is the guard's score; else the norm of D_c - D_u over the same steps (WEN's)."""


@dataclass(frozen=True)
class Answer:
    """The prompt's signal, and what of it hangs on each word."""

    signal: float
    words: list[Significance]
    kind: str
    evaluations: int
    highest: float
    """Signal of the run with most of it."""

    @property
    def ordinary(self) -> bool:
        """Does the guard find no memory in any run of the prompt? Its score is then chance, and so is what hangs on a word."""
        return self.kind == SCORE and self.highest < LIMIT

    @property
    def trigger(self) -> Significance | None:
        """The word on which most hangs; None if nothing hangs on a single one, or there is no memory to call up."""
        return None if self.ordinary else trigger(self.words, self.signal)


def words_that_trigger(q: Question) -> Answer:
    """Sample the first steps of the prompt and of its variants. ValueError before any work on what does not fit."""
    check_sampling(q.use)
    check_range("seeds", q.seeds, 1, 64)
    words = words_of(q.prompt)
    if not words:
        raise ValueError("The prompt has no word. Write the prompt whose picture looks like a copy.")
    if len(words) > MOST_WORDS:
        raise ValueError(f"The prompt has {len(words)} words; at most {MOST_WORDS} are tried. Shorten it to the part that matters.")
    if q.profile is not None:
        check_profile(q.profile, q.model)
        check_guidance(q.profile, q.use["cfg"])
    others = _others(q, words)
    texts = list(
        dict.fromkeys([q.prompt, *(without(q.prompt, w) for w in words), *(with_another(q.prompt, w, o) for w, o in others.items())])
    )
    steps = _early_steps(q)
    if q.profile is not None and not serves_steps(steps, len(early_steps(q.profile.profile.angles.tolist()))):
        raise ValueError(
            "The stability profile was measured with another number of steps, so that its score tells nothing here. Change the steps, let "
            "Stability Profile for This Model measure one for them, or disconnect it: the guidance norm needs none."
        )
    progress = Progress(len(texts) * q.seeds * steps)
    runs = {text: _signals(q, text, steps, progress) for text in texts}
    signals = {text: sum(several) / len(several) for text, several in runs.items()}
    whole = signals[q.prompt]
    found = [
        Significance(w, whole - signals[without(q.prompt, w)], whole - signals[with_another(q.prompt, w, others[w])], others[w])
        if w in others
        else Significance(w, whole - signals[without(q.prompt, w)])
        for w in words
    ]
    kind = SCORE if _scored(q) else GUIDANCE
    return Answer(whole, found, kind, 2 * len(texts) * q.seeds * steps, max(runs[q.prompt]))


def _others(q: Question, words: list[Word]) -> dict[Word, str]:
    """Word -> what stands in its place: of the user's lists, else the nearest by the text encoder; little words keep their place."""
    listed, vocabulary = alternatives(q.word_list), vocabulary_of(q.clip)
    found = {}
    for word in words:
        several = listed.get(word.text.lower())
        other = several[0] if several else "" if vocabulary is None or word.little else vocabulary.nearest(word.text)
        if other:
            found[word] = other
    return found


def _early_steps(q: Question) -> int:
    """How many steps are sampled: those in which memories show, at least two."""
    sampler = comfy.samplers.KSampler(
        q.model, q.use["steps"], q.model.load_device, q.use["sampler_name"], q.use["scheduler"], model_options=q.model.model_options
    )
    levels = noise_levels(q.model.get_model_object("model_sampling"), sampler.sigmas)
    early = sum(torch.atan2(torch.tensor(n.b), torch.tensor(n.a)) >= WINDOW for n in levels[:-1])
    return min(max(int(early), 2), len(levels) - 1)


def _scored(q: Question) -> bool:
    """Is the guard's score the signal? A profile of runs without guidance (CFG 1) has none for single steps."""
    return q.profile is not None and "revision" in q.profile.profile.mean


def _signals(q: Question, text: str, steps: int, progress: Progress) -> list[float]:
    """What the first steps of a prompt's runs say, a number a seed."""
    (positive,) = encoded(q.clip, [text])
    clone, runs = watched(q.model)
    if q.use["cfg"] == 1:  # a sampler would not ask the negative prompt
        clone.model_options = {**clone.model_options, "disable_cfg1_optimization": True}
    latent = first_of(q.model, q.latent)
    with kept_generators(q.model.load_device):
        for k in range(q.seeds):
            use = {**q.use, "seed": later_seed(q.use["seed"], k), "last_step": steps}
            draw(clone, positive, q.negative, latent, use, progress.advance)
    values = []
    for run in runs:
        observed = {name: rows[:steps] for name, rows in run.observed().items()}
        if "guidance" not in observed:
            raise ValueError("This sampler did not evaluate the model at the steps of its schedule. Use another one (euler, dpmpp_2m ...).")
        if q.profile is None or not _scored(q):
            values.append(observed["guidance"].nanmean())
        else:
            values.append(default_score(q.profile.profile, torch.tensor(run.angles[:steps]), observed)[0])
    found = [float(value) for value in values]
    if not all(map(math.isfinite, found)):
        raise ValueError(f"The run of {text!r} broke: its signal is no number, so nothing can be said about its words. Try other settings.")
    return found


def suggestion(answer: Answer, prompt: str) -> tuple[str, float, str]:
    """The word on which most hangs, the share of the signal that goes with it, and the prompt with another in its place; "", 0 and the
    prompt itself if nothing hangs on a single word, or there is no memory."""
    best = answer.trigger
    if best is None:
        return "", 0.0, prompt
    changed = with_another(prompt, best.word, best.by) if best.by else without(prompt, best.word)
    return best.word.text, share(best, answer.signal), changed


def report(answer: Answer, q: Question) -> dict[str, Any]:
    """Words, what hangs on them, what to change, and what it cost; JSON-able."""
    best = answer.trigger
    return {
        "verdict": in_words(answer),
        "signal": round(answer.signal, 4), "kind": answer.kind, "trigger": "" if best is None else best.word.text,
        "words": [_row(s) for s in answer.words],
        "worth_changing": [] if answer.ordinary else [s.word.text for s in ranked(answer.words)[:3]],
        "evaluations": answer.evaluations, "settings": q.use | {"seeds": q.seeds},
    }  # fmt: skip


def _row(s: Significance) -> dict[str, Any]:
    row: dict[str, Any] = {"word": s.word.text, "dropped": round(s.dropped, 4)}
    return row | ({"replaced": round(s.replaced, 4), "by": s.by} if s.by else {})


def in_words(answer: Answer) -> str:
    """What to do, in a sentence."""
    if answer.ordinary:
        return (
            f"The guard finds no memory in this prompt (score {answer.highest:.1f}, memorized from {LIMIT:g}), so no word calls one up. "
            "A LoRA's own copies do not show in this score: for these disconnect the profile; the norm of the guidance is then asked."
        )
    best = answer.trigger
    if best is None:
        return "Nothing hangs on a single word: if this is a memory, several of its words call it up, each for itself."
    how = f", for instance to {best.by!r}" if best.by else " or leave it out"
    return f"{share(best, answer.signal):.0%} of the signal hangs on {best.word.text!r}: change that word{how}."


def shown(answer: Answer, q: Question) -> dict[str, Any]:
    """For the view in the node: the prompt in pieces, each with the share of the signal that hangs on it."""
    pieces: list[dict[str, Any]] = []
    at = 0
    for s in answer.words:
        pieces += [{"text": q.prompt[at : s.word.start], "share": None}] if s.word.start > at else []
        hangs = 0.0 if answer.ordinary else share(s, answer.signal)
        pieces.append({"text": s.word.text, "share": round(hangs, 4), "by": s.by})
        at = s.word.end
    pieces += [{"text": q.prompt[at:], "share": None}] if at < len(q.prompt) else []
    return {"pieces": pieces, "verdict": in_words(answer), "kind": answer.kind, "signal": round(answer.signal, 4)}
