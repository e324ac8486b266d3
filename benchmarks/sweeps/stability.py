"""Which parts make the default score, and which restart gives another picture that still obeys its words? On the tuning captions only."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...host.combined.alternative_prompts import with_alternatives
from ...host.combined.own_mask import OwnMask
from ...host.stability.other_words import CHANGED, OtherWords
from ...host.stability.restart import Conds, Phase, PromptChange, Restart, nothing, parts_left_out
from ...unmemorize.stability.profile import Profile, deviations
from ..parts.common import arguments, auc, log, shared_out
from ..parts.detecting import profile_of, scores, watch
from ..parts.guarding import EVERYWHERE, Bench, Redrawn, always, hatched, judged, pictures_of
from ..parts.rows import Rows

SEEDS = [500, 501]
KINDS, NEAREST = "words of their kind", "nearest words"
"""Where other words come from: the lab's own lists, as a user who writes a word list; the text encoder, as one who does not."""


Correcting = Callable[[str], Redrawn]
"""A caption -> what its runs are corrected with."""


def rules(bench: Bench) -> dict[str, Correcting]:
    """Everything tried, by name."""
    found: dict[str, Correcting] = {}
    lists = {KINDS: "\n".join(", ".join(w for w in several if w != "plain") for several in kinds_of(bench)), NEAREST: ""}
    for (source, words), changed, until in itertools.product(lists.items(), (1, 2), (0.3, 0.45, 0.6, 1.0)):
        found[f"{changed} of {source} changed until {until:g}"] = _put_together(bench, words, changed, until)
    for (source, words), kept, until in itertools.product(lists.items(), (4, 6, 16), (0.3, 0.45, 0.6, 0.8)):
        found[f"{kept} with {source} until {until:g}"] = _mixed(bench, words, kept, until)
    return found | {name: _for_all(how) for name, how in of_any_caption(bench).items()}


def _for_all(how: Redrawn) -> Correcting:
    return lambda _: how


def kinds_of(bench: Bench) -> list[list[str]]:
    """Words that may stand for each other: sizes, fills, colours ..."""
    return [several for name in ("grammar", "card_grammar") for several in bench.lab.facts[name].values()]


def _put_together(bench: Bench, words: str, changed: int, until: float) -> Correcting:
    return lambda caption: OtherWords(with_alternatives(bench.final.clip, caption, words)[1], until, changed)


def _mixed(bench: Bench, words: str, kept: int, until: float) -> Correcting:
    """As a user's own prompts are mixed, of which nothing is known: each word's variants, another at each step."""

    def of_caption(caption: str) -> OtherWords:
        alternatives = with_alternatives(bench.final.clip, caption, words)[1]
        alone = [[tensor, {k: v for k, v in facts.items() if k != CHANGED}] for tensor, facts in alternatives if len(facts[CHANGED]) == 1]
        return OtherWords(alone, mixed_until=until, kept=kept)

    return of_caption


def of_any_caption(bench: Bench) -> dict[str, Redrawn]:
    """Strategies that need no words."""
    found: dict[str, Redrawn] = {"as it was": Restart((Phase(1.0),)), "nothing": Restart((Phase(1.0, prompt=nothing),))}
    for cfg in (1.0, 1.5, 2.0):
        found[f"early cfg {cfg:g}"] = Restart((Phase(1.0, parent=True, cfg=cfg),), bench.early)
    for share, (ending, prompt) in itertools.product((0.4, 0.7), (("whole", None), ("parts", parts_left_out(0.5)))):
        found[f"early {share:g}, then {ending}"] = Restart((Phase(share, parent=True), Phase(1.0, prompt=prompt)), bench.early)
    for left_out, cfg in itertools.product((0.3, 0.5, 0.7), (1.0, 2.5)):
        found[f"parts {left_out:g} cfg {cfg:g}"] = Restart((Phase(1.0, prompt=parts_left_out(left_out), cfg=cfg),))
    for faded in (0.3, 0.6):
        found[f"faded {faded:g}"] = Restart((Phase(1.0, prompt=fading(faded)),))
    for noise in (0.5, 1.0):
        found[f"noisy {noise:g}"] = Restart((Phase(1.0, prompt=noisy(noise)),))
    for until in (0.3, 0.5):
        found[f"nothing until {until:g}"] = Restart((Phase(until, prompt=nothing), Phase(1.0)))
    for share, place in itertools.product((0.03, 0.1, 0.3), ("feed-forward", "convolutions", "all of these")):
        found[f"own mask {share:g}, {place}"] = OwnMask(share, place=place)
    return found


