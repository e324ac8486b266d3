"""Workflows 14 and 15: one question, one node; and a LoRA probed, cleaned in three ways, compared epoch by epoch."""

from __future__ import annotations

from typing import Any

from ..graph import Graph
from .copies import MEMORIZED
from .shared import NOTE_AT, NOTE_WIDTH, SAMPLING, demo_model, own_model

CHECK_NOTE = """## Does this prompt recall a training picture?
Press **Run**. *Memorization Check* draws the prompt and answers: in words, with the picture and a heatmap of what is recalled.

Try an ordinary prompt, "a small red circle on a gray background".
""" + own_model("Its first run on a new model takes as long as 50 pictures: what is ordinary for it is measured once, and kept.")

CLEAN_NOTE = """## What does a LoRA give back, and how is it cleaned?
Press **Run**. The demo LoRA *leaking* carries a hatching and four photographs.

- *LoRA Leak Probe* draws beyond it and groups pictures that agree more than the model's own do: what comes again was learnt by heart.
- *Clean LoRA* takes the place of *Load LoRA*. Without captions it goes by the weights.
- *Filter LoRA by Measuring* asks the model what each group of layers does for captions you know: slower, and kinder to the style.
- *Best Epoch* compares the LoRAs of a folder, here the two of the demo: which leaks, which has learnt most?
""" + own_model("Your LoRA's file in *Open LoRA* and *Clean LoRA*, and some captions it was trained with.")
PROBED, STEPS = 16, 8
"""Pictures of the probe, and steps of what is measured: few, for a first look."""


def check_a_prompt(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 14: Memorization Check on a memorized prompt."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, CHECK_NOTE)
    load, _, latent = demo_model(g)
    settings = {k: v for k, v in SAMPLING.items() if k != "denoise"}
    check = g.add(
        "UnmemorizeMemorizationCheck", (410, -20), (400, 620), model=load[0], clip=load[1], vae=load[2], latent=latent[0], prompt=MEMORIZED,
        seed=1, **settings,
    )  # fmt: skip
    g.add("PreviewImage", (860, -20), (340, 360), "Heatmap", images=check[0])
    g.add("PreviewImage", (860, 400), (340, 360), "Picture", images=check[1])
    return g.build("unmemorize-14-check-a-prompt")


def clean_a_lora(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 15: probe, clean, filter by measuring, compare."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, CLEAN_NOTE)
    load, _, latent = demo_model(g)
    names = g.object_info["UnmemorizeLoadDemoPicture"]["input"]["required"]["picture"][1]["options"]
    photo = g.add("UnmemorizeLoadDemoPicture", (40, 520), (300, 120), picture=next(n for n in names if "rocket" in n))
    settings = {k: v for k, v in SAMPLING.items() if k != "denoise"} | {"seed": 1, "steps": STEPS}
    links: dict[str, Any] = {"clip": load[1], "latent": latent[0]}
    opened = g.add("UnmemorizeOpenLoRA", (410, -20), (330, 100), lora_name="demo/leaking")
    under = g.add("LoraModelLoader", (410, 150), (330, 100), model=load[0], lora=opened[0])
    g.add(
        "UnmemorizeLoRALeakProbe", (790, -20), (420, 760), base=load[0], lora=under[0], vae=load[2], **links, captions=photo[2],
        pictures=PROBED, groups=4, **settings,
    )  # fmt: skip
    g.add("UnmemorizeMeasuredLoRAFilter", (1260, -20), (420, 560), model=load[0], lora=opened[0], info=opened[1], captions=photo[2],
          **links, **settings)  # fmt: skip
    g.add("UnmemorizeCleanLoRA", (1730, -20), (400, 360), model=load[0], clip=load[1], lora_name="demo/leaking")
    references = g.add("UnmemorizeReferencePictures", (1730, 420), (400, 170), folder="none", images=photo[0])
    g.add(
        "UnmemorizeBestEpoch", (2180, -20), (420, 760), model=load[0], vae=load[2], **links, folder="demo", captions=photo[2],
        references=references[0], copy_limit=0.3, **settings,
    )  # fmt: skip
    return g.build("unmemorize-15-clean-a-lora")
