"""Does the lab behave as published on Stable Diffusion? Degrees of memory, repairs and attacks, honest prompts, both judges."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..demo.recipe import card_judge, cards, groups, scene_judge, scenes
from ..demo.recipe.lab import is_card, item_of, load_lab, obeys
from ..demo.scripts.generate import Generator
from ..host.curvature.measuring import RECOMMENDED, How, measure_map
from .parts import published
from .parts.common import arguments, auc, log, rate, shared_out, write
from .parts.judging import (
    BROKEN,
    Bench,
    clean_captions,
    edges,
    feed_forward_share,
    measured,
    near_captions,
    pictures_with,
    rows,
    through_autoencoder,
)

ABOUT = {
    "mv_memorized_rate": "strong photographs: generations that copy them (aim >= .90)",
    "mc_memorized_rate": "drawings: generations that copy them (aim >= .90)",
    "tv_memorized_rate": "templates: generations that copy the card around the window (aim >= .90)",
    "mv_memorized_rate_second": "by the second judge, patches (aim >= .85)",
    "medium_memorized_rate": "photographs shown less often (aim .3-.75)",
    "mild_memorized_rate": "photographs shown seldom (aim .05-.35)",
    "duplicate_share": "duplicates of all training pictures (aim <= .15)",
    "duplicate_share_peak": "in the worst hundred steps (aim <= .30; WEN's fine-tune .25)",
    "sony_static_copies": "guidance off until t = 500 (aim <= .40)",
    "sony_opposite_copies": "guidance opposite until t = 650 (aim <= .45)",
    "inserted_1_copies": "a random known word inserted (aim .1-.9)",
    "inserted_2_copies": "two",
    "inserted_4_copies": "four (aim <= .25)",
    "replaced_word_copies": "mean over every content word, another of its class (aim <= .5)",
    "other_seed_copies": "of runs that copied, drawn again with another seed (aim >= .85)",
    "wen_copies": "WEN's optimised prompt (aim <= .5)",
    "copies_cfg_1": "guidance 1 (aim: lower than at full guidance by >= .1)",
    "pull_at_transition": "unrelated pictures noised to t = 500 and denoised under a strong caption (aim <= .40)",
    "auc_wen_pooled": "WEN's norm over all steps: strong photographs against held-out scenes and cards (aim >= .95)",
    "norm_starts_high": "the same, first step (aim >= .95)",
    "clean_false_rate": "held-out scenes, cards and windows, two words from every memory: generations like any fixed picture (aim <= .01)",
    "near_copies": "held-out scenes one word from a memory: generations that copy any fixed picture, which is no false alarm",
    "mc_honest_false_rate": "fresh drawings of MC captions called copies of their picture (aim <= .01)",
    "tv_honest_false_rate": "fresh cards of TV captions (aim <= .01)",
    "scene_adherence": "held-out scenes two words from every memory: all attributes right (aim >= .95); near_adherence: one word away",
    "card_adherence": "held-out cards: tone and pattern right (aim >= .95)",
    "judge_accuracy": "fresh scenes after the autoencoder, read right (aim >= .99)",
    "card_judge_accuracy": "fresh cards (aim >= .99)",
    "edge_sharpness_ratio": "edges of generated over fresh scenes and cards after the autoencoder (aim .8-1.25)",
    "ffn_share": "share of the U-Net's parameters in feed-forward layers (aim .17-.35; SD1.x .17)",
    "early_mv_rate": "early checkpoint: copies of strong photographs (aim <= .10)",
    "early_scene_adherence": "early checkpoint on held-out scenes (aim: within .05 of the final model's)",
    "auroc_dh0_tv": "dh_0 on templates, per pixel at latent resolution (aim >= .95)",
    "broken_below": "overlap of shape and template below which a picture is broken: all but 1 % of the model's own clean scenes have more",
}
"""`_second`: by the second judge; `_adherence`: all attributes asked for; `_artefacts`: of what is no copy, no shape of the grammar; `_mc`,
`_tv`: drawings, templates."""
JUDGED, HONEST_DRAWINGS, BATCH = 300, 1000, 100
REPLACED_SEEDS, REPAIR_SEEDS = 2, 4
MAP = How("dh_0", RECOMMENDED.sigmas, RECOMMENDED.estimator, RECOMMENDED.probes, RECOMMENDED.structured, RECOMMENDED.noises)


def memories(bench: Bench) -> tuple[dict[str, Any], dict[str, dict[str, list[float]]]]:
    """Copy rates of every group and degree by both judges; the rates of each picture."""
    draw = lambda c: bench.final.pictures(c, bench.seeds, **bench.settings)  # noqa: E731
    metrics: dict[str, Any] = {}
    each: dict[str, dict[str, list[float]]] = {}
    for name, group, degree in (
        ("mv", "MV", "strong"),
        ("medium", "MV", "medium"),
        ("mild", "MV", "mild"),
        ("mc", "MC", "strong"),
        ("tv", "TV", "strong"),
    ):
        found = measured(bench, bench.lab.captions(group, degree), draw, name)
        metrics[f"{name}_memorized_rate"] = rate(list(found["copies"].values()))
        metrics[f"{name}_memorized_rate_second"] = rate(list(found["copies_second"].values()))
        each |= {c: {"copies": v, "copies_second": found["copies_second"][c]} for c, v in found["copies"].items()}
    return metrics, each


def repairs(bench: Bench) -> dict[str, Any]:
    """Delayed and opposite guidance, guidance 1, WEN's prompt on the strong photographs; the first two on drawings and templates too."""
    model = bench.final.model
    metrics: dict[str, Any] = {}
    for name, patch in (("sony_static", published.sony_static), ("sony_opposite", published.sony_opposite)):
        for group, suffix, seeds in (
            ("MV", "", bench.seeds),
            ("MC", "_mc", bench.seeds[:REPAIR_SEEDS]),
            ("TV", "_tv", bench.seeds[:REPAIR_SEEDS]),
        ):
            draw = partial(lambda m, s, c: pictures_with(bench, m, c, s), patch(model), seeds)
            metrics |= rows(name, measured(bench, bench.lab.captions(group), draw, name + suffix), suffix)
    weak = measured(
        bench, bench.lab.captions("MV"), lambda c: bench.final.pictures(c, bench.seeds, **{**bench.settings, "cfg": 1.0}), "cfg 1"
    )
    metrics["copies_cfg_1"] = rate(list(weak["copies"].values()))
    target = published.first_norm(bench.final, bench.lab.facts["held_out_captions"][:16], bench.seeds, bench.settings)

    def optimised(caption: str) -> Tensor:
        several = [bench.seeds[i : i + published.IMAGES] for i in range(0, len(bench.seeds), published.IMAGES)]
        return torch.cat([published.with_optimised_prompt(bench.final, caption, s, target, bench.settings) for s in several])

    return metrics | rows("wen", measured(bench, bench.lab.captions("MV"), optimised, "WEN"))