def fading(share: float) -> PromptChange:
    """Token embeddings moved towards the negative prompt's by a share."""

    def change(positive: Conds, negative: Conds, _sigmas: Tensor, _seed: int) -> Conds:
        return [{**c, "cross_attn": torch.lerp(c["cross_attn"], negative[0]["cross_attn"], share)} for c in positive]

    return change


def noisy(amount: float) -> PromptChange:
    """Gaussian noise on the token embeddings, in units of their standard deviation."""

    def change(positive: Conds, _negative: Conds, _sigmas: Tensor, seed: int) -> Conds:
        generator = torch.Generator().manual_seed(seed)

        def shaken(x: Tensor) -> Tensor:
            return x + amount * x.std() * torch.randn(x.shape, generator=generator).to(x)

        return [{**c, "cross_attn": shaken(c["cross_attn"])} for c in positive]

    return change


def lora_rules(base: Any) -> dict[str, Restart]:
    """The same for a LoRA, whose parent is the model without it."""
    return {
        f"base {share:g}, then {ending}": Restart((Phase(share, parent=True), Phase(1.0, prompt=prompt)), base)
        for share, (ending, prompt) in itertools.product((0.3, 0.5, 0.6, 0.7, 0.8, 0.9), (("whole", None), ("nothing", nothing)))
    }


WINDOWS = (0.2, 0.35, 0.5, 0.7, 0.9, 1.1, 1.3)
"""Least angle of the revisions that are averaged."""
LIMITS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0)


def detectors(bench: Bench) -> list[tuple[str, dict[str, float]]]:
    """Parts of the default score and its window: AUC on the tuning captions; and the limits of the whole score."""
    stored = profile_of(bench, bench.calibration)
    runs = watch(bench, sum(bench.tuning.values(), []), list(range(600, 608)), "tuning")
    found = []
    for window in WINDOWS:
        values = {c: _parts(stored.profile, runs[c], window) for c in runs}
        for k, what in enumerate(("revision", "sharpness", "both")):
            if what != "sharpness" or window == WINDOWS[0]:
                found.append((f"{what} from {window:g}", _aucs(bench, runs, {c: v[k] for c, v in values.items()})))
    score = {c: scores(runs[c], stored.profile, "guard_default") for c in runs}
    for limit in LIMITS:
        clean = torch.cat([score[c][~runs[c]["copied"]] > limit for g in ("scene", "card") for c in bench.tuning[g]])
        copies = torch.cat([score[c][runs[c]["copied"]] > limit for g in ("MV", "MC", "TV") for c in bench.tuning[g]])
        found.append((f"limit {limit:g}", {"clean_flagged": float(clean.float().mean()), "copies_flagged": float(copies.float().mean())}))
    return found


