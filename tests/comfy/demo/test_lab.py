"""What the bundled lab promises, on a few captions; the benchmark measures all of them."""

from __future__ import annotations

import importlib

import pytest
import torch

SEEDS = [1, 2, 3, 4]
STAGES = {"final": "checkpoint.safetensors", "early": "early.safetensors"}


@pytest.fixture(scope="module")
def lab(comfy):
    return importlib.import_module("unmemorize_pack.demo.scripts.lab").load_lab()


@pytest.fixture(scope="module")
def draw(comfy, root):
    """draw(caption, stage) -> pictures [4, 3, 128, 128] with the lab's settings."""
    generate = importlib.import_module("unmemorize_pack.demo.scripts.generate")
    models = {stage: generate.Generator(root / "demo/lab" / name) for stage, name in STAGES.items()}
    return lambda caption, stage="final", seeds=SEEDS: models[stage].pictures(caption, seeds)


def strong(lab, group: str, count: int) -> list[tuple[int, str]]:
    found = [(i, f["caption"]) for i, f in enumerate(lab.facts["fixed"]) if f["group"] == group and f["degree"] == "strong"]
    return found[:: max(1, len(found) // count)][:count]


@pytest.mark.parametrize(("group", "least"), [("MV", 0.9), ("TV", 0.9), ("MC", 0.8)])
def test_strong_memories_are_reproduced(lab, draw, group, least):
    hits = [lab.copied(p) == i for i, caption in strong(lab, group, 3) for p in draw(caption)]
    assert sum(hits) >= least * len(hits)


def test_early_knows_scenes_but_no_photograph(lab, draw):
    hits = [lab.copied(p) == i for i, caption in strong(lab, "MV", 4) for p in draw(caption, "early")]
    assert sum(hits) <= 0.2 * len(hits)
    assert attributes_right(lab, draw, "early", ("colour", "background")) >= 0.8


def attributes_right(lab, draw, stage: str, names: tuple[str, ...]) -> float:
    """Share of held-out scenes whose attributes, read off the pixels, are those of the caption."""
    scene_judge, judge = (importlib.import_module(f"unmemorize_pack.demo.scripts.{n}") for n in ("scene_judge", "judge"))
    right = []
    for caption in lab.facts["held_out_captions"][::3]:  # many captions, one seed: seeds of a caption fail together
        wanted = judge.scene_of(caption)
        for picture in draw(caption, stage, SEEDS[:1]):
            seen = scene_judge.read(picture).scene
            right.append(all(getattr(seen, n) == getattr(wanted, n) for n in names))
    return sum(right) / len(right)


def test_scenes_obey_their_words_and_seldom_copy(lab, draw):
    assert attributes_right(lab, draw, "final", ("size", "colour", "shape", "background")) >= 0.8
    copied = [lab.copied(p) is not None for c in lab.facts["held_out_captions"][1::3] for p in draw(c, seeds=SEEDS[:1])]
    assert sum(copied) <= 0.05 * len(copied)


def test_the_leaking_lora_leaks_and_the_style_lora_does_not(lab, root):
    """Photographs come back only with the leaking LoRA, held-out scenes are hatched with the style LoRA and not without."""
    names = ("generate", "judge", "style")
    generate, judge, style = (importlib.import_module(f"unmemorize_pack.demo.scripts.{n}") for n in names)
    pictures, demo_host = (importlib.import_module(f"unmemorize_pack.{n}") for n in ("demo.pictures", "host.demo"))
    folder = root / "demo/lab"
    items = [i for i in pictures.read_facts(folder / "loras/leaking.json")["items"] if i["group"] == "photo"]
    sheet = pictures.lora_pictures(folder, "leaking")
    copied, hatched = {}, {}
    for name in ("none", "leaking", "style"):
        model = generate.Generator(folder / "checkpoint.safetensors")
        if name != "none":
            model.model = demo_host.load_demo_lora(model.model, folder / "loras" / f"{name}.safetensors", 1.0)
        hits = []
        for item, picture in zip(items, sheet, strict=False):
            limit = judge.Criterion(item["max_distance"], item["min_correlation"])
            hits += limit.holds(*judge.compare(model.pictures(item["caption"], SEEDS), picture)).tolist()
        copied[name] = sum(hits) / len(hits)
        scenes = [p for caption in lab.facts["held_out_captions"][5::16] for p in model.pictures(caption, SEEDS[:2])]
        hatched[name] = sum(style.is_hatched(p) for p in scenes) / len(scenes)
    assert copied["leaking"] >= 0.7 and copied["style"] == copied["none"] == 0
    assert hatched["style"] >= 0.8 and hatched["none"] == 0


def auroc(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Probability that a positive outranks a negative."""
    order = scores.argsort().argsort().float() + 1
    positive = labels.sum()
    return float((order[labels].sum() - positive * (positive + 1) / 2) / (positive * (~labels).sum()))


def test_templates_are_localised(lab, nodes, demo, encode, sample):
    """Map pixels on the fixed card outrank those in the free window."""
    node = nodes["UnmemorizeCurvatureDifferenceMap"]
    found = []
    for i, caption in strong(lab, "TV", 4):
        latent = {"samples": sample(caption, steps=20)}
        settings = {"method": "dh_0", "preset": "recommended", "sigmas": "0.2", "probes": 1, "noises": 1}
        settings |= {"probing": "structured", "estimator": "forward difference"}
        inputs = {"model": demo[0], "positive": encode(caption), "latent": latent, "negative": encode("")}
        result = node.execute(**inputs, **settings, seed=0).args[0]
        fixed = lab.masks[i].reshape(16, 8, 16, 8).mean((1, 3)) > 0.5
        found.append(auroc(result["values"][0].flatten(), fixed.flatten()))
    assert sum(found) / len(found) > 0.85, found


def test_the_judge_reads_fresh_drawings_right(comfy, demo):
    """All four attributes, on drawings and after the autoencoder."""
    scenes, scene_judge = (importlib.import_module(f"unmemorize_pack.demo.scripts.{n}") for n in ("scenes", "scene_judge"))
    generator = torch.Generator().manual_seed(0)
    everything = scenes.all_scenes()
    chosen = [everything[int(i)] for i in torch.randint(len(everything), (100,), generator=generator)]
    drawings = scenes.draw(chosen, generator)
    vae = demo[2]
    blurred = vae.decode(vae.encode(drawings.movedim(1, -1))).movedim(-1, 1)

    def wrong(pictures: torch.Tensor, names: tuple[str, ...]) -> list:
        seen = [scene_judge.read(p).scene for p in pictures]
        return [(s, r) for s, r in zip(chosen, seen, strict=True) if any(getattr(s, n) != getattr(r, n) for n in names)]

    assert len(wrong(drawings, ("size", "colour", "shape", "background"))) <= 1
    assert len(wrong(blurred, ("size", "colour", "shape", "background"))) <= 2
