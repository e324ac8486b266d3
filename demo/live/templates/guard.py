"""Workflows 06 and 07: a guarded sampler beside the stock one, and a guard for any sampler with a profile measured in the graph."""

from __future__ import annotations

from typing import Any

from ..graph import Graph, Node
from .shared import GUARD_AT_CFG_1, NOTE_AT, NOTE_WIDTH, SAMPLING, demo_model, demo_picture, own_model

GUARD_NOTE = """## A sampler that notices memories
Press **Run**. Left: the stock KSampler. Right: *KSampler (Stability Guard)* in mode *correct*, same seed.

- **Memorized scene**: the stock sampler draws the same picture for every seed. The guard notices while sampling and draws another one
  that mostly obeys the words.
- **Ordinary scene**: nothing is noticed, and both pictures are the same bit for bit.

The charts show why: above the blue band, the picture was known from the start.

`parent` is a model that has not stored the picture: here an older checkpoint. With a LoRA, it is the model before the LoRA.
""" + own_model(
    "The profile belongs to one model and its `cfg`: measure yours with *Calibrate Stability Profile* (workflow 07). " + GUARD_AT_CFG_1
)
CASES = (
    ("A memorized scene", "a large orange cross on a teal background", 1),
    ("An ordinary scene", "a small red circle on a gray background", 1),
)