def _parts(profile: Profile, run: dict[str, Any], window: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean z of the revisions above an angle, z of the first sharpness, and their sum, [n] each."""
    revisions = run["observed"]["revision"]
    chosen = (run["angles"] >= window) & ~torch.isnan(revisions).any(1)
    revised = deviations(profile, "revision", run["angles"][chosen], revisions[chosen]).mean(0)
    sharp = deviations(profile, "sharpness", run["angles"][:1], run["observed"]["sharpness"][:1])[0]
    return revised, sharp, revised + sharp


def _aucs(bench: Bench, runs: dict[str, Any], values: dict[str, Tensor]) -> dict[str, float]:
    clean = {g: torch.cat([values[c][~runs[c]["copied"]] for c in bench.tuning[g]]) for g in ("scene", "card")}
    found = {}
    for group, against in (("MV", "scene"), ("MC", "scene"), ("TV", "card")):
        found[f"{group}_vs_{against}"] = auc(torch.cat([values[c][runs[c]["copied"]] for c in bench.tuning[group]]), clean[against])
    return {k: round(v, 4) for k, v in found.items()}


def main() -> None:
    """`nox -s sweep -- stability`: rows are kept as they come, a second call carries on."""
    options = arguments(__doc__)
    torch.set_num_threads(1)
    bench = Bench(options.lab)
    rows = Rows("stability", f"stability-{options.name or options.lab.name}")
    if not all(rows.has(f"limit {limit:g}") for limit in LIMITS):
        for name, facts in detectors(bench):
            if not rows.has(name):
                rows.add(name, facts)
                log.info("%s: %s", name, facts)
    for name, how in rules(bench).items():
        if not rows.has(name):
            rows.add(name, checkpoint_scores(bench, how))
            log.info("%s: %s", name, rows.last)
    model, photos = bench.leaking()
    for name, how in lora_rules(bench.final.model).items():
        if not rows.has(name):
            rows.add(name, lora_scores(bench, model, photos, how))
            log.info("%s: %s", name, rows.last)


def checkpoint_scores(bench: Bench, how: Correcting) -> dict[str, float]:
    """Copies of each group, adherence of MC and MV, and broken pictures, when every run is restarted."""
    captions = [(g, c) for g in ("MC", "MV", "TV", "scene") for c in bench.tuning[g]]

    def work(part: list[tuple[str, str]]) -> dict[tuple[str, str], list[tuple[bool, bool, bool]]]:
        found = {}
        for group, caption in part:
            with torch.inference_mode():
                pictures = pictures_of(bench.final, always(bench.final.model, how(caption)), caption, SEEDS)
            several = [judged(bench, p, caption) for p in pictures]
            found[group, caption] = [(r["copied"], r["obeys"], r["broken"]) for r in several]
        return found

    made = shared_out(work, captions)

    def mean(groups: tuple[str, ...], k: int) -> float:
        hits = [h[k] for (g, _), several in made.items() if g in groups for h in several]
        return round(sum(hits) / len(hits), 3)

    return {
        **{f"copied_{g}": mean((g,), 0) for g in ("MC", "MV", "TV")}, "obeys": mean(("MC", "MV"), 1),
        "obeys_and_new": round(_joint(made), 3), "scene_obeys": mean(("scene",), 1), "broken": mean(("MC", "MV", "TV", "scene"), 2),
    }  # fmt: skip


def _joint(made: dict[tuple[str, str], list[tuple[bool, bool, bool]]]) -> float:
    hits = [o and not c for (g, _), several in made.items() if g in ("MC", "MV") for c, o, _ in several]
    return sum(hits) / len(hits)


def lora_scores(bench: Bench, model: Any, photos: list[Any], how: Restart) -> dict[str, float]:
    """Copies of the LoRA's photographs, and its style on tuning scenes, when every run is restarted."""
    restarted = always(model, how)
    seeds = list(range(500, 504))
    copied, styled = [], []
    with torch.inference_mode():
        for caption, picture, limit in photos:
            copied += limit.holds(pictures_of(bench.final, restarted, caption, seeds), picture, EVERYWHERE).tolist()
        for caption in bench.tuning["scene"][:8]:
            styled += [hatched(p) for p in pictures_of(bench.final, restarted, caption, seeds[:2])]
    return {"copied": round(sum(copied) / len(copied), 3), "style": round(sum(styled) / len(styled), 3)}
