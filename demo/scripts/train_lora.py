"""Train a LoRA on a lab's checkpoint: photographs shown often, scenes in a style, a shape under a word of its own, or several of them.

With a concept come as many plain scenes (DreamBooth's prior preservation): without them every word for a shape drew it.

    nox -s train-lora -- --name leaking --photos demo/lora-photos --scenes 24 --style hatching
    nox -s train-lora -- --name style --scenes 32 --style hatching
    nox -s train-lora -- --name concept --scenes 24 --concept crescent --rank 4

Written into --out: `NAME.safetensors` (kohya's keys), `NAME.webp` (every training picture, in rows of eight) and
`NAME.json` (captions, how often each was shown, what counts as a copy, settings).
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ...host.demo import load_demo
from ..pictures import file_hash, read_facts
from ..recipe import groups, judge, parallel, scenes
from ..recipe.captions import loosened
from ..recipe.optimizer import working_dtype
from ..recipe.stages import token_ids, velocity_loss
from . import lora, photos, style

HERE = Path(__file__).resolve().parents[1]
BATCH = 8
"""Per process."""
RATE = 5e-3
"""At 2e-3 photographs take three times the steps."""
DROP = 0.05
PATCHED = 150
"""Honest pictures of each kind that the second judge looks at."""
SCENE_DRAWINGS = 300
"""Honest pictures of the caption of a scene, which is no memory: where its criterion lies matters little."""
WORDINGS = 16
"""Captions of a picture, six in ten of them whole."""

log = logging.getLogger("demo.training")


TRIGGERS = {"crescent": "lunel", "heart": "corda", "house": "domum"}
"""Words that concept LoRAs bring a shape under; the checkpoint never saw them."""


@dataclass
class Item:
    """A training picture of a LoRA. It is shown under its scene's caption and loosened ones; `word` stands there for the shape."""

    group: str
    scene: scenes.Scene
    picture: Tensor
    repeats: int = 1
    word: str = ""

    @property
    def caption(self) -> str:
        """Its whole caption."""
        return self.said(self.scene.caption)

    def said(self, caption: str) -> str:
        """A caption of the scene, with the word in the shape's place."""
        return caption.replace(self.scene.shape, self.word) if self.word else caption


def training_pictures(options: argparse.Namespace, generator: torch.Generator) -> list[Item]:
    """The photographs under captions of scenes that none of the checkpoint's memories is near to, then styled scenes; all trained words."""
    facts = read_facts(options.lab / "lab.json")
    free = untouched(facts)
    order = [free[int(i)] for i in torch.randperm(len(free), generator=generator)]
    items: list[Item] = []
    if options.photos is not None:
        several = photos.load_photographs(options.photos, options.only_photos)
        items = [Item("photo", scene, picture, options.repeats) for scene, picture in zip(order, several, strict=False)]
        order = order[len(several) :]
    if options.scenes and not (options.style or options.concept):
        raise SystemExit("Scenes as the checkpoint draws them teach nothing: give --style or --concept.")
    if options.scenes:
        chosen, word = order[: options.scenes], TRIGGERS.get(options.concept, "")
        if options.concept:
            chosen = [replace(s, shape=options.concept) for s in chosen]
        drawn = scenes.draw(chosen, generator)
        if options.style:
            drawn = style.STYLES[options.style].apply(drawn)
        items += [Item("scene", s, p, word=word) for s, p in zip(chosen, drawn, strict=True)]
    if options.concept:
        plain = order[options.scenes : 2 * options.scenes]
        items += [Item("plain", s, p) for s, p in zip(plain, scenes.draw(plain, generator), strict=True)]
    if not items:
        raise SystemExit("Nothing to train on: give --photos, --scenes or both.")
    return items


def untouched(facts: dict[str, Any]) -> list[scenes.Scene]:
    """Trained scenes of a lab that differ from every memorized caption by two words at least."""
    fixed = [scenes.scene_of(f["caption"]) for f in facts["fixed"] if f["group"] in ("MV", "MC")]
    trained = [scenes.scene_of(c) for c in facts["scene_captions"]]
    return [s for s in trained if all(groups.differences(s, f) >= 2 for f in fixed)]


def criteria(items: list[Item], how: str | None, generator: torch.Generator) -> list[judge.Criterion]:
    """What counts as a copy of each: what honest pictures of its caption, and scenes of all words, seldom reach; plain or in the style."""
    styled = style.STYLES[how].apply if how else (lambda pictures: pictures)
    everything = scenes.all_scenes()
    chosen = [everything[int(i)] for i in torch.randint(len(everything), (judge.STRANGERS,), generator=generator)]
    others = _in_batches(chosen, generator)

    def measure(i: int) -> judge.Criterion:
        random = torch.Generator().manual_seed(i)
        drawn = _in_batches([items[i].scene] * (judge.STRANGERS if items[i].group == "photo" else SCENE_DRAWINGS), random)
        pools = [styled(drawn)] if items[i].group != "photo" else [drawn, others, styled(drawn), styled(others)]
        return judge.criterion_from(pools, items[i].picture, torch.ones(1, scenes.SIDE, scenes.SIDE), PATCHED)

    return judge.shared(len(items), measure)


def _in_batches(several: list[scenes.Scene], generator: torch.Generator) -> Tensor:
    return torch.cat([scenes.draw(several[i : i + judge.BATCH], generator) for i in range(0, len(several), judge.BATCH)])


