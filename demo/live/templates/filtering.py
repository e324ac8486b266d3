"""Workflow 08: a LoRA in two parts, what is kept and what is removed."""

from __future__ import annotations

from typing import Any

from ..graph import Graph, Node
from .lora import LEAKED, LORA_SCENE
from .shared import NOTE_AT, NOTE_WIDTH, demo_model, demo_picture, own_model, sampled

NOTE = """## Filter a LoRA
Press **Run**. The demo LoRA *leaking* carries a style, a hatching, and four photographs. *BAF Filter LoRA* splits it in two that add up
to it. By default what the LoRA changed in how the picture reads the prompt goes.
On this LoRA the kept part still copies, and its hatching fades.

- **Rows**: the caption of a training photograph, and an ordinary scene.
- **Columns**: the whole LoRA, the kept part, the removed part alone. Where did the photograph go, and where the style?
- **Below left**: every channel of the LoRA, kept and removed.

Set `score` to *mean* for BAF, an **experimental reconstruction**, and compare with the controls (*singular value*, *random*, *inverted*):
a filter must beat them to be worth anything. A concept that hangs on a trigger word goes with the memories.
""" + own_model(
    "Your LoRA: its file in *Open LoRA*, captions of its training set as prompts. The base must be the very model it was trained on. "
    "The filter runs no model, so `cfg` does not matter to it. Measured on style LoRAs of a U-Net; see the help of the node for others. "
    "BAF cannot read GGUF models, and its first LoRA of a base takes seconds (SD1.5) to minutes (the largest models)."
)
MORE_NOTE = """## The same in one node
*Load LoRA (BAF Filtered)* takes the place of *Load LoRA*. *Clean Applied LoRAs (BAF)* works on what any loader has applied.
Both pictures are that of the kept part.

*Save Filtered LoRA* and *Filter LoRA Folder* are muted, because they write files: select one and press Ctrl+M to try it.
"""


def filter_a_lora(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 08: whole, kept and removed part of the leaking LoRA; plot; save; the one-node ways."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, NOTE)
    load, empty, latent = demo_model(g)
    opened = g.add("UnmemorizeOpenLoRA", (430, -20), (330, 100), lora_name="demo/leaking")
    split = g.add("UnmemorizeBAFFilterLoRA", (430, 140), (330, 460), lora=opened[0], model=load[0], info=opened[1])
    save = g.add("UnmemorizeSaveFilteredLoRA", (430, 660), (330, 120), lora=split[0], info=split[2], name="filtered/demo-leaking")
    save.muted = True
    g.add("UnmemorizeLoRASpectrumPlot", (40, 960), (720, 760), spectrum=split[4])
    picture = demo_picture(g, 820, -20, LEAKED)
    g.add("PreviewImage", (820, 150), (300, 220), "The training photograph", images=picture[0])
    photo = g.add("CLIPTextEncode", (820, 430), (300, 100), "Its caption", clip=load[1], text=picture[2])
    scene = g.add("CLIPTextEncode", (820, 700), (300, 100), "A scene", clip=load[1], text=LORA_SCENE)
    models = []
    for x, (title, part) in enumerate((("The whole LoRA", opened[0]), ("Kept part", split[0]), ("Removed part alone", split[1]))):
        loader = g.add("LoraModelLoader", (1180 + 340 * x, -180), (300, 100), title, model=load[0], lora=part)
        models.append((title, loader[0]))
    for y, prompt in enumerate((photo, scene)):
        for x, (title, model) in enumerate(models):
            _cell(g, 1180 + 340 * x, -20 + 620 * y, title, model, (prompt, empty, latent, load))
    _one_node_ways(g, models[0][1], (photo, empty, latent, load))
    return g.build("unmemorize-08-filter-a-lora")


def _one_node_ways(g: Graph, applied: Any, scene: tuple[Node, Node, Node, Node]) -> None:
    load = scene[3]
    g.note((2260, -180), 340, MORE_NOTE)
    loaded = g.add("UnmemorizeLoadLoRABAF", (2260, 140), (340, 460), model=load[0], lora_name="demo/leaking")
    cleaned = g.add("UnmemorizeCleanAppliedLoRAs", (2260, 680), (340, 400), model=applied)
    ways = (("Load LoRA (BAF Filtered)", loaded[0]), ("Clean Applied LoRAs (BAF)", cleaned[0]))
    pictures = [_picture(g, 2660, -20 + 420 * y, title, model, scene) for y, (title, model) in enumerate(ways)]
    both = g.add("ImageBatch", (2660, 840), (300, 60), image1=pictures[0][0], image2=pictures[1][0])
    g.add("PreviewImage", (2660, 960), (300, 250), "Twice the kept part's picture", images=both[0])
    folder = g.add("UnmemorizeFilterLoRAFolder", (2260, 1160), (340, 480), model=load[0], folder="demo", output="filtered")
    folder.muted = True


def _cell(g: Graph, x: int, y: int, title: str, model: Any, scene: tuple[Node, Node, Node, Node]) -> None:
    g.add("PreviewImage", (x, y + 390), (300, 190), title, images=_picture(g, x, y, title, model, scene)[0])


def _picture(g: Graph, x: int, y: int, title: str, model: Any, scene: tuple[Node, Node, Node, Node]) -> Node:
    """A sampler and its decoder."""
    prompt, empty, latent, load = scene
    sampler = sampled(g, x, y, model, prompt, empty, latent, title)
    return g.add("VAEDecode", (x, y + 310), (300, 50), samples=sampler[0], vae=load[2])
