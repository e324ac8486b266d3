"""Workflows 06, 07 and 22: a guarded sampler beside the stock one, a guard for any sampler with a profile measured in the graph, and a
guard of a LoRA."""

from __future__ import annotations

from typing import Any

from ..graph import Graph, Node
from .lora import LEAKED, LORA_SCENE
from .shared import (
    FOLDED,
    GUARD_AT_CFG_1,
    NOTE_AT,
    NOTE_WIDTH,
    ORDINARY,
    RACCOON,
    SAMPLING,
    WIDE,
    decoded,
    demo_picture,
    folded,
    folded_model,
    framed,
    own_model,
    side_by_side,
)

GUARD_NOTE = """## A sampler that notices memories
Press **Run**. In each frame, before: the stock KSampler. After: *KSampler (Stability Guard)* in mode *correct*, same seed. Move over the
pictures to wipe between them.

- **Memorized photograph**: the stock sampler gives it back for every seed. The guard notices while sampling and draws what the words
  ask for.
- **Ordinary scene**: nothing is noticed, and both pictures are the same bit for bit.

The charts show the runs against the band of clean ones.

No second model is needed: *Alternative Prompts* makes variants of the prompt, and those that leave the memory alone draw the early
steps. Where there is an older checkpoint, connect it as `parent` instead (workflow 07); with a LoRA, the model before it (22).
""" + own_model(
    "The profile belongs to one model and its `cfg`: measure yours with *Calibrate Stability Profile* (workflow 07). " + GUARD_AT_CFG_1
)
CASES = (
    ("A memorized photograph: stock, and under guard", RACCOON),
    ("An ordinary scene: stock, and under guard", ORDINARY),
)


def guard_the_sampler(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 06: stock and guarded sampler, for a memory and for a clean scene."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, GUARD_NOTE)
    load, empty, latent = folded_model(g, 0, 730)
    profile = g.add("UnmemorizeLoadStabilityProfile", (0, 810), (NOTE_WIDTH, 60), profile="demo/demo")
    for i, (title, caption) in enumerate(CASES):
        x, before = 480 + 790 * i, len(g.nodes)
        prompt = g.add("UnmemorizeAlternativePrompts", (x, 0), (WIDE, 110), clip=load[1], text=caption, word_list="")
        _both(g, x, load, load[0], (prompt, empty, latent), {"profile": profile[0], "alternatives": prompt[1]})
        g.group(title, g.nodes[before:])
    return g.build("unmemorize-06-guard-the-sampler")


def _both(g: Graph, x: int, load: Node, model: Any, prompts: tuple[Node, Node, Node], look: dict[str, Any]) -> None:
    """Stock and guarded sampler of a prompt, with the same seed, their pictures compared, and the guard's chart."""
    positive, empty, latent = prompts
    links: dict[str, Any] = {"model": model, "positive": positive[0], "negative": empty[0], "latent_image": latent[0], "seed": 1}
    stock = folded(g.add("KSampler", (x + 380, 20), (300, 270), **links, **SAMPLING))
    guarded = g.add("UnmemorizeKSamplerStabilityGuard", (x, 520), (WIDE, 590), **links, **SAMPLING, mode="correct", **look)
    pictures = [decoded(g, at, y, sampler[0], load)[0] for at, y, sampler in ((x + 380 + FOLDED, 20, stock), (x + 380, 65, guarded))]
    side_by_side(g, (x, 150), pictures, apart=380, height=330)
    g.add("UnmemorizeStabilityChart", (x + 380, 520), (WIDE, 590), report=guarded[3])


LORA_NOTE = """## A LoRA that gives pictures back
Press **Run**. The demo LoRA *leaking* was trained on four photographs and a hatched style. In each frame, before: the stock KSampler
with the LoRA. After: *KSampler (Stability Guard)* in mode *correct*, same seed. Move over the pictures to wipe between them.

- **A training caption**: the LoRA gives its photograph back. The guard notices, and draws what the model before the LoRA makes of the
  words, with what the LoRA changes for every prompt.
- **A scene**: nothing is noticed, and both pictures are the same bit for bit.

No profile is needed: `parent` is the MODEL that goes into the LoRA loader. The chart shows *agreement*: does the prompt ask for the
same with the LoRA as without it? About 0 for a photograph that is given back.
""" + own_model(
    "Your LoRA between loader and guard, and the loader's MODEL as parent. For a LoRA with a trigger word, a prompt of that word alone as "
    "`reference`."
)


def guard_a_lora(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 22: stock and guarded sampler under a leaking LoRA, for a photograph's caption and for a scene."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, LORA_NOTE)
    load, empty, latent = folded_model(g, 0, 760)
    lora = g.add("UnmemorizeLoadDemoLoRA", (0, 840), (NOTE_WIDTH, 60), model=load[0], lora="leaking")
    photograph = folded(demo_picture(g, 0, 960, LEAKED))
    cases = (("A training caption: stock, and under guard", photograph[2]), ("A scene: stock, and under guard", LORA_SCENE))
    for i, (title, caption) in enumerate(cases):
        x, before = 480 + 790 * i, len(g.nodes)
        prompt = g.add("CLIPTextEncode", (x, 0), (WIDE, 100), clip=load[1], text=caption)
        _both(g, x, load, lora[0], (prompt, empty, latent), {"parent": load[0]})
        g.group(title, g.nodes[before:])
    return g.build("unmemorize-22-guard-a-lora")


ANY_NOTE = """## A guard for any sampler
*Stability Guard* goes between the model and **any** sampler: here SamplerCustomAdvanced. *Stability Chart* waits for the sampler
and shows what the guard saw.

Every model needs a profile once:

1. *Calibrate Stability Profile* samples ordinary prompts; the result is kept while nothing of it changes.
2. *Save Stability Profile* keeps it for other graphs: there, *Load Stability Profile* is enough. It is muted, because it writes a file:
select it and press Ctrl+M.

The stock run recalls a photograph. Under guard it is noticed and sampled again by `parent`, an older checkpoint. Move over the pictures to
wipe between before and after.

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
    g.note(NOTE_AT, NOTE_WIDTH, ANY_NOTE)
    load, empty, latent = folded_model(g, 0, 880)
    early = g.add("UnmemorizeLoadDemoCheckpoint", (0, 960), (NOTE_WIDTH, 60), "An older checkpoint", stage="early")
    picture = demo_picture(g, 480, 0, "coffee-cup")
    prompt = g.add("CLIPTextEncode", (480, 190), (WIDE, 90), clip=load[1], text=picture[2])
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
    sigmas = folded(g.add("BasicScheduler", (880 + FOLDED, 0), (300, 120), model=load[0], **steps))
    framed(g, "The training photograph", [noise, sampler, sigmas], (880, 110), picture[0])
    guard = g.add("UnmemorizeStabilityGuard", (880, 540), (WIDE, 360), model=load[0], mode="correct", profile=profile[0], parent=early[0])
    inside, pictures = [], []
    for i, model in enumerate((load, guard)):
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
        sampled = folded(g.add("SamplerCustomAdvanced", (x, 50), (280, 120), **how))
        decode = decoded(g, x + FOLDED, 0, sampled[0], load)
        inside += [guider, sampled, decode]
        pictures.append(decode[0])
        if model is guard:
            g.add("UnmemorizeStabilityChart", (1280, 540), (380 + WIDE, 560), record=guard[1], latent=sampled[0])
    g.group("Stock run, and under guard", [*inside, side_by_side(g, (1280, 150), pictures, apart=380)])
    return g.build("unmemorize-07-guard-any-sampler")
