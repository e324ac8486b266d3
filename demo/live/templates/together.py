"""Workflow 10: one audit with all four methods."""

from __future__ import annotations

from typing import Any

from ..graph import Graph, Node
from .guard import shown
from .lora import LEAKED, LORA_SCENE
from .shared import CAT, GUARD_AT_CFG_1, MAPS_AT_CFG_1, NOTE_AT, NOTE_WIDTH, SAMPLING, demo_model, demo_picture, own_model, sampled

NOTE = """## An audit with all four methods
Press **Run**: less than a minute on a CPU. No file is saved. Four questions, each in a frame of its own:

1. **Did the model recall a picture?** Both samplers have the same prompt and seed. The stock one draws a training photograph. The guard
notices while sampling and lets `parent`, which has not stored it, draw instead. Above the band in the chart: known from the start.
2. **Where is it memorized?** Hot: the prompt pins this spot down. Here the whole picture is stored.
3. **Can it be silenced?** A mask of memorized neurons, made as in workflow 09, is laid over the model: upper picture. The scenes below show
what that costs: they should stay good pictures of their words.
4. **What does a LoRA leak?** Left the whole LoRA, right what its filter kept. Above, the caption of a training photograph: is it still that
photograph? Below, a scene: is the style, the hatching, still there?

**What the answers are worth**

- A verdict or a hot map is statistics, no proof; a cold one does not prove originality.
- Pruning suppresses known triggers, it does not delete. On this model it dulls the photograph, which stays a copy.
- The filter takes out what the LoRA changed in how the prompt is read. On this LoRA the copy stays and the hatching fades: look before you
trust it, and compare BAF and the controls among `score` (*mean*, *random*).
- Always try several seeds: one picture decides nothing.
""" + own_model(
    "Profile and mask belong to one model, and another is refused: make yours in workflows 07 and 09. As `parent`, take an older "
    "checkpoint, with a LoRA the model before it. The filter also works without guidance. " + GUARD_AT_CFG_1 + " " + MAPS_AT_CFG_1
)


def all_four_together(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 10: guard, map and pruning of one memorized photograph, then a leaking LoRA with and without its filter."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, NOTE)
    model = demo_model(g)
    scene = g.add("CLIPTextEncode", (40, 490), (300, 110), "An ordinary scene", clip=model[0][1], text=LORA_SCENE)
    photograph, stock, picture = _recalled(g, 450, 0, model)
    _where(g, 2500, 0, model, photograph, stock, picture)
    _silenced(g, 450, 980, model, photograph, scene)
    _filtered(g, 1190, 980, model, scene)
    return g.build("unmemorize-10-all-four-together")


def _recalled(g: Graph, x: int, y: int, model: tuple[Node, Node, Node]) -> tuple[Node, Node, Node]:
    """Group 1: the stock sampler and the guarded one; returns the prompt, the stock sampler and its decoder."""
    load, empty, latent = model
    before = len(g.nodes)
    prompt = g.add("CLIPTextEncode", (x, y), (300, 110), "A memorized photograph", clip=load[1], text=CAT)
    early = g.add("UnmemorizeLoadDemoCheckpoint", (x, y + 160), (300, 100), "Parent: an older checkpoint", stage="early")
    profile = g.add("UnmemorizeLoadStabilityProfile", (x, y + 360), (300, 80), profile="demo/demo")
    stock = sampled(g, x + 340, y, load[0], prompt, empty, latent)
    links: dict[str, Any] = {"model": load[0], "positive": prompt[0], "negative": empty[0], "latent_image": latent[0]}
    guard: dict[str, Any] = {"mode": "correct", "profile": profile[0], "parent": early[0]}
    guarded = g.add("UnmemorizeKSamplerStabilityGuard", (x + 680, y), (330, 590), seed=1, **links, **SAMPLING, **guard)
    picture = shown(g, x + 1050, y, stock, load, "Stock KSampler")
    shown(g, x + 1050, y + 440, guarded, load, "Under guard")
    g.add("UnmemorizeStabilityChart", (x + 1350, y), (620, 560), report=guarded[3])
    g.group("1  Did the model recall a picture? KSampler (Stability Guard)", g.nodes[before:])
    return prompt, stock, picture


def _where(g: Graph, x: int, y: int, model: tuple[Node, Node, Node], prompt: Node, stock: Node, picture: Node) -> None:
    """Group 2: the map of the stock picture."""
    load, empty, _ = model
    links: dict[str, Any] = {"model": load[0], "positive": prompt[0], "latent": stock[0], "negative": empty[0]}
    measured = g.add("UnmemorizeCurvatureDifferenceMap", (x, y), (330, 350), **links)
    threshold = g.add("UnmemorizeLoadMapThreshold", (x, y + 430), (330, 80), threshold="demo/demo")
    overlay = g.add("UnmemorizeHeatmapOverlay", (x + 370, y), (360, 560), image=picture[0], map=measured[0], calibration=threshold[0])
    g.group("2  Where is it memorized? Curvature Difference Map", [measured, threshold, overlay])


def _silenced(g: Graph, x: int, y: int, model: tuple[Node, Node, Node], photograph: Node, scene: Node) -> None:
    """Group 3: the demo mask, what becomes of the photograph, and its price: an ordinary scene with and without."""
    load = model[0]
    before = len(g.nodes)
    mask = g.add("UnmemorizeLoadNeuronMask", (x, y), (300, 80), mask="demo/demo")
    pruned = g.add("UnmemorizePruneNeurons", (x, y + 180), (300, 315), model=load[0], mask=mask[0])
    _cell(g, x + 340, y, "Photograph, pruned", pruned[0], photograph, model)
    _cell(g, x, y + 780, "Scene, stock", load[0], scene, model)
    _cell(g, x + 340, y + 780, "Scene, pruned", pruned[0], scene, model)
    g.group("3  Can it be silenced? Prune Neurons", g.nodes[before:])


def _filtered(g: Graph, x: int, y: int, model: tuple[Node, Node, Node], scene: Node) -> None:
    """Group 4: a LoRA that leaks a photograph, whole and filtered, under the photograph's caption and for a scene."""
    load = model[0]
    before = len(g.nodes)
    picture = demo_picture(g, x, y, LEAKED)
    g.add("PreviewImage", (x, y + 180), (300, 310), "The LoRA's training photograph", images=picture[0])
    caption = g.add("CLIPTextEncode", (x, y + 540), (300, 100), "Its caption", clip=load[1], text=picture[2])
    leaking = g.add("UnmemorizeLoadDemoLoRA", (x, y + 700), (300, 110), model=load[0], lora="leaking")
    kept = g.add("UnmemorizeLoadLoRABAF", (x + 340, y), (340, 805), model=load[0], lora_name="demo/leaking")
    for row, (name, prompt) in enumerate((("Photograph", caption), ("Scene", scene))):
        _cell(g, x + 720, y + 780 * row, f"{name}, whole LoRA", leaking[0], prompt, model)
        _cell(g, x + 1060, y + 780 * row, f"{name}, filtered LoRA", kept[0], prompt, model)
    g.group("4  What does a LoRA leak? Load LoRA (BAF Filtered)", g.nodes[before:])


def _cell(g: Graph, x: int, y: int, title: str, model: Any, prompt: Node, demo: tuple[Node, Node, Node]) -> None:
    load, empty, latent = demo
    sampler = sampled(g, x, y, model, prompt, empty, latent, title)
    decode = g.add("VAEDecode", (x, y + 310), (300, 50), samples=sampler[0], vae=load[2])
    g.add("PreviewImage", (x, y + 400), (300, 310), title, images=decode[0])
