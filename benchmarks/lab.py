"""Does the demo lab keep its promises? Memories reproduced, honest prompts honest, judges right."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..demo.pictures import lora_pictures, read_facts
from ..demo.scripts import judge, scene_judge, scenes, style
from ..demo.scripts.generate import Generator
from ..demo.scripts.lab import Lab, load_lab
from ..demo.scripts.scenes import Scene
from ..host.curvature.measuring import RECOMMENDED, How, measure_map
from ..host.demo import load_demo_lora
from .parts.common import arguments, auc, iou, log, rate, shared_out, write
from .parts.judging import feed_forward_share, through_autoencoder
from .parts.published import Recorder

ABOUT = {
    "mv_memorized_rate": "strong photographs: generations that copy them (aim >= .90)",
    "mc_memorized_rate": "strong scenes with one fixed picture: generations that copy it (aim >= .90)",
    "tv_memorized_rate": "templates: generations that copy the card around the window (aim >= .90)",
    "medium_memorized_rate": "photographs shown a quarter as often",
    "mild_memorized_rate": "photographs shown a twelfth as often",
    "clean_false_rate": "generations of trained and held-out scenes and texture captions that copy any fixed picture (aim <= .01)",
    "clean_false_rate_held_out": "of them, the held-out combinations alone",
    "mc_honest_false_rate": "fresh drawings of MC captions, after the autoencoder, called copies (aim <= .01)",
    "scene_adherence": "held-out combinations: all four attributes right (aim >= .90)",
    "judge_accuracy": "fresh drawings, after the autoencoder, read right (aim >= .99)",
    "ffn_share": "share of the U-Net's parameters in feed-forward layers (.17-.35; SD1.x .17)",
    "early_mv_rate": "early checkpoint: copies of strong photographs (aim <= .10)",
    "tv_fixed_area_min": "least fixed area of a template (>= .35)",
    "tv_fixed_area_max": "largest fixed area of a template (<= .65)",
    "auroc_dh0_tv": "dh_0 on templates, per pixel at latent resolution, fixed against free (aim >= .85)",
    "iou_allones_tv": "IoU of calling every pixel fixed: the floor for any map",
    "auc_wen_pooled": "WEN's norm, mean over all steps: all strong memories against all clean prompts",
    "auc_wen_mc_vs_scene": "the same, memorized scenes against held-out scenes",
    "auc_wen_mv_vs_n": "the same, memorized photographs against texture captions",
    "lora_memorized_rate": "leaking LoRA: generations that copy its photographs (aim >= .80)",
    "style_memorized_rate": "style LoRA: generations of its training captions that copy its training picture (aim 0)",
    "style_present": "style LoRA on held-out captions: style there (aim >= .80)",
    "style_present_leaking": "leaking LoRA on held-out captions: style there",
    "style_present_base": "no LoRA: style there (a false alarm of the judge)",
}
JUDGED_DRAWINGS = 300
HONEST_DRAWINGS = 1000
"""Of each MC caption: a rate near .01 is then known to .001."""
BATCH = 100
SCENE_STRIDE = 9
"""Every ninth trained combination counts for the clean prompts, beside all held-out ones."""
STYLE_STRIDE = 3
"""Every third held-out caption judges the style."""
MAP = How("dh_0", RECOMMENDED.sigmas, RECOMMENDED.estimator, RECOMMENDED.probes, RECOMMENDED.structured, RECOMMENDED.noises)


def generate(generator: Generator, captions: list[str], seeds: list[int], what: str) -> dict[str, dict[str, Tensor]]:
    """For each caption: latents, pictures [n, 3, 128, 128] and WEN norms [n, steps]."""

    def work(part: list[str]) -> dict[str, dict[str, Tensor]]:
        found = {}
        for i, caption in enumerate(part):
            with Recorder(generator) as recorder, torch.inference_mode():
                latents = generator.latents(caption, seeds)
                pictures = generator.vae.decode(latents).movedim(-1, 1)
                found[caption] = {"latents": latents.clone(), "pictures": pictures.clone(), "wen": torch.stack(recorder.steps, 1)}
            if i % 10 == 0:
                log.info("%s: %d of %d", what, i, len(part))
        return found

    return shared_out(work, captions)


def copies(lab: Lab, group: str, made: dict[str, dict[str, Tensor]], degree: str = "strong") -> list[list[bool]]:
    """For each caption of a group and degree of duplication: which generations copy that caption's own picture."""
    return [
        [lab.copied(p) == i for p in made[f["caption"]]["pictures"]]
        for i, f in enumerate(lab.facts["fixed"])
        if f["group"] == group and f["degree"] == degree
    ]