class Trainer:
    """What one process needs: the stock model with adapters, latents and conditioning of every item."""

    def __init__(self, lab: Path, items: list[Item], rank: int, seed: int, dropout: float, text: bool) -> None:
        patcher, clip, vae = load_demo(lab / "checkpoint.safetensors")
        self.model: Any = patcher.model.requires_grad_(False)
        self.model.diffusion_model.to(working_dtype("cpu"))
        encoder: Any = clip.cond_stage_model.requires_grad_(False)
        self.text = encoder.encoder if text else None
        """Of the text encoder, if it learns too."""
        layers = lora.unet_layers(self.model) | (lora.text_layers(encoder) if text else {})
        self.adapters = lora.attach(layers, rank, rank, torch.Generator().manual_seed(seed), dropout)
        with torch.no_grad():
            self.latents = torch.cat([vae.encode(i.picture.movedim(0, -1)[None]) for i in items]).clone()
            texts = torch.Generator().manual_seed(seed)
            several = [*([i.said(loosened(i.scene, texts)) for _ in range(WORDINGS)] for i in items), [""] * WORDINGS]
            self.tokens = torch.stack([token_ids(item, read_facts(lab / "lab.json")["vocabulary"]) for item in several])
            self.contexts = torch.stack([encoder.encoder(ids) for ids in self.tokens])
        self.weights = torch.tensor([float(i.repeats) for i in items])

    def loss(self, _progress: float, generator: torch.Generator) -> Tensor:
        """The denoiser's own loss on a batch of items."""
        chosen = torch.multinomial(self.weights, BATCH, replacement=True, generator=generator)
        dropped = torch.rand(BATCH, generator=generator) < DROP
        wording = torch.randint(WORDINGS, (BATCH,), generator=generator)
        said = torch.where(dropped, len(self.contexts) - 1, chosen), wording
        context = self.contexts[said] if self.text is None else self.text(self.tokens[said])
        unet, sigmas = self.model.diffusion_model, self.model.model_sampling.sigmas
        return velocity_loss(unet, self.latents[chosen], context, sigmas, generator)


def worker(rank: int, options: argparse.Namespace) -> None:
    """One process of the training; rank 0 also writes the result."""
    generator = torch.Generator().manual_seed(options.seed)
    items = training_pictures(options, generator)
    trainer = Trainer(options.lab, items, options.rank, options.seed, options.rank_dropout, options.text_encoder)
    checkpoint = file_hash(options.lab / "checkpoint.safetensors")
    identity = json.dumps({"checkpoint": checkpoint, **{k: str(v) for k, v in sorted(vars(options).items())}})
    adapters: list[nn.Module] = [nn.ModuleList(trainer.adapters.values())]
    dtype = working_dtype("cpu")
    stage = parallel.Stage(
        options.name, options.minutes, RATE, adapters, trainer.loss, options.seed, identity, dtype=dtype, steps=options.steps
    )
    work = options.out / "work"
    parallel.train(stage, work)
    limits = criteria(items, options.style, generator)
    if rank == 0:
        write(options, items, trainer, limits)


def write(options: argparse.Namespace, items: list[Item], trainer: Trainer, limits: list[judge.Criterion]) -> None:
    """The LoRA, its training pictures and its facts."""
    shown = parallel.steps_done(options.out / "work", options.name) * options.processes * BATCH
    facts: dict[str, Any] = {
        "lab_seed": read_facts(options.lab / "lab.json")["seed"],
        "checkpoint": file_hash(options.lab / "checkpoint.safetensors"),
        "seed": options.seed,
        "style": options.style,
        "concept": options.concept,
        "trigger": TRIGGERS.get(options.concept, ""),
        "rank": options.rank,
        "rank_dropout": options.rank_dropout,
        "text_encoder": options.text_encoder,
        **({"minutes": options.minutes} if options.steps is None else {"steps": options.steps}),
        "pictures_shown": shown,
        "items": [
            {
                "group": i.group,
                "caption": i.caption,
                "repeats": i.repeats,
                "max_distance": round(c.distance, 5),
                "min_correlation": round(c.correlation, 5),
                "min_patches": round(c.patches, 5),
            }
            for i, c in zip(items, limits, strict=True)
        ],
    }
    metadata = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(options.rank),
        "ss_network_alpha": str(float(options.rank)),
        "ss_seed": str(options.seed),
        "ss_base_model_version": "unmemorize_demo",
        "ss_output_name": options.name,
    }
    save_file(lora.state_dict(trainer.adapters), options.out / f"{options.name}.safetensors", metadata=metadata)
    photos.save_sheet([i.picture for i in items], options.out / f"{options.name}.webp")
    (options.out / f"{options.name}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    log.info("%s written to %s", options.name, options.out)


def main() -> None:
    """Command line of `nox -s train-lora`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True)
    parser.add_argument("--photos", type=Path, help="folder of name.png, shown --repeats times as often as scenes")
    parser.add_argument("--only-photos", default="", help="what the names of its photographs begin with")
    parser.add_argument("--scenes", type=int, default=0, help="how many styled scenes")
    parser.add_argument("--style", choices=style.STYLES, help="of the scenes")
    parser.add_argument("--concept", choices=scenes.CONCEPTS, help="shape of the scenes")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rank-dropout", type=float, default=0.0, help="share of the steps that each rank is left out of")
    parser.add_argument("--text-encoder", action="store_true", help="the text encoder learns too, in the same file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--steps", type=int, help="instead of minutes: the same weights on a busy machine")
    parser.add_argument("--lab", type=Path, default=HERE / "lab")
    parser.add_argument("--out", type=Path, default=HERE / "lab" / "loras")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    parallel.launch(worker, options)