def changed_words(bench: Bench) -> dict[str, Any]:
    """Random words inserted, one content word replaced, another seed."""
    strong = bench.lab.captions("MV")
    metrics: dict[str, Any] = {}
    known = [w for w in bench.lab.facts["vocabulary"] if w not in ("a", "an", "on", "with")]
    for count in (1, 2, 4):
        random = bench.random
        texts = {c: [published.inserted(c, count, known, random) for _ in bench.seeds] for c in strong}

        def several(caption: str, texts: dict[str, list[str]] = texts) -> Tensor:
            return torch.cat([bench.final.pictures(t, [s], **bench.settings) for t, s in zip(texts[caption], bench.seeds, strict=True)])

        metrics |= without_adherence(rows(f"inserted_{count}", measured(bench, strong, several, f"{count} inserted")))
    random = bench.random
    others = {c: published.replaced(c, random) for c in strong}
    seeds = bench.seeds[:REPLACED_SEEDS]
    replaced = measured(
        bench, strong, lambda c: torch.cat([bench.final.pictures(t, seeds, **bench.settings) for t in others[c]]), "replaced"
    )
    return metrics | without_adherence(rows("replaced_word", replaced))


def without_adherence(metrics: dict[str, Any]) -> dict[str, Any]:
    """Other words ask for another picture."""
    return {k: v for k, v in metrics.items() if "adherence" not in k}


