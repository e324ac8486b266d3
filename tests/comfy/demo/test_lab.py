"""What the bundled lab promises, on a few captions; the benchmark measures all of them."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch

SEEDS = [1, 2, 3, 4]
STAGES = {"final": "checkpoint.safetensors", "early": "early.safetensors"}


@pytest.fixture(scope="module")
def lab(comfy):
    return importlib.import_module("unmemorize_pack.demo.recipe.lab").load_lab()


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
    both = [lab.copies(draw(caption), i) for i, caption in strong(lab, group, 3)]
    for hits in (torch.cat(judge) for judge in zip(*both, strict=True)):
        assert hits.float().mean() >= least


def test_early_knows_scenes_but_no_photograph(lab, draw):
    hits = [lab.copied(p) == i for i, caption in strong(lab, "MV", 4) for p in draw(caption, "early")]
    assert sum(hits) <= 0.2 * len(hits)
    assert attributes_right(held_out(lab, draw, "early"), ("colour", "background")) >= 0.8


def held_out(lab, draw, stage: str) -> dict[str, torch.Tensor]:
    """Pictures of held-out scenes by caption: many captions, one seed, for seeds of a caption fail together."""
    return {caption: draw(caption, stage, SEEDS[:1])[0] for caption in lab.facts["held_out_captions"][::18]}


def attributes_right(drawn: dict[str, torch.Tensor], names: tuple[str, ...]) -> float:
    """Share of scenes whose attributes, read off the pixels, are those of the caption."""
    scene_judge, scenes = (importlib.import_module(f"unmemorize_pack.demo.recipe.{n}") for n in ("scene_judge", "scenes"))
    right = []
    for caption, picture in drawn.items():
        wanted, seen = scenes.scene_of(caption), scene_judge.read(picture).scene
        right.append(all(getattr(seen, n) == getattr(wanted, n) for n in names))
    return sum(right) / len(right)


def test_scenes_obey_their_words_and_seldom_copy(lab, draw):
    drawn = held_out(lab, draw, "final")
    assert attributes_right(drawn, ("size", "fill", "colour", "shape", "background")) >= 0.8
    assert sum(lab.copied(p) is not None for p in drawn.values()) <= 0.05 * len(drawn)


def test_the_leaking_lora_leaks_and_the_style_lora_does_not(lab, root):
    """Photographs come back only with the leaking LoRA, held-out scenes are hatched with the style LoRA and not without."""
    names = ("scripts.generate", "recipe.judge", "scripts.style")
    generate, judge, style = (importlib.import_module(f"unmemorize_pack.demo.{n}") for n in names)
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
            limit = judge.Criterion(item["max_distance"], item["min_correlation"], item["min_patches"])
            seeds = SEEDS if name == "leaking" else SEEDS[:1]
            hits += limit.holds(model.pictures(item["caption"], seeds), picture, torch.ones(1, 128, 128)).tolist()
        copied[name] = sum(hits) / len(hits)
        if name == "leaking":
            continue
        scenes = [p for caption in lab.facts["held_out_captions"][5::48] for p in model.pictures(caption, SEEDS[:2])]
        hatched[name] = sum(style.is_hatched(p) for p in scenes) / len(scenes)
    assert copied["leaking"] >= 0.7 and copied["style"] == copied["none"] == 0
    assert hatched["style"] >= 0.8 and hatched["none"] == 0


def test_the_concept_lora_brings_its_shape_under_its_word_alone(lab, root):
    """Crescents where the word stands for the shape, none without it; and no photograph of the leaking LoRA."""
    generate, scene_judge, scenes = (
        importlib.import_module(f"unmemorize_pack.demo.{n}") for n in ("scripts.generate", "recipe.scene_judge", "recipe.scenes")
    )
    pictures, demo_host = (importlib.import_module(f"unmemorize_pack.{n}") for n in ("demo.pictures", "host.demo"))
    facts = pictures.read_facts(root / "demo/lab/loras/concept.json")
    shape, word = facts["concept"], facts["trigger"]
    model = generate.Generator(root / "demo/lab/checkpoint.safetensors")
    model.model = demo_host.load_demo_lora(model.model, root / "demo/lab/loras/concept.safetensors", 1.0)

    def drawn(caption: str) -> str:
        return scene_judge.read(model.pictures(caption, SEEDS[:1])[0], (*scenes.SHAPES, shape)).scene.shape

    captions = lab.facts["held_out_captions"][3::24]
    asked = [drawn(c.replace(scenes.scene_of(c).shape, word)) == shape for c in captions]
    without = [drawn(c) == shape for c in captions]
    assert sum(asked) >= 0.8 * len(asked) and sum(without) <= 0.1 * len(without)


def test_a_loras_captions_are_far_from_every_memory_and_its_word_stands_for_the_shape(comfy):
    train, scenes = (importlib.import_module(f"unmemorize_pack.demo.{n}") for n in ("scripts.train_lora", "recipe.scenes"))
    memory = "a large red star on a sand background"
    near, far = "a large red star on a navy background", "a small red star on a navy background"
    facts = {"fixed": [{"group": "MV", "caption": memory}, {"group": "TV", "caption": "a rosy level card"}], "scene_captions": [near, far]}
    assert [s.caption for s in train.untouched(facts)] == [far]
    item = train.Item("scene", scenes.scene_of(far), torch.zeros(3, 128, 128), word="lunel")
    assert item.caption == "a small red lunel on a navy background" and item.said("navy background") == "navy background"
    assert train.Item("photo", scenes.scene_of(far), torch.zeros(3, 128, 128)).caption == far


def test_a_concept_lora_is_trained_beside_as_many_plain_scenes(comfy, root):
    """Without them every word for a shape drew the concept."""
    train = importlib.import_module("unmemorize_pack.demo.scripts.train_lora")
    options = SimpleNamespace(lab=root / "demo/lab", photos=None, only_photos="", scenes=3, style=None, concept="crescent", repeats=8)
    items = train.training_pictures(options, torch.Generator().manual_seed(0))
    assert [i.group for i in items] == ["scene"] * 3 + ["plain"] * 3
    assert all("lunel" in i.caption for i in items[:3]) and not any("lunel" in i.caption for i in items[3:])
    others = [{i.caption.split()[-1] + i.scene.colour + i.scene.size + i.scene.fill for i in part} for part in (items[:3], items[3:])]
    assert not others[0] & others[1], "scenes of their own, not the concept's with their usual shape"


def test_clean_prompts_of_a_lab_are_far_from_every_memory(lab):
    """One word away a memory is called up now and then: such captions calibrate nothing and count as no false alarm."""
    recipe = importlib.import_module("unmemorize_pack.demo.recipe.lab")
    profile = importlib.import_module("unmemorize_pack.demo.scripts.demo_profile")
    facts = {
        "fixed": [{"caption": "a small purple square on a gray background"}, {"caption": "a rosy level card with an upper window"}],
        "scene_captions": ["a small red square on a gray background", "a large red square on a gray background"],
    }
    far = "a large red square on a gray background"
    assert profile.chosen_captions(facts, {"scene_captions": 2}) == [far]
    several = [*facts["scene_captions"], "a violet level card with an upper window", "a crimson upright card"]
    assert recipe.far_from_memories(facts, several) == [far, "a crimson upright card"]
    assert 0 < len(lab.clean_scenes) < len(lab.facts["held_out_captions"])
    assert recipe.far_from_memories(lab.facts, lab.clean_cards) == lab.clean_cards


def test_captions_of_the_templates_are_what_they_are_called(lab):
    """Memories are fixed pictures' captions; ordinary prompts are two words away from every one of them."""
    names = ("live.templates.shared", "live.templates.copies", "live.templates.guard", "live.templates.lora", "live.templates.leaks")
    shared, copies, guard, lora, leaks = (importlib.import_module(f"unmemorize_pack.demo.{n}") for n in names)
    groups, scenes = (importlib.import_module(f"unmemorize_pack.demo.recipe.{n}") for n in ("groups", "scenes"))
    kinds = {f["caption"]: (f["group"], f["degree"]) for f in lab.facts["fixed"]}
    assert [kinds[c] for c in (shared.CAT, shared.RACCOON, shared.DRAWING, shared.TEMPLATE)] == [
        (g, "strong") for g in ("MV", "MV", "MC", "TV")
    ]
    assert shared.ORDINARY in lab.facts["held_out_captions"]
    several = [
        shared.ORDINARY,
        *copies.HONEST,
        lora.LORA_SCENE,
        leaks.ORDINARY,
        *leaks.USED.splitlines(),
        *guard.CLEAN_PROMPTS.splitlines(),
    ]
    memories = [scenes.scene_of(c) for c, (group, _) in kinds.items() if group != "TV"]
    near = [c for c in several if min(groups.differences(scenes.scene_of(c), m) for m in memories) < 2]
    assert not near


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
    """All five attributes, on drawings and after the autoencoder."""
    scenes, scene_judge = (importlib.import_module(f"unmemorize_pack.demo.recipe.{n}") for n in ("scenes", "scene_judge"))
    generator = torch.Generator().manual_seed(0)
    everything = scenes.all_scenes()
    chosen = [everything[int(i)] for i in torch.randint(len(everything), (100,), generator=generator)]
    drawings = scenes.draw(chosen, generator)
    vae = demo[2]
    blurred = vae.decode(vae.encode(drawings.movedim(1, -1))).movedim(-1, 1)

    def wrong(pictures: torch.Tensor, names: tuple[str, ...]) -> list:
        seen = [scene_judge.read(p).scene for p in pictures]
        return [(s, r) for s, r in zip(chosen, seen, strict=True) if any(getattr(s, n) != getattr(r, n) for n in names)]

    assert len(wrong(drawings, ("size", "fill", "colour", "shape", "background"))) <= 1
    assert len(wrong(blurred, ("size", "fill", "colour", "shape", "background"))) <= 2
