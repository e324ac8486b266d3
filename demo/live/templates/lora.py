"""Workflows 02 and 05: what a LoRA leaks, and a LoRA mapped against its base."""

from __future__ import annotations

from typing import Any

from ..graph import Graph, Node
from .shared import NOTE_AT, NOTE_WIDTH, demo_model, demo_picture, own_model, sampled

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
LEAKED = "rocket before launch"


def what_does_a_lora_leak(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 02: a training photograph of a LoRA, and what three models draw for its caption and for a scene."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, LORA_NOTE)
    load, empty, latent = demo_model(g)
    picture = demo_picture(g, 430, 0, LEAKED)
    g.add("PreviewImage", (430, 180), (330, 260), "The LoRA's training photograph", images=picture[0])
    photo = g.add("CLIPTextEncode", (430, 510), (330, 100), "Its caption", clip=load[1], text=picture[2])
    scene = g.add("CLIPTextEncode", (430, 680), (330, 100), "A scene", clip=load[1], text=LORA_SCENE)
    style = g.add("UnmemorizeLoadDemoLoRA", (820, -180), (300, 110), model=load[0], lora="style")
    leaking = g.add("UnmemorizeLoadDemoLoRA", (1160, -180), (300, 110), model=load[0], lora="leaking")
    models = (("No LoRA", load[0]), ("Style LoRA", style[0]), ("Leaking LoRA", leaking[0]))
    for y, prompt in enumerate((photo, scene)):
        for x, (title, model) in enumerate(models):
            _lora_cell(g, 820 + 340 * x, 20 + 640 * y, title, model, prompt, empty, latent, load)
    return g.build("unmemorize-02-what-does-a-lora-leak")


def _lora_cell(g: Graph, x: int, y: int, title: str, model: Any, prompt: Node, empty: Node, latent: Node, load: Node) -> None:
    sampler = sampled(g, x, y, model, prompt, empty, latent, title)
    decode = g.add("VAEDecode", (x, y + 320), (300, 50), samples=sampler[0], vae=load[2])
    g.add("PreviewImage", (x, y + 410), (300, 200), title, images=decode[0])


AGAINST_NOTE = """## A LoRA against its base
For a LoRA the baseline is at hand: the same model **without the LoRA**. `dh_~` asks what the LoRA pins down that its base
does not; `dh_0 + dh_~`, used here, adds what the prompt pins down.

Connect the MODEL **before** the LoRA loader to `baseline`.

- Above: the caption of the LoRA's training photograph.
- Below: an ordinary scene under the same LoRA.

The demo LoRA was trained for minutes and holds its photographs loosely: the upper map stays nearly cold. The hatched ground below is hot:
the style is what this LoRA holds firmly. A hot map of a LoRA can mean either.
The baseline must be a model of the same kind; the node says so if it is not.
""" + own_model(
    "*Load LoRA* with your file instead of *Load Demo LoRA*. Flux was not trained for an empty prompt: choose the method `dh_~` there, "
    "which needs none."
)


def a_lora_against_its_base(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 05: dh_~ with the base model as baseline, for a leaked photograph and for a scene."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, AGAINST_NOTE)
    load, empty, latent = demo_model(g)
    leaking = g.add("UnmemorizeLoadDemoLoRA", (400, -20), (300, 110), model=load[0], lora="leaking")
    picture = demo_picture(g, 400, 150, LEAKED)
    texts = (("Its training photograph's caption", picture[2]), ("A scene", LORA_SCENE))
    for row, (title, text) in enumerate(texts):
        y = 330 + 330 * row
        prompt = g.add("CLIPTextEncode", (400, y), (300, 100), title, clip=load[1], text=text)
        x = 760
        sampler = sampled(g, x, -20 + 600 * row, leaking[0], prompt, empty, latent)
        decode = g.add("VAEDecode", (x, 310 + 600 * row), (300, 50), samples=sampler[0], vae=load[2])
        curvature = g.add(
            "UnmemorizeCurvatureDifferenceMap",
            (x + 340, -20 + 600 * row),
            (330, 350),
            model=leaking[0],
            positive=prompt[0],
            latent=sampler[0],
            negative=empty[0],
            baseline=load[0],
            method="dh_0 + dh_~",
        )
        g.add("PreviewImage", (x, 400 + 600 * row), (300, 150), "Picture", images=decode[0])
        g.add("UnmemorizeHeatmapOverlay", (x + 710, -20 + 600 * row), (330, 480), image=decode[0], map=curvature[0], full_heat=0.2)
    return g.build("unmemorize-05-a-lora-against-its-base")
