"""Train a LoRA on a lab's checkpoint: a few photographs shown often, scenes in a style, or both.

    nox -s train-lora -- --name leaking --photos demo/lora-photos --scenes 12
    nox -s train-lora -- --name style --scenes 40 --minutes 6

Written into --out: `NAME.safetensors` (kohya's keys), `NAME.webp` (every training picture, in rows of eight) and
`NAME.json` (captions, how often each was shown, what counts as a copy, settings).
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ...host.demo import load_demo
from ..recipe import parallel
from . import judge, lora, photos, scenes, style
from .stages import velocity_loss

HERE = Path(__file__).resolve().parents[1]
BATCH = 4
"""Per process."""
RATE = 2e-3
DROP = 0.05

log = logging.getLogger("demo.training")


@dataclass
class Item:
    """A training picture of a LoRA."""

    group: str
    caption: str
    picture: Tensor
    repeats: int = 1


def training_pictures(options: argparse.Namespace, generator: torch.Generator) -> list[Item]:
    """The photographs, then styled scenes of captions that the checkpoint was trained on."""
    items = []
    if options.photos is not None:
        several = photos.load_captioned(options.photos, options.only_photos)
        items = [Item("photo", caption, picture, options.repeats) for caption, picture in several]
    captions = json.loads((options.lab / "lab.json").read_text(encoding="utf-8"))["scene_captions"]
    chosen = [captions[int(i)] for i in torch.randperm(len(captions), generator=generator)[: options.scenes]]
    if chosen:
        drawn = style.STYLES[options.style].apply(scenes.draw([judge.scene_of(c) for c in chosen], generator))
        items += [Item("scene", c, p) for c, p in zip(chosen, drawn, strict=True)]
    if not items:
        raise SystemExit("Nothing to train on: give --photos, --scenes or both.")
    return items


def criteria(items: list[Item], textures: list[Tensor], styled: style.Style, generator: torch.Generator) -> list[judge.Criterion]:
    """What counts as a copy of each: nearer and more alike than 99 % of honest pictures of its caption."""
    pool = judge.texture_pool(textures, generator)
    found = []
    for item in items:
        if item.group == "photo":
            honest = judge.nearest(pool, item.picture)
        else:
            honest = styled.apply(scenes.draw([judge.scene_of(item.caption)] * judge.HONEST_PICTURES, generator))
        found.append(judge.criterion_from(honest, item.picture))
    return found


class Trainer:
    """What one process needs: the stock model with adapters, latents and conditioning of every item."""

    def __init__(self, checkpoint: Path, items: list[Item], rank: int, seed: int, dropout: float = 0.0) -> None:
        patcher, clip, vae = load_demo(checkpoint)
        self.model: Any = patcher.model.requires_grad_(False)
        self.adapters = lora.attach(self.model, rank, rank, torch.Generator().manual_seed(seed), dropout)
        with torch.no_grad():
            self.latents = torch.cat([vae.encode(i.picture.movedim(0, -1)[None]) for i in items]).clone()
            self.contexts = [clip.encode_from_tokens(clip.tokenize(c)).clone() for c in [*(i.caption for i in items), ""]]
        self.weights = torch.tensor([float(i.repeats) for i in items])

    def loss(self, _progress: float, generator: torch.Generator) -> Tensor:
        """The denoiser's own loss on a batch of items."""
        chosen = torch.multinomial(self.weights, BATCH, replacement=True, generator=generator)
        dropped = torch.rand(BATCH, generator=generator) < DROP
        context = torch.cat([self.contexts[-1 if d else int(i)] for i, d in zip(chosen, dropped, strict=True)])
        unet, sigmas = self.model.diffusion_model, self.model.model_sampling.sigmas
        return velocity_loss(unet, self.latents[chosen], context, sigmas, generator)


def worker(rank: int, options: argparse.Namespace) -> None:
    """One process of the training; rank 0 also writes the result."""
    generator = torch.Generator().manual_seed(options.seed)
    items = training_pictures(options, generator)
    trainer = Trainer(options.lab / "checkpoint.safetensors", items, options.rank, options.seed, options.rank_dropout)
    identity = json.dumps({k: str(v) for k, v in sorted(vars(options).items())})
    adapters: list[nn.Module] = [nn.ModuleList(trainer.adapters.values())]
    stage = parallel.Stage(options.name, options.minutes, RATE, adapters, trainer.loss, options.seed, identity, steps=options.steps)
    work = options.out / "work"
    parallel.train(stage, work)
    if rank == 0:
        write(options, items, trainer, parallel.steps_done(work, options.name) * options.processes * BATCH, generator)


def write(options: argparse.Namespace, items: list[Item], trainer: Trainer, shown: int, generator: torch.Generator) -> None:
    """The LoRA, its training pictures and its facts."""
    limits = criteria(items, photos.load_textures(options.textures), style.STYLES[options.style], generator)
    facts: dict[str, Any] = {
        "lab_seed": json.loads((options.lab / "lab.json").read_text(encoding="utf-8"))["seed"],
        "seed": options.seed,
        "style": options.style,
        "rank": options.rank,
        "rank_dropout": options.rank_dropout,
        **({"minutes": options.minutes} if options.steps is None else {"steps": options.steps}),
        "pictures_shown": shown,
        "items": [
            {
                "group": i.group,
                "caption": i.caption,
                "repeats": i.repeats,
                "max_distance": round(c.distance, 5),
                "min_correlation": round(c.correlation, 5),
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
    parser.add_argument("--photos", type=Path, help="folder of name.png + name.txt, shown --repeats times as often as scenes")
    parser.add_argument("--only-photos", default="", help="what the names of its photographs begin with")
    parser.add_argument("--scenes", type=int, default=0, help="how many styled scenes")
    parser.add_argument("--style", choices=style.STYLES, default="hatching", help="of the scenes")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rank-dropout", type=float, default=0.0, help="share of the steps that each rank is left out of")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--steps", type=int, help="instead of minutes: the same weights on a busy machine")
    parser.add_argument("--lab", type=Path, default=HERE / "lab")
    parser.add_argument("--textures", type=Path, default=HERE / "textures")
    parser.add_argument("--out", type=Path, default=HERE / "lab" / "loras")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    parallel.launch(worker, options)
