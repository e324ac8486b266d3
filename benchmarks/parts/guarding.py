"""Corrected runs, and whether they are still copies, still obey their words, and are whole pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import comfy.patcher_extension
import torch
import torch.nn.functional as F
from torch import Tensor

from ...demo.pictures import SIDE, lora_pictures, read_facts
from ...demo.recipe import scene_judge
from ...demo.recipe.judge import Criterion
from ...demo.recipe.lab import Lab, far_from_memories, is_card, load_lab, obeys
from ...demo.scripts import style
from ...demo.scripts.generate import Generator
from ...host.combined.own_mask import OwnMask
from ...host.core.sampler_call import run_arguments_of
from ...host.demo import load_demo_lora
from ...host.stability.common_change import CommonChange
from ...host.stability.other_words import OtherWords
from ...host.stability.restart import Restart
from .common import tuning_and_test
from .judging import BROKEN

BLANK = 0.02
SCENE_STRIDE, CLEAN_STRIDE, CARD_STRIDE = 50, 12, 8
"""Of trained scenes that calibrate, of held-out scenes and of cards that choose settings or are evaluated."""
EVERYWHERE = torch.ones(1, SIDE, SIDE)
"""Mask of a picture that is fixed as a whole."""
REFERENCE_SEEDS = [700, 701, 702, 703]


Redrawn: TypeAlias = Restart | OwnMask | OtherWords | CommonChange
"""Strategies that draw a picture again and need nothing of the run before."""


class Bench:
    """A lab's models, and its captions split into those that choose settings and those that are evaluated."""

    def __init__(self, folder: Path) -> None:
        self.lab: Lab = load_lab(folder)
        self.final = Generator(folder / "checkpoint.safetensors")
        self.early = Generator(folder / "early.safetensors").model
        self.folder = folder
        fixed = self.lab.facts["fixed"]
        kinds = {(g, d): [f["caption"] for f in fixed if f["group"] == g and f["degree"] == d] for g in ("MV", "MC", "TV") for d in DEGREES}
        split = {k: tuning_and_test(captions) for k, captions in kinds.items()}
        self.tuning = {g: split[g, "strong"][0] for g in ("MV", "MC", "TV")}
        self.test = {g: split[g, "strong"][1] for g in ("MV", "MC", "TV")}
        self.test |= {d: kinds["MV", d] for d in DEGREES[1:]}
        facts = self.lab.facts
        held_out, cards, trained = self.lab.clean_scenes, self.lab.clean_cards, far_from_memories(facts, facts["scene_captions"])
        self.calibration = trained[::SCENE_STRIDE] + cards[0::CARD_STRIDE]
        self.tuning |= {"scene": held_out[1::CLEAN_STRIDE], "card": cards[1::CARD_STRIDE]}
        self.test |= {"scene": held_out[2::CLEAN_STRIDE] + held_out[3::CLEAN_STRIDE]}
        self.test |= {"card": cards[2::CARD_STRIDE] + self.lab.facts["held_out_card_captions"]}
        self.usual = usual_range(self.final, trained[::SCENE_STRIDE], self.lab.pictures)

    def leaking(self) -> tuple[Any, list[tuple[str, Tensor, Criterion]]]:
        """The model under the leaking LoRA, and its photographs: caption, picture, what counts as a copy."""
        model = load_demo_lora(self.final.model, self.folder / "loras" / "leaking.safetensors", 1.0)
        items = read_facts(self.folder / "loras" / "leaking.json")["items"]
        pictures = lora_pictures(self.folder, "leaking")
        return model, [
            (i["caption"], p, Criterion(i["max_distance"], i["min_correlation"], i["min_patches"]))
            for i, p in zip(items, pictures, strict=True)
            if i["group"] == "photo"
        ]


DEGREES = ("strong", "medium", "mild")


def usual_range(generator: Generator, captions: list[str], pictures: Tensor) -> dict[str, float]:
    """What the model's own clean scenes have: the overlap that all but 1 % of them reach; and twice the roughness of the roughest fixed
    picture of the lab."""
    with torch.inference_mode():
        overlaps = [scene_judge.read(p).overlap for c in captions for p in generator.pictures(c, REFERENCE_SEEDS)]
    return {"overlap": float(torch.tensor(overlaps).quantile(BROKEN)), "roughness": 2 * float(roughness(pictures).max())}


def roughness(pictures: Tensor) -> Tensor:
    """RMS of what a 3 x 3 mean removes from pictures [n, 3, h, w], [n]: noise is rough."""
    return (pictures - F.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)).square().mean((1, 2, 3)).sqrt()


def always(model: Any, how: Redrawn) -> Any:
    """A clone of MODEL whose every run is drawn again by a strategy in its first way, flagged or not."""
    clone = model.clone()
    busy = [False]

    def run(executor: Any, noise: Tensor, *rest: Any, **more: Any) -> Tensor:
        if busy[0]:
            return executor(noise, *rest, **more)
        busy[0] = True
        try:
            everyone = torch.ones(len(noise), dtype=torch.bool)
            call = run_arguments_of(executor.class_obj, noise, *rest, **more)
            return how.begin(None).after(call, everyone, torch.zeros_like(noise))
        finally:
            busy[0] = False

    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, "restart", run)
    return clone


def pictures_of(generator: Generator, model: Any, caption: str, seeds: list[int], **changes: Any) -> Tensor:
    """Pictures [n, 3, 128, 128] of a caption by another model than the generator's own."""
    with lent(generator, model):
        return generator.pictures(caption, seeds, **changes)


@contextlib.contextmanager
def lent(generator: Generator, model: Any) -> Iterator[None]:
    """The generator draws by another model meanwhile."""
    plain, generator.model = generator.model, model
    try:
        yield
    finally:
        generator.model = plain


def judged(bench: Bench, picture: Tensor, caption: str) -> dict[str, bool]:
    """Of one run: does it copy any fixed picture, the caption's own to the second judge, obey its words; is it broken and no copy?"""
    own = bench.lab.index(caption)
    copied = bench.lab.copied(picture) is not None
    scene = not is_card(caption)
    return {
        "copied": copied,
        "second": own is not None and bool(bench.lab.copies(picture[None], own)[1]),
        "obeys": obeys(picture, caption),
        "broken": not copied and broken(picture, bench.usual, scene),
    }


def broken(picture: Tensor, usual: dict[str, float], scene: bool) -> bool:
    """No whole picture: noise, almost blank, or (for a scene) no shape as whole as those of clean scenes."""
    rough = float(roughness(picture[None])) > usual["roughness"]
    blank = float(picture.std()) < BLANK
    return rough or blank or (scene and scene_judge.read(picture).overlap < usual["overlap"])


def hatched(picture: Tensor) -> bool:
    """Is the LoRAs' style there?"""
    return style.is_hatched(picture)