def read_scenes(made: dict[str, dict[str, Tensor]], captions: list[str]) -> dict[str, list[Scene]]:
    """What the judge sees in each generation of each caption."""
    return shared_out(lambda part: {c: [scene_judge.read(p).scene for p in made[c]["pictures"]] for c in part}, captions)


def adherence(made: dict[str, dict[str, Tensor]], captions: list[str]) -> dict[str, list[list[bool]]]:
    """For each caption and seed: is each attribute, and are all of them, those of the caption?"""
    outcome: dict[str, list[list[bool]]] = {k: [] for k in ("all", "size", "colour", "shape", "background")}
    for caption, seen in read_scenes(made, captions).items():
        wanted = judge.scene_of(caption)
        outcome["all"].append([s == wanted for s in seen])
        for name in ("size", "colour", "shape", "background"):
            outcome[name].append([getattr(s, name) == getattr(wanted, name) for s in seen])
    return outcome


def judge_accuracy(generator: Generator) -> float:
    """Share of fresh drawings whose four attributes are read right after the autoencoder."""
    random = torch.Generator().manual_seed(0)
    everything = scenes.all_scenes()
    chosen = [everything[int(i)] for i in torch.randint(len(everything), (JUDGED_DRAWINGS,), generator=random)]
    pictures = through_autoencoder(generator, scenes.draw(chosen, random))
    return sum(scene_judge.read(p).scene == s for p, s in zip(pictures, chosen, strict=True)) / len(chosen)


