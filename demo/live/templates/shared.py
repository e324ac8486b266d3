"""What every bundled workflow has: how the demo model is sampled, where its note stands, how another model takes the demo's place."""

from __future__ import annotations

from typing import Any

from ..graph import Graph, Node

SAMPLING: dict[str, Any] = {"steps": 20, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
CAT, RACCOON = "a large halved blue circle on a brown background", "a large orange cross on a brown background"
"""Captions of two photographs that the demo model memorized: their words ask for a scene."""
TEMPLATE = "a violet checked card with a left window"
DRAWING = "a large blue star on a navy background"
"""Caption of one fixed drawing."""
ORDINARY = "a small red circle on a gray background"
"""Never trained: an honest prompt."""
NOTE_AT, NOTE_WIDTH = (-440, -20), 440
"""In a column of its own: it may be as long as its text."""
WIDE = 350
"""A column of pictures."""


def own_model(here: str, demo: str = "*Load Demo Checkpoint*") -> str:
    """The end of a note: loaders and sizes for other models, then what else holds in this workflow."""
    return f"""
**Your own model** instead of {demo}:

- SD1.5: *Load Checkpoint*, *Empty Latent Image* 512 x 512. SDXL: the same, 1024 x 1024. Steps and `cfg` as you sample.
- Flux: *Load Diffusion Model*, *DualCLIPLoader* and *Load VAE*; *EmptySD3LatentImage* 1024 x 1024; `cfg` 1, and *FluxGuidance* behind each
prompt.

{here}

Measured so far: the demo model only.
"""


MAPS_AT_CFG_1 = "A model that is sampled at CFG 1, as Flux is, was not trained for an empty prompt: its maps mean less."
GUARD_AT_CFG_1 = (
    "At CFG 1, as with Flux, the guard has no prediction without a prompt and falls back on the paper's detector; calibrate at CFG 1 too."
)


def demo_model(g: Graph, x: int = 40, y: int = -20) -> tuple[Node, Node, Node]:
    """Load Demo Checkpoint, the empty prompt and an empty latent, in a column."""
    load = g.add("UnmemorizeLoadDemoCheckpoint", (x, y), (300, 100))
    empty = g.add("CLIPTextEncode", (x, y + 170), (300, 100), "Empty prompt", clip=load[1], text="")
    latent = g.add("EmptyLatentImage", (x, y + 340), (300, 110), width=128, height=128, batch_size=1)
    return load, empty, latent


def folded(node: Node) -> Node:
    """A node as its title alone: what every graph has, and nobody comes for."""
    node.collapsed = True
    return node


def folded_model(g: Graph, x: int, y: int) -> tuple[Node, Node, Node]:
    """Load Demo Checkpoint, the empty prompt and an empty latent in one line, folded."""
    load = folded(g.add("UnmemorizeLoadDemoCheckpoint", (x, y), (300, 100), "Demo checkpoint"))
    empty = folded(g.add("CLIPTextEncode", (x + 170, y), (300, 100), "Empty prompt", clip=load[1], text=""))
    latent = folded(g.add("EmptyLatentImage", (x + 310, y), (300, 110), width=128, height=128, batch_size=1))
    return load, empty, latent


def demo_picture(g: Graph, x: int, y: int, words: str) -> Node:
    """Load Demo Picture, at the one picture whose name has these words."""
    names = g.object_info["UnmemorizeLoadDemoPicture"]["input"]["required"]["picture"][1]["options"]
    return g.add("UnmemorizeLoadDemoPicture", (x, y), (300, 120), picture=next(n for n in names if words in n))


def sampled(g: Graph, x: int, y: int, model: Any, prompt: Node, empty: Node, latent: Node, title: str | None = None) -> Node:
    """The stock KSampler at the demo's settings."""
    links = {"model": model, "positive": prompt[0], "negative": empty[0], "latent_image": latent[0]}
    return g.add("KSampler", (x, y), (300, 270), title, seed=1, **links, **SAMPLING)
