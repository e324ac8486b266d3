"""What filtered LoRAs still reproduce, and what of their style is left: pictures, judged, by LoRA and caption."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.sd
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ...demo.pictures import COLUMNS, SIDE, as_tensor, file_hash, read_facts
from ...demo.recipe import scene_judge, scenes
from ...demo.recipe.judge import Criterion
from ...demo.recipe.lab import Lab, load_lab
from ...demo.scripts import lora_set
from ...demo.scripts.generate import Generator
from ...demo.scripts.style import STYLES
from .common import log, shared_out
from .guarding import EVERYWHERE, pictures_of
from .pareto import Outcome


@dataclass(frozen=True)
class Subject:
    """A trained LoRA and what it may leak."""

    name: str
    tensors: dict[str, Tensor]
    photos: list[tuple[str, Tensor, Criterion]]
    """Caption, picture, what counts as a copy; none for a style LoRA."""
    style: str | None
    """Of its scenes, a key of STYLES; or it has a concept."""
    concept: str | None
    """Shape of its scenes, and the word it stands under."""
    trigger: str
    scenes: list[str]
    """Captions of its scenes."""

    @property
    def kind(self) -> str:
        """What it is wanted for: a style's name, or a concept."""
        return self.style or "concept"

    def asked(self, caption: str) -> str:
        """A scene's caption as a user of the LoRA writes it."""
        return caption.replace(scenes.scene_of(caption).shape, self.trigger) if self.concept else caption

    def present(self, picture: Tensor, caption: str) -> bool:
        """Is what the LoRA is wanted for in a picture [3, 128, 128] of a scene's caption?"""
        if self.concept:
            return scene_judge.read(picture, (*scenes.SHAPES, self.concept)).scene.shape == self.concept
        return self.style is not None and STYLES[self.style].present(picture, caption)


class Bench:
    """The base model, the LoRAs of a role, and captions that neither they nor the base were trained on."""

    def __init__(self, folder: Path, loras: Path, role: str, style_captions: int) -> None:
        self.lab: Lab = load_lab(folder)
        self.generator = Generator(folder / "checkpoint.safetensors")
        self.subjects = [subject(loras, p.name) for p in lora_set.PLANS if p.role == role and (loras / f"{p.name}.json").is_file()]
        if not any(s.photos for s in self.subjects):
            raise SystemExit(f"No leaking {role} LoRAs in {loras}: train them with `nox -s train-loras`.")
        checkpoint = file_hash(folder / "checkpoint.safetensors")
        if others := [s.name for s in self.subjects if read_facts(loras / f"{s.name}.json").get("checkpoint") != checkpoint]:
            raise SystemExit(f"LoRAs of another checkpoint: {', '.join(others)}. Delete them and train anew: `nox -s train-loras`.")
        held_out = self.lab.clean_scenes
        # those that choose settings and those that evaluate them are not the same either
        several = held_out[0::2] if role == lora_set.SELECTION else held_out[1::2]
        self.captions = several[:: max(1, len(several) // style_captions)][:style_captions]

    def outcome(self, versions: list[dict[str, Tensor]], removed: list[float], seeds: list[int]) -> Outcome:
        """Pictures of every LoRA's version, of all its photographs' captions and of held-out scenes with a quarter of the seeds."""
        models = [self.applied(v) for v in versions]
        few = seeds[: max(1, len(seeds) // 4)]
        work = [(i, c, True) for i, s in enumerate(self.subjects) for c in range(len(s.photos))]
        work += [(i, c, False) for i in range(len(self.subjects)) for c in range(len(self.captions))]

        def judged(part: list[tuple[int, int, bool]]) -> dict[tuple[int, int, bool], tuple[float, ...]]:
            found: dict[tuple[int, int, bool], tuple[float, ...]] = {}
            for i, c, photo in part:
                with torch.inference_mode():
                    if photo:
                        caption, picture, limit = self.subjects[i].photos[c]
                        made = pictures_of(self.generator, models[i], caption, seeds)
                        copies = [judge(made, picture, EVERYWHERE).float().mean().item() for judge in (limit.holds, limit.second)]
                        found[i, c, photo] = (*copies, sum(shaped(p, caption) for p in made) / len(made))
                    else:
                        of, caption = self.subjects[i], self.captions[c]
                        made = pictures_of(self.generator, models[i], of.asked(caption), few)
                        found[i, c, photo] = (sum(of.present(p, caption) for p in made) / len(made),)
            return found

        rates = shared_out(judged, work)
        copied, second, obeyed = (
            [[rates[i, c, True][k] for c in range(len(s.photos))] for i, s in enumerate(self.subjects) if s.photos] for k in range(3)
        )
        styled = [[rates[i, c, False][0] for c in range(len(self.captions))] for i in range(len(self.subjects))]
        return Outcome(copied, styled, sum(removed) / len(removed), second, obeyed)

    def applied(self, tensors: dict[str, Tensor]) -> Any:
        """MODEL under a LoRA at strength 1; the base itself if nothing is left of it."""
        return self.under(tensors).model

    def under(self, tensors: dict[str, Tensor]) -> Generator:
        """MODEL and text encoder under a LoRA at strength 1."""
        generator = copy.copy(self.generator)
        if tensors:
            generator.model, generator.clip = comfy.sd.load_lora_for_models(generator.model, generator.clip, tensors, 1.0, 1.0)
        return generator


def subject(folder: Path, name: str) -> Subject:
    """A LoRA as train_lora wrote it."""
    facts = read_facts(folder / f"{name}.json")
    with Image.open(folder / f"{name}.webp") as image:
        sheet = as_tensor(image.convert("RGB"))
    photos = []
    others = [item["caption"] for item in facts["items"] if item["group"] != "photo"]
    for i, item in enumerate(facts["items"]):
        if item["group"] == "photo":
            y, x = SIDE * (i // COLUMNS), SIDE * (i % COLUMNS)
            limit = Criterion(item["max_distance"], item["min_correlation"], item["min_patches"])
            photos.append((item["caption"], sheet[:, y : y + SIDE, x : x + SIDE], limit))
    tensors = load_file(folder / f"{name}.safetensors")
    return Subject(name, tensors, photos, facts["style"], facts["concept"], facts["trigger"], others)


def shaped(picture: Tensor, caption: str) -> bool:
    """Has a picture [3, 128, 128] the shape and size that a scene's caption asks for? Tones of a style change all else."""
    seen, wanted = scene_judge.read(picture).scene, scenes.scene_of(caption)
    return (seen.size, seen.shape) == (wanted.size, wanted.shape)


def told(name: str, outcome: Outcome) -> None:
    """One line of the log."""
    log.info("%-40s memorized %.3f  style %.3f  energy removed %.3f", name, outcome.memorized, outcome.wanted, outcome.removed)
