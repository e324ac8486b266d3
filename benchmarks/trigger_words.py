"""Which word must go? The word that Trigger Words names is changed as it suggests, and the memory drawn again; against a random word.

On strong captions that copy: photographs and drawings of the scene grammar, whose words all have ordinary pictures.
"""

from __future__ import annotations

from typing import Any

import torch

from ..demo.recipe.lab import obeys
from ..demo.recipe.scenes import all_scenes
from ..demo.scripts.generate import SETTINGS
from ..host.combined.trigger_words import Question, suggestion, words_that_trigger
from ..unmemorize.copies.trigger_words import with_another, without, words_of
from .parts import published
from .parts.common import arguments, log, rate, shared_out, write
from .parts.guarding import Bench

WHOLE = frozenset(s.caption for s in all_scenes())
"""Captions of whole scenes."""
ASKED_SEED, ASKED_SEEDS = 5, 2
LISTS = 4
"""Random content words a caption, each changed in turn, as what is compared with."""
ABOUT = {
    "first_word_breaks": "of runs that copied: no copy after the word named first was changed as suggested (aim >= .8)",
    "random_word_breaks": "the same for other content words taken at random, changed in the same way (aim: .15 below)",
    "first_word_adherence": "the changed prompts' own words obeyed, where they are whole scenes",
    "random_word_adherence": "the same for random words",
    "gain": "first_word_breaks minus random_word_breaks, by caption",
    "wen_word_breaks": "the word that WEN's token significance (gradient of the norm) names, left out or changed likewise",
    "named": "captions for which a word was named at all",
    "evaluations": "model evaluations a prompt",
}


def question(bench: Bench, caption: str, words: str) -> Question:
    """As the node asks it, at the lab's settings."""
    use = {
        "seed": ASKED_SEED, "steps": SETTINGS["steps"], "cfg": SETTINGS["cfg"], "sampler_name": SETTINGS["sampler"],
        "scheduler": SETTINGS["scheduler"],
    }  # fmt: skip
    latent = {"samples": torch.zeros(1, 8, 16, 16)}
    return Question(bench.final.model, bench.final.clip, caption, bench.final.condition(""), latent, use, ASKED_SEEDS, words)


def word_lists(bench: Bench) -> str:
    """What a user who knows the model writes: words of one kind, one kind a line."""
    grammar = bench.lab.facts["grammar"]
    return "\n".join(", ".join(w for w in several if w != "plain") for several in grammar.values())


def broken(bench: Bench, changed: str, seeds: list[int]) -> tuple[list[float], list[float]]:
    """Of the seeds: no copy of anything under the changed prompt; and are its words obeyed, if it is still a whole scene's caption?"""
    pictures = bench.final.pictures(changed, seeds)
    right = [float(obeys(p, changed)) for p in pictures] if changed in WHOLE else []
    return [float(bench.lab.copied(p) is None) for p in pictures], right


def tried(bench: Bench, caption: str, seeds: list[int], lists: str) -> dict[str, Any]:
    """All variants of one caption; {} if no run copied."""
    with torch.inference_mode():
        copied = [s for s, p in zip(seeds, bench.final.pictures(caption, seeds), strict=True) if bench.lab.copied(p) is not None]
        if not copied:
            return {}
        answer = words_that_trigger(question(bench, caption, lists))
        first, _, changed = suggestion(answer, caption)
        found: dict[str, Any] = {"named": bool(first), "evaluations": answer.evaluations}
        found["first"] = broken(bench, changed, copied) if first else ([0.0] * len(copied), [])
        content = [s for s in answer.words if not s.word.little and s.word.text != first]
        order = torch.randperm(len(content), generator=torch.Generator().manual_seed(len(caption))).tolist()[:LISTS]
        others = [content[i] for i in order]
        texts = [with_another(caption, s.word, s.by) if s.by else without(caption, s.word) for s in others]
        several = [broken(bench, text, copied) for text in texts]
        found["random"] = [x for hits, _ in several for x in hits], [x for _, right in several for x in right]
    wen = published.significant_word(bench.final, caption, copied[:1], SETTINGS)
    by = next((s for s in answer.words if s.word.text == wen and not s.word.little), None)
    if by is not None:
        text = with_another(caption, by.word, by.by) if by.by else without(caption, by.word)
        with torch.inference_mode():
            found["wen"] = broken(bench, text, copied)
    return found


def main() -> None:
    """`nox -s benchmark -- trigger-words`."""
    options = arguments(__doc__, seeds=4)
    torch.set_num_threads(1)
    bench = Bench(options.lab)
    seeds = list(range(850, 850 + options.seeds))
    captions = bench.test["MV"] + bench.test["MC"]
    assert all(words_of(c) for c in captions)
    metrics: dict[str, Any] = {}
    for suffix, lists in (("", ""), ("_lists", word_lists(bench))):

        def work(part: list[str], lists: str = lists) -> dict[str, dict[str, Any]]:
            found = {}
            for c in part:
                found[c] = tried(bench, c, seeds, lists)
                log.info("%s: %s", c, {k: v[0] for k, v in found[c].items() if isinstance(v, tuple)})
            return found

        several = [v for v in shared_out(work, captions).values() if v]
        for key, name in (("first", "first_word"), ("random", "random_word"), ("wen", "wen_word")):
            having = [v[key] for v in several if key in v]
            metrics[f"{name}_breaks{suffix}"] = rate([hits for hits, _ in having]) if having else None
            obeyed = [right for _, right in having if right]
            metrics[f"{name}_adherence{suffix}"] = rate(obeyed) if obeyed else None
        gains = [[sum(v["first"][0]) / len(v["first"][0]) - sum(v["random"][0]) / len(v["random"][0])] for v in several]
        metrics[f"gain{suffix}"] = rate(gains)
        metrics[f"named{suffix}"] = sum(v["named"] for v in several) / len(several)
        metrics[f"evaluations{suffix}"] = sum(v["evaluations"] for v in several) / len(several)
    settings = {"lab_seed": bench.lab.facts["seed"], "seeds": options.seeds, "asked_seeds": ASKED_SEEDS, "captions": len(captions)}
    write(options.name or "trigger_words", metrics, settings, ABOUT, options.lab)
