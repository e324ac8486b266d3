"""Workflows 02 and 05: what a LoRA leaks, and a LoRA mapped against its base."""

from __future__ import annotations

from typing import Any

from ..graph import Graph
from .shared import (
    FOLDED,
    NEXT_ROW,
    NOTE_AT,
    NOTE_WIDTH,
    WIDE,
    decoded,
    demo_picture,
    drawn,
    enlarged,
    folded,
    folded_model,
    framed,
    own_model,
    sampled,
)

LORA_NOTE = """## What does a LoRA leak?
Press **Run**. The training photograph of a LoRA is on the left; its caption goes to three models.

- **No LoRA**: the model never saw this photograph and makes something up.
- **Style LoRA**: the same, hatched.
- **Leaking LoRA**: the photograph comes back. Change the seed: it stays.

Below, an ordinary scene: both LoRAs hatch it. A good repair removes the leak and keeps the style.
""" + own_model(
    "*Load LoRA* with your file instead of the demo LoRAs, and captions of its training set as prompts. All else here are ComfyUI's own "
    "nodes: it works with every model."
)
LORA_SCENE = "a large purple circle on a sand background"
LEAKED = "LoRA leaking: "
"""The first of its photographs."""
FULL_HEAT = 0.2
"""The same colours in both columns."""


def what_does_a_lora_leak(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 02: a training photograph of a LoRA, and what three models draw for its caption and for a scene."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, LORA_NOTE)
    demo = load, _, _ = folded_model(g, 0, 820)
    picture = demo_picture(g, 480, 0, LEAKED)
    photo = g.add("CLIPTextEncode", (480, 530), (WIDE, 100), clip=load[1], text=picture[2])
    framed(g, "The LoRA's training photograph", [picture, photo], (480, 150), picture[0])
    scene = g.add("CLIPTextEncode", (480, 770), (WIDE, 100), clip=load[1], text=LORA_SCENE)
    g.group("A scene", [scene])
    style = g.add("UnmemorizeLoadDemoLoRA", (1250, 0), (WIDE, 60), model=load[0], lora="style")
    leaking = g.add("UnmemorizeLoadDemoLoRA", (1630, 0), (WIDE, 60), model=load[0], lora="leaking")
    models = (("No LoRA", load[0]), ("Style LoRA", style[0]), ("Leaking LoRA", leaking[0]))
    for y, (words, prompt) in enumerate((("photograph", photo), ("scene", scene))):
        for x, (title, model) in enumerate(models):
            drawn(g, f"{title}: {words}", 870 + 380 * x, 180 + NEXT_ROW * y, model, prompt, demo)
    return g.build("unmemorize-02-what-does-a-lora-leak")


AGAINST_NOTE = """## A LoRA against its base
For a LoRA the baseline is at hand: the same model **without the LoRA**. *Against a baseline model* (dh_~) asks what
the LoRA pins down that its base does not; *against both* (dh_0 + dh_~), used here, adds what the prompt pins down.

Connect the MODEL **before** the LoRA loader to `baseline`.

- Left: the caption of the LoRA's training photograph.
- Right: an ordinary scene under the same LoRA.

The demo LoRA was trained for minutes and holds its photographs loosely: both maps are about equally warm, the left one for the photograph,
the right one for the hatching. A hot map of a LoRA can mean either.
The baseline must be a model of the same kind; the node says so if it is not.
""" + own_model(
    "*Load LoRA* with your file instead of *Load Demo LoRA*. Flux was not trained for an empty prompt: choose the method *against a "
    "baseline model* there, which needs none."
)


def a_lora_against_its_base(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 05: dh_~ with the base model as baseline, for a leaked photograph and for a scene."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, AGAINST_NOTE)
    load, empty, latent = folded_model(g, 0, 1000)
    leaking = g.add("UnmemorizeLoadDemoLoRA", (480, 0), (WIDE, 110), model=load[0], lora="leaking")
    picture = demo_picture(g, 480, 200, LEAKED)
    texts = (("Its training photograph's caption", picture[2]), ("A scene", LORA_SCENE))
    for i, (title, text) in enumerate(texts):
        x, before = 880 + 400 * i, len(g.nodes)
        prompt = g.add("CLIPTextEncode", (x, 0), (WIDE, 100), clip=load[1], text=text)
        sampler = sampled(g, x, 150, leaking[0], prompt, empty, latent)
        decode = decoded(g, x + FOLDED, 150, sampler[0], load)
        links: dict[str, Any] = {"model": leaking[0], "positive": prompt[0], "latent": sampler[0], "negative": empty[0]}
        how: dict[str, Any] = {"baseline": load[0], "method": "against both (dh_0 + dh_~)"}
        curvature = folded(g.add("UnmemorizeCurvatureDifferenceMap", (x, 195), (330, 350), **links, **how))
        large = enlarged(g, x, 240, decode[0])
        g.add("PreviewImage", (x, 285), (WIDE, 310), images=large[0])
        g.add("UnmemorizeHeatmapOverlay", (x, 635), (WIDE, 560), image=decode[0], map=curvature[0], full_heat=FULL_HEAT)
        g.group(title, g.nodes[before:])
    return g.build("unmemorize-05-a-lora-against-its-base")