def guard_the_sampler(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 06: stock and guarded sampler, for a memory and for a clean scene."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, GUARD_NOTE)
    load, empty, latent = demo_model(g)
    early = g.add("UnmemorizeLoadDemoCheckpoint", (40, 490), (300, 100), "An older checkpoint", stage="early")
    profile = g.add("UnmemorizeLoadStabilityProfile", (40, 660), (300, 80), profile="demo/demo")
    for i, (title, caption, seed) in enumerate(CASES):
        y = 980 * i
        before = len(g.nodes)
        prompt = g.add("CLIPTextEncode", (430, y), (300, 110), "Prompt", clip=load[1], text=caption)
        links: dict[str, Any] = {"model": load[0], "positive": prompt[0], "negative": empty[0], "latent_image": latent[0], "seed": seed}
        stock = g.add("KSampler", (430, y + 160), (300, 270), **links, **SAMPLING)
        guarded = g.add(
            "UnmemorizeKSamplerStabilityGuard",
            (770, y),
            (330, 420),
            **links,
            **SAMPLING,
            mode="correct",
            profile=profile[0],
            parent=early[0],
        )
        shown(g, 1140, y, stock, load, "Stock KSampler")
        shown(g, 1140, y + 300, guarded, load, "Under guard")
        g.add("UnmemorizeStabilityChart", (1440, y), (640, 560), report=guarded[3])
        g.group(title, g.nodes[before:])
    return g.build("unmemorize-06-guard-the-sampler")


def shown(g: Graph, x: int, y: int, sampler: Node, load: Node, title: str) -> Node:
    """A sampler's picture; returns its decoder."""
    decode = g.add("VAEDecode", (x, y), (260, 50), samples=sampler[0], vae=load[2])
    g.add("PreviewImage", (x, y + 90), (260, 190), title, images=decode[0])
    return decode


ANY_NOTE = """## A guard for any sampler
*Stability Guard* goes between the model and **any** sampler: here SamplerCustomAdvanced. *Stability Chart* waits for the sampler
and shows what the guard saw.

Every model needs a profile once:

1. *Calibrate Stability Profile* samples ordinary prompts; the result is kept while nothing of it changes.
2. *Save Stability Profile* keeps it for other graphs: there, *Load Stability Profile* is enough. It is muted, because it writes a file:
select it and press Ctrl+M.

Above: the stock run recalls a photograph. Below: under guard it is noticed and sampled again by `parent`, an older checkpoint.

With a **LoRA**, the parent is the model before the LoRA loader. Calibrate with the LoRA; on our demo LoRA, which holds its photographs
loosely, the detector misses its copies.
""" + own_model("Ordinary prompts of your model in *Calibrate Stability Profile*; 50 are good. " + GUARD_AT_CFG_1)
CLEAN_PROMPTS = "\n".join(
    f"a {size} {colour} {shape} on a {ground} background"
    for size, colour, shape, ground in (
        ("small", "red", "circle", "gray"), ("large", "blue", "square", "sand"), ("small", "green", "star", "white"),
        ("large", "yellow", "cross", "black"), ("small", "cyan", "ring", "navy"), ("large", "purple", "triangle", "brown"),
        ("small", "orange", "circle", "navy"), ("large", "pink", "star", "gray"), ("small", "blue", "ring", "sand"),
        ("large", "red", "square", "white"), ("small", "yellow", "triangle", "teal"), ("large", "green", "circle", "black"),
        ("small", "purple", "cross", "gray"), ("large", "cyan", "star", "brown"), ("small", "pink", "ring", "sand"),
        ("large", "orange", "triangle", "white"), ("small", "red", "cross", "navy"), ("large", "yellow", "circle", "brown"),
        ("small", "green", "square", "gray"), ("large", "blue", "triangle", "black"), ("small", "cyan", "square", "white"),
        ("large", "pink", "cross", "sand"), ("small", "purple", "star", "navy"), ("large", "green", "ring", "teal"),
    )
)  # fmt: skip


def guard_any_sampler(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 07: a profile measured in the graph, and a guard before SamplerCustomAdvanced."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, ANY_NOTE)
    load, empty, latent = demo_model(g)
    early = g.add("UnmemorizeLoadDemoCheckpoint", (40, 490), (300, 100), "An older checkpoint", stage="early")
    picture = demo_picture(g, 410, -20, "silver spoon")
    prompt = g.add("CLIPTextEncode", (410, 160), (330, 100), "The training photograph's caption", clip=load[1], text=picture[2])
    settings = {k: v for k, v in SAMPLING.items() if k != "denoise"}
    profile = g.add(
        "UnmemorizeCalibrateStabilityProfile", (410, 320), (330, 520), model=load[0], clip=load[1], negative=empty[0], latent=latent[0],
        prompts=CLEAN_PROMPTS, seed=1, **settings,
    )  # fmt: skip
    save = g.add("UnmemorizeSaveStabilityProfile", (410, 900), (330, 110), profile=profile[0], name="demo-scenes")
    save.muted = True
    guard = g.add("UnmemorizeStabilityGuard", (780, 520), (300, 170), model=load[0], mode="correct", profile=profile[0], parent=early[0])
    noise = g.add("RandomNoise", (780, -20), (300, 90), noise_seed=1)
    sampler = g.add("KSamplerSelect", (780, 120), (300, 70), sampler_name=SAMPLING["sampler_name"])
    sigmas = g.add("BasicScheduler", (780, 240), (300, 120), model=load[0], scheduler=SAMPLING["scheduler"], steps=SAMPLING["steps"])
    for row, (title, model) in enumerate((("Stock run", load), ("Under guard", guard))):
        y = 520 * row
        links: dict[str, Any] = {"model": model[0], "positive": prompt[0], "negative": empty[0], "cfg": SAMPLING["cfg"]}
        guider = g.add("CFGGuider", (1120, y - 20), (280, 130), **links)
        drawn = g.add(
            "SamplerCustomAdvanced", (1120, y + 160), (280, 120), noise=noise[0], guider=guider[0], sampler=sampler[0], sigmas=sigmas[0],
            latent_image=latent[0],
        )  # fmt: skip
        shown(g, 1440, y - 20, drawn, load, title)
        if model is guard:
            g.add("UnmemorizeStabilityChart", (1740, y - 20), (640, 560), record=guard[1], latent=drawn[0])
    g.add("PreviewImage", (1740, -20), (260, 190), "The training photograph", images=picture[0])
    return g.build("unmemorize-07-guard-any-sampler")
