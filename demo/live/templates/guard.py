"""Workflows 06 and 07: a guarded sampler beside the stock one, and a guard for any sampler with a profile measured in the graph."""

from __future__ import annotations

from typing import Any

from ..graph import Graph, Node
from .shared import (
    DRAWING,
    GUARD_AT_CFG_1,
    NOTE_WIDTH,
    ORDINARY,
    SAMPLING,
    WIDE,
    demo_picture,
    folded,
    folded_model,
    own_model,
)

GUARD_NOTE = """## A sampler that notices memories
Press **Run**. In each frame, left: the stock KSampler. Right: *KSampler (Stability Guard)* in mode *correct*, same seed.

- **Memorized scene**: the stock sampler draws the same picture for every seed. The guard notices while sampling and draws another one
  that mostly obeys the words.
- **Ordinary scene**: nothing is noticed, and both pictures are the same bit for bit.

The charts show the runs against the band of clean ones. A drawing's run leaves it a little, taken together; a photograph's far
(workflow 07).

`parent` is a model that has not stored the picture: here an older checkpoint. With a LoRA, it is the model before the LoRA.
""" + own_model(
    "The profile belongs to one model and its `cfg`: measure yours with *Calibrate Stability Profile* (workflow 07). " + GUARD_AT_CFG_1
)
CASES = (
    ("A memorized scene", DRAWING, 1),
    ("An ordinary scene", ORDINARY, 1),
)


