"""Workflows 14 to 17: one question, one node; a LoRA cleaned, probed, compared epoch by epoch."""

from __future__ import annotations

from typing import Any

from ..graph import Graph
from .lora import LEAKED
from .shared import (
    CAT,
    COLUMNS,
    NEXT_ROW,
    NOTE_AT,
    NOTE_WIDTH,
    SAMPLING,
    WIDE,
    demo_picture,
    drawn,
    folded,
    folded_model,
    framed,
    known,
    own_model,
)

CHECK_NOTE = """## Does this prompt recall a training picture?
Press **Run**. *Memorization Check* draws the prompt and answers: in words, with the picture and a heatmap of what is recalled.

Try an ordinary prompt, "a small red circle on a gray background".
""" + own_model("Its first run on a new model takes as long as 50 pictures: what is ordinary for it is measured once, and kept.")

PROBE_NOTE = """## What did a LoRA learn by heart?
Press **Run**. *LoRA Leak Probe* draws beyond the demo LoRA *leaking* and groups pictures that agree, and that the base model does not draw:
what comes again and again was learnt by heart. It needs no training data.

At the right one of the photographs that the LoRA was trained on. Next: 15 cleans it.
""" + own_model(
    "*Load LoRA* with your file, and a caption you know, or its trigger word. 64 pictures and more are good; 12 are a first look."
)

CLEAN_NOTE = """## Clean a LoRA
Press **Run**; it takes some minutes, once. The demo LoRA *leaking* carries a hatching and four photographs. *Clean LoRA* takes the place of
*Load LoRA*: it learns the LoRA anew from what it does to prompts that you use it with, and leaves out what it remembers.

**Above** the training caption; **below** an ordinary prompt, which keeps the hatching. Next: 16 what leaks, 17 which epoch.
""" + own_model("Your LoRA's file in both nodes, prompts you use it with, and captions it was trained with if you know some.")

EPOCHS_NOTE = """## Which epoch leaks least?
Press **Run**. *Best Epoch* compares the LoRAs of a folder, here the demo's three: which leaks the caption, which has learnt most? It
suggests the one that has learnt most among those that leak nothing.
""" + own_model("The folder with your training's epochs, and four to eight captions that it was trained with.")
USED = """a small red circle on a gray background
a large orange square on a white background
a small yellow ring on a black background
a large blue triangle on a black background
a small purple cross on a sand background
a large purple star on a black background
a small cyan square on a brown background
a large pink circle on a teal background"""
"""Prompts that the demo LoRA is used with."""
ORDINARY = "a large yellow square on a teal background"
"""None of them, and no caption of the LoRA's: does it still bring its style?"""
PHOTOGRAPH = "A training photograph of the LoRA"
PROBED = 12
"""Pictures of the probe: few, for a first look."""
SETTINGS = {k: v for k, v in SAMPLING.items() if k != "denoise"} | {"seed": 1}
AS_CLEAN_LORA = SETTINGS | {"seed": 0, "cfg": 4.0}
"""Clean LoRA's own runs: what one of the two filters has learnt, the other finds."""


def check_a_prompt(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 14: Memorization Check on a memorized prompt."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, CHECK_NOTE)
    load = g.add("UnmemorizeLoadDemoCheckpoint", (0, 500), (NOTE_WIDTH, 60))
    latent = g.add("EmptyLatentImage", (0, 640), (NOTE_WIDTH, 110), width=128, height=128, batch_size=1)
    links: dict[str, Any] = {"model": load[0], "clip": load[1], "vae": load[2], "latent": latent[0]}
    check = g.add("UnmemorizeMemorizationCheck", (480, 0), (420, 620), **links, prompt=CAT, **SETTINGS)
    framed(g, "Where", [], (950, 0), check[0])
    framed(g, "The picture", [], (950, NEXT_ROW), check[1])
    g.app(inputs=[(check, "prompt"), (check, "seed")], outputs=[node for node in g.nodes if node.type == "PreviewImage"])
    return g.build("unmemorize-14-check-a-prompt")


def clean_a_lora(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 15: a LoRA whole, and cleaned in one node."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, CLEAN_NOTE)
    demo = load, _, latent = folded_model(g, 0, 560)
    photo, caption = known(g, PHOTOGRAPH, (0, 665), load, LEAKED)
    links: dict[str, Any] = {"clip": load[1], "latent": latent[0], "captions": photo[2], "prompts": USED}
    clean = g.add("UnmemorizeCleanLoRA", (COLUMNS[0], 0), (WIDE, 520), model=load[0], lora_name="demo/leaking", **links)
    whole = folded(g.add("UnmemorizeLoadDemoLoRA", (COLUMNS[1], 0), (300, 60), model=load[0], lora="leaking"))
    other = g.add("CLIPTextEncode", (COLUMNS[0], 1060), (WIDE, 100), clip=load[1], text=ORDINARY)
    models: tuple[tuple[str, Any, list[Any]], ...] = (("The whole LoRA", whole, [whole]), ("Cleaned", clean, []))
    for k, (title, model, inside) in enumerate(models):
        drawn(g, title, COLUMNS[1 + k], 45, model[0], caption, demo, *inside)
        drawn(g, f"{title}: scene", COLUMNS[1 + k], 45 + NEXT_ROW, model[0], other, demo)
    cleaned = [n for n in g.nodes if n.type == "PreviewImage" and n.pos[0] >= COLUMNS[2]]
    g.app(inputs=[(clean, "lora_name"), (clean, "prompts")], outputs=cleaned)
    return g.build("unmemorize-15-clean-a-lora")


def probe_a_lora(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 16: what comes again and again from a LoRA."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, PROBE_NOTE)
    load, _, latent = folded_model(g, 0, 560)
    under = g.add("UnmemorizeLoadDemoLoRA", (0, 630), (NOTE_WIDTH, 60), model=load[0], lora="leaking")
    photo = folded(demo_picture(g, 1120, 0, LEAKED))
    framed(g, PHOTOGRAPH, [photo], (1120, 50), photo[0])
    links: dict[str, Any] = {"base": load[0], "lora": under[0], "clip": load[1], "vae": load[2], "latent": latent[0]}
    g.add(
        "UnmemorizeLoRALeakProbe", (480, 0), (600, 900), **links, captions=photo[2], pictures=PROBED, groups=4, **SETTINGS,
    )  # fmt: skip
    return g.build("unmemorize-16-probe-a-lora")


def compare_epochs(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 17: the LoRAs of a folder, side by side."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, EPOCHS_NOTE)
    load, _, latent = folded_model(g, 0, 500)
    photo = folded(demo_picture(g, 1120, 0, LEAKED))
    framed(g, PHOTOGRAPH, [photo], (1120, 50), photo[0])
    links: dict[str, Any] = {"model": load[0], "clip": load[1], "vae": load[2], "latent": latent[0]}
    g.add("UnmemorizeBestEpoch", (480, 0), (600, 900), **links, folder="demo", captions=photo[2], **SETTINGS)
    return g.build("unmemorize-17-compare-epochs")
