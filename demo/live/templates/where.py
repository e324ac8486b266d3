"""Workflow 01: where is it memorized?"""

from __future__ import annotations

from typing import Any

from ..graph import Graph, Node
from .shared import CAT, FOLDED, ORDINARY, SAMPLING, TEMPLATE, WIDE, enlarged, folded

COLUMNS = (
    ("A memorized photograph", CAT),
    ("A memorized template", TEMPLATE),
    ("A scene the model invents", ORDINARY),
)
APART = 400
"""From one column to the next."""
NOTE = """## Where is it memorized?
Press **Run**. Each column: words, the picture a model draws from them, and where it is *remembering*. **Hot = the prompt pins this
spot down.**

The badge says whether that is more than in this model's clean pictures. The first column asks for a circle and gets a photograph from
the training set, for every seed; of the second only the card is stored; the third is new each time. Evidence, no proof.

Drag the white line over a heatmap. Next: 03 for a picture of yours, 06 for a sampler that notices.
"""


def where_is_it_memorized(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 01: a memorized photograph, a template and a clean scene, each with its map, on one screen."""
    g = Graph(object_info)
    g.note((0, 60), 330, NOTE)
    load = g.add("UnmemorizeLoadDemoCheckpoint", (0, 520), (330, 60))
    threshold = g.add("UnmemorizeLoadMapThreshold", (0, 680), (330, 60), threshold="demo/demo")
    empty = g.add("CLIPTextEncode", (0, 830), (330, 90), clip=load[1], text="")
    latent = g.add("EmptyLatentImage", (0, 970), (330, 110), width=128, height=128, batch_size=1)
    for i, (title, caption) in enumerate(COLUMNS):
        _column(g, APART * (i + 1), title, caption, (load, empty, latent, threshold))
    return g.build("unmemorize-01-where-is-it-memorized")


def _column(g: Graph, x: int, title: str, caption: str, demo: tuple[Node, Node, Node, Node]) -> None:
    load, empty, latent, threshold = demo
    before = len(g.nodes)
    prompt = g.add("CLIPTextEncode", (x, 0), (WIDE, 100), clip=load[1], text=caption)
    links: dict[str, Any] = {"positive": prompt[0], "negative": empty[0]}
    sampler = g.add("KSampler", (x, 150), (300, 270), model=load[0], seed=1, latent_image=latent[0], **links, **SAMPLING)
    decode = g.add("VAEDecode", (x + FOLDED, 150), (250, 50), samples=sampler[0], vae=load[2])
    large = enlarged(g, x, 240, decode[0])
    g.add("PreviewImage", (x, 285), (WIDE, 310), images=large[0])
    measured = g.add("UnmemorizeCurvatureDifferenceMap", (x, 195), (330, 390), model=load[0], latent=sampler[0], **links)
    look: dict[str, Any] = {"image": decode[0], "map": measured[0], "calibration": threshold[0]}
    g.add("UnmemorizeHeatmapOverlay", (x, 635), (WIDE, 560), **look)
    for plumbing in (sampler, decode, measured):
        folded(plumbing)
    g.group(title, g.nodes[before:])
