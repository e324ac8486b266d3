"""Workflows 14 and 15: one question, one node; and a LoRA probed, cleaned in three ways, compared epoch by epoch."""

from __future__ import annotations

from typing import Any

from ..graph import Graph
from .lora import LEAKED
from .shared import CAT, NOTE_AT, NOTE_WIDTH, SAMPLING, demo_model, own_model, sampled

CHECK_NOTE = """## Does this prompt recall a training picture?
Press **Run**. *Memorization Check* draws the prompt and answers: in words, with the picture and a heatmap of what is recalled.

Try an ordinary prompt, "a small red circle on a gray background".
""" + own_model("Its first run on a new model takes as long as 50 pictures: what is ordinary for it is measured once, and kept.")

CLEAN_NOTE = """## What does a LoRA give back, and how is it cleaned?
Press **Run**. The demo LoRA *leaking* carries a hatching and four photographs.

- *LoRA Leak Probe* draws beyond it and groups pictures that agree more than the model's own do: what comes again was learnt by heart.
- *Clean LoRA* takes the place of *Load LoRA*. Without captions it goes by the weights.
- *Filter LoRA by Measuring* draws a caption you know and prompts you use, and solves for the LoRA that keeps the style without the caption.
- On the right: above, the training caption; below, an ordinary prompt, which should keep the hatching.
On this LoRA neither way does it: measuring finds no leak and removes nothing, *Clean LoRA* takes the hatching and leaves the photograph.
- *Best Epoch* compares the epochs of one training: which leaks, which has learnt most? It is muted: choose your folder, and press Ctrl+M.
""" + own_model("Your LoRA's file in *Open LoRA* and *Clean LoRA*, and some captions it was trained with.")
USED = """a small red circle on a gray background
a large orange square on a white background
a small yellow ring on a black background
a large blue triangle on a black background
a small purple cross on a sand background
a large purple star on a black background
a small cyan square on a brown background
a large pink circle on a teal background"""
"""Prompts that the demo LoRA is used with."""
ORDINARY = "a large yellow star on a white background"
"""None of them, and no caption of the LoRA's: does it still bring its style?"""
PROBED = 12
"""Pictures of the probe: few, for a first look."""
TITLES = ("The whole LoRA", "Filtered by measuring", "Clean LoRA")


def check_a_prompt(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 14: Memorization Check on a memorized prompt."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, CHECK_NOTE)
    load, _, latent = demo_model(g)
    settings = {k: v for k, v in SAMPLING.items() if k != "denoise"}
    check = g.add(
        "UnmemorizeMemorizationCheck", (410, -20), (400, 620), model=load[0], clip=load[1], vae=load[2], latent=latent[0], prompt=CAT,
        seed=1, **settings,
    )  # fmt: skip
    g.add("PreviewImage", (860, -20), (340, 360), "Heatmap", images=check[0])
    g.add("PreviewImage", (860, 400), (340, 360), "Picture", images=check[1])
    return g.build("unmemorize-14-check-a-prompt")


def clean_a_lora(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 15: probe, clean, filter by measuring, compare."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, CLEAN_NOTE)
    load, empty, latent = demo_model(g)
    names = g.object_info["UnmemorizeLoadDemoPicture"]["input"]["required"]["picture"][1]["options"]
    photo = g.add("UnmemorizeLoadDemoPicture", (40, 520), (300, 120), picture=next(n for n in names if n.startswith(LEAKED)))
    settings = {k: v for k, v in SAMPLING.items() if k != "denoise"} | {"seed": 1}
    links: dict[str, Any] = {"clip": load[1], "latent": latent[0]}
    opened = g.add("UnmemorizeOpenLoRA", (410, -20), (330, 100), lora_name="demo/leaking")
    under = g.add("LoraModelLoader", (410, 150), (330, 100), model=load[0], lora=opened[0])
    g.add(
        "UnmemorizeLoRALeakProbe", (790, -20), (420, 760), base=load[0], lora=under[0], vae=load[2], **links, captions=photo[2],
        pictures=PROBED, groups=4, **settings,
    )  # fmt: skip
    measured = g.add(
        "UnmemorizeMeasuredLoRAFilter", (1260, -20), (420, 560), model=load[0], lora=opened[0], info=opened[1], captions=photo[2],
        prompts=USED, **links, **settings,
    )  # fmt: skip
    filtered = g.add("LoraModelLoader", (1260, 600), (420, 100), model=load[0], lora=measured[0])
    clean = g.add("UnmemorizeCleanLoRA", (1730, -20), (400, 360), model=load[0], clip=load[1], lora_name="demo/leaking")
    caption = g.add("CLIPTextEncode", (1730, 420), (400, 110), clip=load[1], text=photo[2])
    other = g.add("CLIPTextEncode", (1730, 780), (400, 110), clip=load[1], text=ORDINARY)
    for y, words in ((-20, caption), (780, other)):
        for k, model in enumerate((under[0], filtered[0], clean[0])):
            drawn = sampled(g, 2180 + 330 * k, y, model, words, empty, latent)
            decoded = g.add("VAEDecode", (2180 + 330 * k, y + 340), (300, 50), samples=drawn[0], vae=load[2])
            g.add("PreviewImage", (2180 + 330 * k, y + 440), (300, 300), TITLES[k], images=decoded[0])
    epochs = g.add(
        "UnmemorizeBestEpoch", (3180, -20), (420, 760), model=load[0], vae=load[2], **links, folder="demo", captions=photo[2], **settings,
    )  # fmt: skip
    epochs.muted = True
    return g.build("unmemorize-15-clean-a-lora")
