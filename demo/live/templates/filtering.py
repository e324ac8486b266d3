"""Workflows 08, 18 and 19: a LoRA in two parts, the same in one node, and every channel of it."""

from __future__ import annotations

from typing import Any

from ..graph import Graph, Node
from .leaks import AS_CLEAN_LORA, ORDINARY, PROBED, SETTINGS, USED
from .lora import LEAKED
from .shared import COLUMNS, NEXT_ROW, NOTE_AT, NOTE_WIDTH, WIDE, compared, drawn, folded, folded_model, known, own_model

NOTE = """## Filter a LoRA
Press **Run**; it takes some minutes. The demo LoRA *leaking* carries a style, a hatching, and four photographs.
*Filter LoRA by Measuring* learns it anew from what it does to the prompts in the node: the style comes back, the photographs do not.

- **Above**: the caption of a training photograph. **Below**: an ordinary scene.
- **Before, after**: whole LoRA, filtered (hover to wipe).
- **Leak probes**: what many seeds agree on, before and after.

Next: 15 in one node, 18 by the weights alone in seconds, 19 every channel.
""" + own_model(
    "Your LoRA in *Open LoRA*, prompts you use it with, captions of its training set if you know some. The model must be the very one it "
    "was trained on. *Save Filtered LoRA* keeps the result."
)

ONE_NOTE = """## A filter in one node
Press **Run**. Two ways to the same filtered LoRA:

- *Load LoRA (BAF Filtered)* takes the place of *Load LoRA*.
- *Clean Applied LoRAs (BAF)* works on what any loader has applied.

Both pictures are that of the kept part: they are the same.

*Filter LoRA Folder* does it for every file of a folder. It is muted, because it writes files: select it and press Ctrl+M.
""" + own_model(
    "Your LoRA in the loader. The filter runs no model, so `cfg` does not matter to it. BAF cannot read GGUF models, and its first LoRA of "
    "a base takes seconds (SD1.5) to minutes (the largest models)."
)

INSIDE_NOTE = """## Inside a LoRA
Press **Run**. Every channel of the demo LoRA *leaking*: how strong it is, and how well it follows the base model (BAF's score *mean*).
Drag the threshold in the plot; press **Run** again to apply it.

*Save Filtered LoRA* is muted, because it writes a file: select it and press Ctrl+M.
""" + own_model("Your LoRA's file in *Open LoRA*, and the model it was trained on. No picture is drawn.")


def filter_a_lora(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 08: the leaking LoRA whole and filtered, for a training caption and a scene; probed before and after."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, NOTE)
    demo = load, _, latent = folded_model(g, 0, 650)
    picture, photo = known(g, "The LoRA's training photograph", (0, 755), load, LEAKED)
    opened = folded(g.add("UnmemorizeOpenLoRA", (COLUMNS[0], 0), (WIDE, 100), lora_name="demo/leaking"))
    links: dict[str, Any] = {"clip": load[1], "latent": latent[0], "captions": picture[2]}
    split = g.add(
        "UnmemorizeMeasuredLoRAFilter", (COLUMNS[0], 45), (WIDE, 600), lora=opened[0], model=load[0], info=opened[1], prompts=USED,
        **links, **AS_CLEAN_LORA,
    )  # fmt: skip
    scene = g.add("CLIPTextEncode", (COLUMNS[0], 1060), (WIDE, 100), clip=load[1], text=ORDINARY)
    parts = zip((COLUMNS[1], COLUMNS[1] + 185), (opened[0], split[0]), strict=True)
    whole, kept = (folded(g.add("LoraModelLoader", (at, 0), (300, 100), model=load[0], lora=part)) for at, part in parts)
    both = (whole[0], kept[0])
    for row, (words, prompt) in enumerate((("photograph", photo), ("scene", scene))):
        y = 45 + NEXT_ROW * row
        at: dict[str, Any] = {"beside": (COLUMNS[1], y), "at": (COLUMNS[1], y + 90), "apart": 0}
        compared(g, f"Whole, and filtered: {words}", both, prompt, demo, *([whole, kept] if row == 0 else []), **at)
    asked: dict[str, Any] = {"base": load[0], "vae": load[2], **links, "pictures": PROBED, "groups": 4, **SETTINGS}
    probes = [g.add("UnmemorizeLoRALeakProbe", (COLUMNS[2 + k], 90), (WIDE, 810), lora=m[0], **asked) for k, m in enumerate((whole, kept))]
    for words, node in zip(("before", "after"), probes, strict=True):
        g.group(f"Leak probe: {words}", [node])
    return g.build("unmemorize-08-filter-a-lora")


def a_filter_in_one_node(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 18: a filter while loading, and one behind any loader."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, ONE_NOTE)
    demo = load, _, _ = folded_model(g, 0, 650)
    _, caption = known(g, "The LoRA's training photograph", (0, 755), load, LEAKED)
    loaded = g.add("UnmemorizeLoadLoRABAF", (480, 0), (WIDE, 460), model=load[0], lora_name="demo/leaking")
    applied = g.add("UnmemorizeLoadDemoLoRA", (870, 0), (WIDE, 60), model=load[0], lora="leaking")
    cleaned = g.add("UnmemorizeCleanAppliedLoRAs", (870, 150), (WIDE, 400), model=applied[0])
    drawn(g, "Load LoRA (BAF Filtered)", 1260, 0, loaded[0], caption, demo)
    drawn(g, "Clean Applied LoRAs (BAF)", 1260, NEXT_ROW, cleaned[0], caption, demo)
    folder = g.add("UnmemorizeFilterLoRAFolder", (1650, 0), (WIDE, 480), model=load[0], folder="demo", output="filtered")
    folder.muted = True
    return g.build("unmemorize-18-a-filter-in-one-node")


def inside_a_lora(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 19: every channel of a LoRA with its score."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, INSIDE_NOTE)
    load = g.add("UnmemorizeLoadDemoCheckpoint", (0, 560), (NOTE_WIDTH, 60))
    opened = g.add("UnmemorizeOpenLoRA", (480, 0), (WIDE, 100), lora_name="demo/leaking")
    links: dict[str, Any] = {"lora": opened[0], "model": load[0], "info": opened[1]}
    split = g.add("UnmemorizeBAFFilterLoRA", (480, 140), (WIDE, 460), score="BAF, both sides of a channel (mean)", **links)
    save: Node = g.add("UnmemorizeSaveFilteredLoRA", (480, 900), (WIDE, 120), lora=split[0], info=split[2], name="filtered/demo-leaking")
    save.muted = True
    g.add("UnmemorizeLoRASpectrumPlot", (870, 0), (900, 900), spectrum=split[4])
    return g.build("unmemorize-19-inside-a-lora")