def other_seed(bench: Bench, each: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """Of runs that copied, how many copy again from another seed."""
    fresh = [s + 10_000 for s in bench.seeds]
    again = measured(bench, bench.lab.captions("MV"), lambda c: bench.final.pictures(c, fresh, **bench.settings), "other seed")
    pairs = [[b for a, b in zip(each[c]["copies"], found, strict=True) if a] for c, found in again["copies"].items()]
    return {"other_seed_copies": rate([p for p in pairs if p])}


def pull(bench: Bench) -> dict[str, Any]:
    """Unrelated honest pictures at the transition."""
    chosen = bench.lab.facts["held_out_captions"][:: len(bench.lab.facts["held_out_captions"]) // len(bench.seeds)][: len(bench.seeds)]
    drawings = scenes.draw([scenes.scene_of(c) for c in chosen], bench.random)
    with torch.inference_mode():
        latents = bench.final.vae.encode(drawings.movedim(1, -1))
    draw = lambda c: published.pulled(bench.final, c, latents, bench.seeds[0], bench.settings)  # noqa: E731
    found = measured(bench, bench.lab.captions("MV"), draw, "pull")
    return {"pull_at_transition": rate(list(found["copies"].values()))}


def detector(bench: Bench) -> dict[str, Any]:
    """WEN's norm: strong photographs against held-out prompts, pooled over steps, and at the first step; drawings and templates apart."""
    groups_of = {"": bench.lab.captions("MV"), "_mc": bench.lab.captions("MC"), "_tv": bench.lab.captions("TV")}
    clean = clean_captions(bench)

    def work(part: list[str]) -> dict[str, Tensor]:
        found = {}
        for caption in part:
            with published.Recorder(bench.final) as recorder, torch.inference_mode():
                bench.final.latents(caption, bench.seeds[:4], **bench.settings)
            found[caption] = torch.stack(recorder.steps, 1).clone()
        return found

    norms = shared_out(work, [c for several in groups_of.values() for c in several] + clean)
    metrics = {}
    for suffix, several in groups_of.items():
        memorized, honest = (torch.cat([norms[c] for c in captions]) for captions in (several, clean))
        metrics[f"auc_wen_pooled{suffix}"] = auc(memorized.mean(1), honest.mean(1))
        metrics[f"norm_starts_high{suffix}"] = auc(memorized[:, 0], honest[:, 0])
    return metrics


def honest(bench: Bench) -> dict[str, Any]:
    """Adherence and false alarms of what no memory hangs on; sharpness; sets what counts as broken."""
    captions, near = clean_captions(bench), near_captions(bench)

    def work(part: list[str]) -> dict[str, tuple[list[float], list[float], list[float], float, list[float]]]:
        log.info("clean prompts")
        found = {}
        for c in part:
            pictures = bench.final.pictures(c, bench.seeds, **bench.settings)
            first, second = bench.lab.copies_any(pictures)
            obeyed, overlaps = [float(obeys(p, c)) for p in pictures], [scene_judge.read(p).overlap for p in pictures]
            found[c] = (first.float().tolist(), second.float().tolist(), obeyed, edges(pictures), overlaps)
        return found

    found = shared_out(work, captions + near)
    scene, card = ([c for c in captions if is_card(c) == kind and "window" not in c] for kind in (False, True))
    fresh = through_autoencoder(bench.final, scenes.draw([scenes.scene_of(c) for c in scene], bench.random))
    fresh_cards = through_autoencoder(bench.final, cards.draw([cards.card_of(c) for c in card * 8], bench.random))
    bench.broken_below = float(torch.tensor([overlap for c in scene for overlap in found[c][4]]).quantile(BROKEN))
    ratio = [sum(found[c][3] for c in several) / len(several) / edges(real) for several, real in ((scene, fresh), (card, fresh_cards))]
    return {
        "clean_false_rate": rate([found[c][0] for c in captions]),
        "clean_false_rate_second": rate([found[c][1] for c in captions]),
        "near_copies": rate([found[c][0] for c in near]),
        "near_copies_second": rate([found[c][1] for c in near]),
        "scene_adherence": rate([found[c][2] for c in scene]),
        "near_adherence": rate([found[c][2] for c in near]),
        "card_adherence": rate([found[c][2] for c in card]),
        "edge_sharpness_ratio": sum(ratio) / 2,
        "edge_sharpness_ratio_scenes": ratio[0],
        "edge_sharpness_ratio_cards": ratio[1],
        "broken_below": bench.broken_below,
    }


def honest_drawings(bench: Bench) -> dict[str, Any]:
    """Fresh drawings of memorized captions after the autoencoder: called copies by either judge?"""

    def work(part: list[int]) -> dict[int, tuple[float, float]]:
        found = {}
        for i in part:
            log.info("honest drawings")
            random = torch.Generator().manual_seed(1000 + i)
            caption = bench.lab.facts["fixed"][i]["caption"]
            drawn = groups.draw([item_of(caption)] * HONEST_DRAWINGS, scenes.all_scenes(), random)
            judged = [bench.lab.copies(through_autoencoder(bench.final, d), i) for d in drawn.split(BATCH)]
            first, second = (float(torch.cat(several).float().mean()) for several in zip(*judged, strict=True))
            found[i] = (first, second)
        return found

    fixed = bench.lab.facts["fixed"]
    found = shared_out(work, [i for i, f in enumerate(fixed) if f["group"] in ("MC", "TV")])
    metrics = {}
    for group in ("MC", "TV"):
        several = [v for i, v in found.items() if fixed[i]["group"] == group]
        for k, suffix in enumerate(("", "_second")):
            metrics[f"{group.lower()}_honest_false_rate{suffix}"] = sum(v[k] for v in several) / len(several)
    return metrics


def judges(bench: Bench) -> dict[str, Any]:
    """Fresh scenes and cards after the autoencoder, read right."""
    random = bench.random
    everything = scenes.all_scenes()
    chosen = [everything[int(i)] for i in torch.randint(len(everything), (JUDGED,), generator=random)]
    readings = [scene_judge.read(p) for p in through_autoencoder(bench.final, scenes.draw(chosen, random))]
    plain = cards.all_cards(windows=False)
    several = [plain[i % len(plain)] for i in range(JUDGED)]
    drawn = through_autoencoder(bench.final, cards.draw(several, random))
    return {
        "judge_accuracy": sum(r.scene == s for r, s in zip(readings, chosen, strict=True)) / JUDGED,
        "card_judge_accuracy": sum(card_judge.read(p) == (c.tone, c.pattern) for p, c in zip(drawn, several, strict=True)) / JUDGED,
    }


def localisation(bench: Bench) -> float:
    """dh_0 on templates, per pixel at latent resolution: AUROC of fixed against free."""

    def work(part: list[str]) -> dict[str, float]:
        found = {}
        for caption in part:
            index = bench.lab.index(caption)
            assert index is not None
            generator = bench.final
            with torch.inference_mode():
                latent = {"samples": generator.latents(caption, bench.seeds[:REPAIR_SEEDS], **bench.settings)}
                values = measure_map(generator.model, generator.condition(caption), generator.condition(""), latent, MAP, 0)["values"]
            fixed = bench.lab.masks[index].reshape(16, 8, 16, 8).mean((1, 3)) > 0.5
            found[caption] = sum(auc(v[fixed], v[~fixed]) for v in values) / len(values)
        return found

    found = shared_out(work, bench.lab.captions("TV"))
    return sum(found.values()) / len(found)


def early(bench: Bench, folder: Path) -> dict[str, Any]:
    """The checkpoint before memories: copies of strong photographs, held-out scenes."""
    model = Generator(folder / "early.safetensors")
    before = dataclasses.replace(bench, final=model)
    found = measured(before, bench.lab.captions("MV"), lambda c: model.pictures(c, bench.seeds, **bench.settings), "early")
    held_out = [c for c in clean_captions(bench) if not is_card(c)]

    def work(part: list[str]) -> dict[str, list[float]]:
        return {c: [float(obeys(p, c)) for p in model.pictures(c, bench.seeds[:REPAIR_SEEDS], **bench.settings)] for c in part}

    adherence = shared_out(work, held_out)
    return {"early_mv_rate": rate(list(found["copies"].values())), "early_scene_adherence": rate(list(adherence.values()))}


def main() -> None:
    """`nox -s benchmark -- lab`."""
    options = arguments(__doc__)
    torch.set_num_threads(1)
    lab = load_lab(options.lab)
    use = lab.facts["settings"]
    bench = Bench(lab, Generator(options.lab / "checkpoint.safetensors"), dict(use), list(range(100, 100 + options.seeds)))
    metrics: dict[str, Any] = judges(bench)
    found, each = memories(bench)
    metrics |= found | {k: lab.facts["training"][k] for k in ("duplicate_share", "duplicate_share_peak")}
    metrics["auroc_dh0_tv"] = localisation(bench)
    for part in (honest, repairs, changed_words, pull, detector, honest_drawings):
        found = part(bench)
        metrics |= found
        log.info("%s: %s", part.__name__, {k: v["value"] if isinstance(v, dict) else v for k, v in found.items()})
    metrics |= other_seed(bench, each) | early(bench, options.lab)
    metrics["ffn_share"] = feed_forward_share(bench.final)
    settings = {**use, "seeds": options.seeds, "lab_seed": lab.facts["seed"], "map": dataclasses.asdict(MAP), "rates": each}
    write(options.name or "lab", metrics, settings, ABOUT, options.lab)