def honest_false_rate(generator: Generator, lab: Lab) -> float:
    """Share of fresh honest drawings of MC captions, after the autoencoder, that the criterion calls copies."""

    def work(part: list[int]) -> dict[int, float]:
        found = {}
        for i in part:
            random = torch.Generator().manual_seed(i)
            batch = [judge.scene_of(lab.facts["fixed"][i]["caption"])] * BATCH
            drawings = [through_autoencoder(generator, scenes.draw(batch, random)) for _ in range(HONEST_DRAWINGS // BATCH)]
            found[i] = sum(lab.copied(p) == i for p in torch.cat(drawings)) / HONEST_DRAWINGS
        return found

    rates = shared_out(work, [i for i, f in enumerate(lab.facts["fixed"]) if f["group"] == "MC"])
    return sum(rates.values()) / len(rates)


def localisation(generator: Generator, lab: Lab, made: dict[str, dict[str, Tensor]]) -> dict[str, float]:
    """dh_0 on templates, per pixel at latent resolution: AUROC, and the IoU of calling everything fixed."""
    areas, everything = [], []
    for i, f in enumerate(lab.facts["fixed"]):
        if f["group"] == "TV":
            latent = {"samples": made[f["caption"]]["latents"]}
            with torch.inference_mode():
                found = measure_map(generator.model, generator.condition(f["caption"]), generator.condition(""), latent, MAP, 0)
            values, fixed = found["values"], lab.masks[i].reshape(16, 8, 16, 8).mean((1, 3)) > 0.5
            areas += [auc(v[fixed], v[~fixed]) for v in values]
            everything.append(iou(torch.ones_like(fixed), fixed))
    return {"auroc_dh0_tv": sum(areas) / len(areas), "iou_allones_tv": sum(everything) / len(everything)}


def detectors(lab: Lab, made: dict[str, dict[str, Tensor]]) -> dict[str, float]:
    """AUC of WEN's norm: memorized (strong) against clean, pooled and split; mean of all, first, first 8, last step."""
    strong = {g: [f["caption"] for f in lab.facts["fixed"] if f["group"] == g and f["degree"] == "strong"] for g in ("MV", "MC", "TV")}
    clean = {"scene": lab.facts["held_out_captions"], "n": lab.facts["texture_captions"]}
    spans = {"": slice(None), "_first": slice(0, 1), "_first8": slice(0, 8), "_last": slice(-1, None)}
    found = {}
    for suffix, span in spans.items():

        def values(captions: list[str], span: slice = span) -> Tensor:
            return torch.cat([made[c]["wen"][:, span].mean(1) for c in captions])

        found[f"auc_wen_pooled{suffix}"] = auc(values(sum(strong.values(), [])), values(sum(clean.values(), [])))
        found[f"auc_wen_mc_vs_scene{suffix}"] = auc(values(strong["MC"]), values(clean["scene"]))
        found[f"auc_wen_mv_vs_n{suffix}"] = auc(values(strong["MV"]), values(clean["n"]))
    return found


def early_rate(folder: Path, lab: Lab, seeds: list[int]) -> list[list[bool]]:
    """Copies of all strong photographs by the early checkpoint."""
    photos = [f["caption"] for f in lab.facts["fixed"] if f["group"] == "MV" and f["degree"] == "strong"]
    return copies(lab, "MV", generate(Generator(folder / "early.safetensors"), photos, seeds, "early"))


def lora_rates(folder: Path, lab: Lab, seeds: list[int]) -> dict[str, Any]:
    """Copies by the leaking LoRA of its photographs and by the style LoRA of all its pictures; style on held-out captions."""
    if not (folder / "loras").is_dir():
        log.info("%s has no LoRAs: theirs are left out", folder)
        return {}
    held_out = lab.facts["held_out_captions"][::STYLE_STRIDE]
    found: dict[str, Any] = {
        "style_present_base": rate(hatched(generate(Generator(folder / "checkpoint.safetensors"), held_out, seeds, "base")))
    }
    for name, group in (("leaking", "photo"), ("style", "scene")):
        generator = Generator(folder / "checkpoint.safetensors")
        generator.model = load_demo_lora(generator.model, folder / "loras" / f"{name}.safetensors", 1.0)
        pictures = lora_pictures(folder, name)
        items = [
            (i, p) for i, p in zip(read_facts(folder / "loras" / f"{name}.json")["items"], pictures, strict=True) if i["group"] == group
        ]
        made = generate(generator, [i["caption"] for i, _ in items] + held_out, seeds, name)
        hits = []
        for item, picture in items:
            limit = judge.Criterion(item["max_distance"], item["min_correlation"])
            hits.append(limit.holds(*judge.compare(made[item["caption"]]["pictures"], picture)).tolist())
        found["lora_memorized_rate" if name == "leaking" else "style_memorized_rate"] = rate(hits)
        found["style_present" if name == "style" else "style_present_leaking"] = rate(hatched({c: made[c] for c in held_out}))
    return found


def hatched(made: dict[str, dict[str, Tensor]]) -> list[list[bool]]:
    """For each caption: in which generations is the LoRAs' style?"""
    return [[style.is_hatched(p) for p in m["pictures"]] for m in made.values()]


def main() -> None:
    """`nox -s benchmark -- lab`."""
    options = arguments(__doc__)
    torch.set_num_threads(1)
    lab, generator, seeds = load_lab(options.lab), Generator(options.lab / "checkpoint.safetensors"), list(range(100, 100 + options.seeds))
    held_out, textures = lab.facts["held_out_captions"], lab.facts["texture_captions"]
    trained, fixed = lab.facts["scene_captions"][::SCENE_STRIDE], lab.facts["fixed"]
    made = generate(generator, [f["caption"] for f in fixed] + trained + held_out + textures, seeds, "pictures")
    metrics: dict[str, Any] = {f"{g.lower()}_memorized_rate": rate(copies(lab, g, made)) for g in ("MV", "MC", "TV")}
    for degree in ("medium", "mild"):
        metrics[f"{degree}_memorized_rate"] = rate(copies(lab, "MV", made, degree))
    false = {c: [lab.copied(p) is not None for p in made[c]["pictures"]] for c in trained + held_out + textures}
    metrics["clean_false_rate"] = rate(list(false.values()))
    metrics["clean_false_rate_held_out"] = rate([false[c] for c in held_out])
    metrics["mc_honest_false_rate"] = honest_false_rate(generator, lab)
    scene = adherence(made, held_out)
    metrics["scene_adherence"] = rate(scene["all"])
    metrics |= {f"scene_{k}": rate(scene[k]) for k in ("size", "colour", "shape", "background")}
    metrics["judge_accuracy"] = judge_accuracy(generator)
    metrics["ffn_share"] = feed_forward_share(generator)
    metrics["early_mv_rate"] = rate(early_rate(options.lab, lab, seeds))
    areas = [f["fixed_area"] for f in fixed if f["group"] == "TV"]
    metrics |= {"tv_fixed_area_min": min(areas), "tv_fixed_area_max": max(areas)}
    metrics |= localisation(generator, lab, made) | detectors(lab, made)
    metrics |= lora_rates(options.lab, lab, seeds)
    settings = {**lab.facts["settings"], "seeds": options.seeds, "lab_seed": lab.facts["seed"], "map": dataclasses.asdict(MAP)}
    write(options.name or "lab", metrics, settings, ABOUT)
