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
NOTE_AT, NOTE_WIDTH = (0, 60), 440
"""In a column of its own, at the left."""
COLUMNS = (480, 870, 1260, 1650)
"""Beside the note, a picture wide each: so many lie in the first view."""
NEXT_ROW = 475
"""From one row of pictures to the next."""
WIDE = 350
"""A column of pictures."""
FOLDED = 160
"""From one folded node to the next beside it: Nodes 2.0 draws all of them as wide, the classic canvas some of them."""


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


def folded(node: Node) -> Node:
    """A node as its title alone: what every graph has, and nobody comes for."""
    node.collapsed = True
    return node


def folded_model(g: Graph, x: int, y: int) -> tuple[Node, Node, Node]:
    """Load Demo Checkpoint, the empty prompt and an empty latent in one line, folded."""
    # the second is the widest that the classic canvas draws: a little further left, all three end before the next column
    load = folded(g.add("UnmemorizeLoadDemoCheckpoint", (x - 7, y), (300, 100), "Demo checkpoint"))
    empty = folded(g.add("CLIPTextEncode", (x + 150, y), (300, 100), clip=load[1], text=""))
    latent = folded(g.add("EmptyLatentImage", (x + 324, y), (300, 110), width=128, height=128, batch_size=1))
    return load, empty, latent


def demo_picture(g: Graph, x: int, y: int, words: str) -> Node:
    """Load Demo Picture, at the one picture whose name has these words."""
    names = g.object_info["UnmemorizeLoadDemoPicture"]["input"]["required"]["picture"][1]["options"]
    return g.add("UnmemorizeLoadDemoPicture", (x, y), (WIDE, 100), picture=next(n for n in names if words in n))


def sampled(g: Graph, x: int, y: int, model: Any, prompt: Node, empty: Node, latent: Node, seed: int = 1) -> Node:
    """The stock KSampler at the demo's settings, folded."""
    links = {"model": model, "positive": prompt[0], "negative": empty[0], "latent_image": latent[0]}
    return folded(g.add("KSampler", (x, y), (300, 270), seed=seed, **links, **SAMPLING))


def decoded(g: Graph, x: int, y: int, samples: Any, load: Node) -> Node:
    """VAE Decode, folded."""
    return folded(g.add("VAEDecode", (x, y), (250, 50), samples=samples, vae=load[2]))


def enlarged(g: Graph, x: int, y: int, image: Any) -> Node:
    """Twice the size, folded: the classic canvas draws no picture larger than it is, and the demo's are small."""
    return folded(g.add("ImageScaleBy", (x, y), (300, 80), image=image, upscale_method="nearest-exact", scale_by=2.0))


def framed(g: Graph, title: str, before: list[Node], at: tuple[int, int], image: Any) -> None:
    """A picture in a frame that says what it is, with the nodes that made it: stock nodes keep their own names."""
    large = enlarged(g, at[0], at[1] - 5, image)
    g.group(title, [*before, large, g.add("PreviewImage", (at[0], at[1] + 40), (WIDE, 310), images=large[0])])


def side_by_side(g: Graph, at: tuple[int, int], pictures: list[Any], apart: int, height: int = 300) -> Node:
    """Compare Pictures across two columns that stand `apart`: both whole, and the line between them under the pointer."""
    return g.add("UnmemorizeComparePictures", at, (apart + WIDE, height), before=pictures[0], after=pictures[1])


def compared(
    g: Graph, title: str, models: tuple[Any, Any], prompt: Node, demo: tuple[Node, Node, Node], *more: Node, beside: tuple[int, int],
    at: tuple[int, int], apart: int = COLUMNS[1] - COLUMNS[0],
) -> None:  # fmt: skip
    """A frame with what two models draw of a prompt, same seed; their folded samplers stand `beside`; `apart`: wider than a column."""
    load, empty, latent = demo
    inside, pictures = list(more), []
    for k, model in enumerate(models):
        sampler = sampled(g, beside[0], beside[1] + 45 * k, model, prompt, empty, latent)
        decode = decoded(g, beside[0] + FOLDED, beside[1] + 45 * k, sampler[0], load)
        inside += [sampler, decode]
        pictures.append(decode[0])
    g.group(title, [*inside, side_by_side(g, at, pictures, apart=apart)])


def drawn(
    g: Graph, title: str, x: int, y: int, model: Any, prompt: Node, demo: tuple[Node, Node, Node], *more: Node, below: int = 50
) -> Node:
    """A frame with a picture of the stock KSampler, `below` that; returns its decoder. `more`: other nodes of this frame."""
    load, empty, latent = demo
    sampler = sampled(g, x, y, model, prompt, empty, latent)
    decode = decoded(g, x + FOLDED, y, sampler[0], load)
    framed(g, title, [sampler, decode, *more], (x, y + below), decode[0])
    return decode


def known(g: Graph, title: str, at: tuple[int, int], load: Node, words: str) -> tuple[Node, Node]:
    """A training photograph in a frame: the picture with its caption, and the caption encoded."""
    x, y = at
    picture = folded(demo_picture(g, x, y, words))
    caption = folded(g.add("CLIPTextEncode", (x, y + 45), (300, 100), clip=load[1], text=picture[2]))
    framed(g, title, [picture, caption], (x, y + 95), picture[0])
    return picture, caption