def guard_the_sampler(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 06: stock and guarded sampler, for a memory and for a clean scene."""
    g = Graph(object_info)
    g.note((0, 60), NOTE_WIDTH, GUARD_NOTE)
    load, empty, latent = folded_model(g, 0, 730)
    early = g.add("UnmemorizeLoadDemoCheckpoint", (0, 810), (NOTE_WIDTH, 60), "An older checkpoint", stage="early")
    profile = g.add("UnmemorizeLoadStabilityProfile", (0, 960), (NOTE_WIDTH, 60), profile="demo/demo")
    for i, (title, caption, seed) in enumerate(CASES):
        x, before = 480 + 790 * i, len(g.nodes)
        prompt = g.add("CLIPTextEncode", (x, 0), (WIDE, 100), "Prompt", clip=load[1], text=caption)
        links: dict[str, Any] = {"model": load[0], "positive": prompt[0], "negative": empty[0], "latent_image": latent[0], "seed": seed}
        stock = folded(g.add("KSampler", (x + 380, 20), (300, 270), **links, **SAMPLING))
        look: dict[str, Any] = {"mode": "correct", "profile": profile[0], "parent": early[0]}
        guarded = g.add("UnmemorizeKSamplerStabilityGuard", (x, 520), (WIDE, 590), **links, **SAMPLING, **look)
        shown(g, x, 150, stock, load, "Stock KSampler", (x + 500, 20))
        shown(g, x + 380, 150, guarded, load, "Under guard", (x + 620, 20))
        g.add("UnmemorizeStabilityChart", (x + 380, 520), (WIDE, 590), report=guarded[3])
        g.group(title, g.nodes[before:])
    return g.build("unmemorize-06-guard-the-sampler")


def shown(g: Graph, x: int, y: int, sampler: Node, load: Node, title: str, decoder: tuple[int, int] | None = None) -> Node:
    """A sampler's picture; returns its decoder, which stands over the picture, or folded at another place."""
    decode = g.add("VAEDecode", decoder or (x, y), (260, 50), samples=sampler[0], vae=load[2])
    decode.collapsed = decoder is not None
    place, size = ((x, y), (WIDE, 320)) if decoder else ((x, y + 90), (260, 190))
    g.add("PreviewImage", place, size, title, images=decode[0])
    return decode


ANY_NOTE = """## A guard for any sampler
*Stability Guard* goes between the model and **any** sampler: here SamplerCustomAdvanced. *Stability Chart* waits for the sampler
and shows what the guard saw.

Every model needs a profile once:

1. *Calibrate Stability Profile* samples ordinary prompts; the result is kept while nothing of it changes.
2. *Save Stability Profile* keeps it for other graphs: there, *Load Stability Profile* is enough. It is muted, because it writes a file:
select it and press Ctrl+M.

*Stock run* recalls a photograph. *Under guard* it is noticed and sampled again by `parent`, an older checkpoint.

With a **LoRA**, the parent is the model before the LoRA loader. Calibrate with the LoRA and that parent connected.
""" + own_model("Ordinary prompts of your model in *Calibrate Stability Profile*; 50 are good. " + GUARD_AT_CFG_1)
CLEAN_PROMPTS = "\n".join(
    f"a {size} {colour} {shape} on a {ground} background"
    for size, colour, shape, ground in (
        ("small", "red", "circle", "gray"), ("large", "blue", "square", "sand"), ("small", "green", "star", "white"),
        ("large", "yellow", "cross", "black"), ("small", "red", "ring", "navy"), ("large", "purple", "triangle", "brown"),
        ("small", "orange", "circle", "navy"), ("large", "pink", "star", "gray"), ("small", "blue", "ring", "sand"),
        ("large", "red", "square", "white"), ("small", "red", "triangle", "teal"), ("large", "green", "circle", "black"),
        ("small", "purple", "cross", "white"), ("large", "cyan", "star", "brown"), ("small", "red", "ring", "sand"),
        ("large", "red", "triangle", "white"), ("small", "green", "cross", "navy"), ("large", "yellow", "circle", "brown"),
        ("small", "green", "square", "white"), ("large", "blue", "triangle", "black"), ("small", "cyan", "square", "white"),
        ("large", "pink", "cross", "sand"), ("small", "purple", "star", "navy"), ("large", "green", "ring", "teal"),
    )
)  # fmt: skip


def guard_any_sampler(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 07: a profile measured in the graph, and a guard before SamplerCustomAdvanced."""
    g = Graph(object_info)
    g.note((0, 60), NOTE_WIDTH, ANY_NOTE)
    load, empty, latent = folded_model(g, 0, 880)
    early = g.add("UnmemorizeLoadDemoCheckpoint", (0, 960), (NOTE_WIDTH, 60), "An older checkpoint", stage="early")
    picture = demo_picture(g, 480, 0, "coffee-cup")
    prompt = g.add("CLIPTextEncode", (480, 190), (WIDE, 90), "The training photograph's caption", clip=load[1], text=picture[2])
    settings = {k: v for k, v in SAMPLING.items() if k != "denoise"}
    profile = g.add(
        "UnmemorizeCalibrateStabilityProfile", (480, 330), (WIDE, 470), model=load[0], clip=load[1], negative=empty[0], latent=latent[0],
        prompts=CLEAN_PROMPTS, seed=1, **settings,
    )  # fmt: skip
    save = g.add("UnmemorizeSaveStabilityProfile", (480, 940), (WIDE, 60), profile=profile[0], name="demo-scenes")
    save.muted = True
    noise = folded(g.add("RandomNoise", (880, 0), (300, 90), noise_seed=1))
    sampler = folded(g.add("KSamplerSelect", (880, 50), (300, 70), sampler_name=SAMPLING["sampler_name"]))
    steps = {"scheduler": SAMPLING["scheduler"], "steps": SAMPLING["steps"]}
    sigmas = folded(g.add("BasicScheduler", (1010, 0), (300, 120), model=load[0], **steps))
    g.add("PreviewImage", (880, 110), (WIDE, 320), "The training photograph", images=picture[0])
    guard = g.add("UnmemorizeStabilityGuard", (880, 490), (WIDE, 360), model=load[0], mode="correct", profile=profile[0], parent=early[0])
    for i, (title, model) in enumerate((("Stock run", load), ("Under guard", guard))):
        x = 1280 + 380 * i
        links: dict[str, Any] = {"model": model[0], "positive": prompt[0], "negative": empty[0], "cfg": SAMPLING["cfg"]}
        guider = folded(g.add("CFGGuider", (x, 0), (280, 130), **links))
        how: dict[str, Any] = {
            "noise": noise[0],
            "guider": guider[0],
            "sampler": sampler[0],
            "sigmas": sigmas[0],
            "latent_image": latent[0],
        }
        drawn = folded(g.add("SamplerCustomAdvanced", (x, 50), (280, 120), **how))
        shown(g, x, 110, drawn, load, title, (x + 200, 0))
        if model is guard:
            g.add("UnmemorizeStabilityChart", (1280, 490), (380 + WIDE, 560), record=guard[1], latent=drawn[0])
    return g.build("unmemorize-07-guard-any-sampler")
