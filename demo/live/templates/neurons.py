"""Workflow 09: find memorized neurons and prune them."""

from __future__ import annotations

from typing import Any

from ...pictures import read_facts
from ...recipe.lab import LAB
from ...scripts.demo_mask import SETTING, captions
from ..graph import Graph, Node
from .shared import CAT, NOTE_AT, NOTE_WIDTH, ORDINARY, SAMPLING, demo_model, own_model, sampled

NOTE = """## Find and prune memorized neurons
Press **Run**. Prompts that bring back photographs are recorded, then the empty prompt, then ordinary prompts.
Weights that carry more under the first make up a **mask**, and *Prune Neurons* silences them. Sampling costs nothing more.

- Above: a memorized photograph, stock and pruned. Change both seeds: the stock model always copies.
- Below: a scene that is not memorized. It should stay a good picture of its words: judge several seeds.
- Right: how alike masks are. Ordinary prompts make a mask as well: memories share neurons only if *their* masks overlap more than that.

**Pruning suppresses known triggers, it does not delete the memory.** Other words, or optimised embeddings, can bring it back.

The demo model is tiny, with few neurons to choose from: it needs a denser mask (10 %, from the prompt's rows alone) than the paper's 1 %
for SD1.5, which is the nodes' default. Here it dulls the photograph and leaves it a copy, and tints scenes: a mask of twenty prompts is
not what one prompt uses. Rates are in `benchmarks/RESULTS.md`.

*Save Neuron Mask* is muted, because it writes a file: select it and press Ctrl+M.
""" + own_model(
    "Ten prompts that surely trigger, and the nodes' defaults. The layers of SD1.5, SDXL and Flux are known to the nodes; pruning a "
    "full-sized model is untried."
)
CONTROLS = 10


def find_and_prune(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 09: record, find, prune; a memory and a scene, stock and pruned; masks compared."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, NOTE)
    load, empty, latent = demo_model(g)
    facts = read_facts(LAB / "lab.json")
    triggers = captions(facts)
    ordinary = facts["scene_captions"][::40][:CONTROLS]
    recorded = [
        _recorded(g, 420, -20 + 520 * k, title, load, empty, latent, texts)
        for k, (title, texts) in enumerate((("Memorized prompts", triggers), ("The empty prompt", []), ("Ordinary prompts", ordinary)))
    ]
    mask = _found(g, 800, -20, "Memorized neurons", load, recorded[0], recorded[1])
    control = _found(g, 800, 340, "For comparison: of ordinary prompts", load, recorded[2], recorded[1])
    bundled = g.add("UnmemorizeLoadNeuronMask", (800, 700), (330, 80), mask="demo/demo")
    save = g.add("UnmemorizeSaveNeuronMask", (800, 850), (330, 80), mask=mask[0], name="demo-photographs")
    save.muted = True
    prune = g.add("UnmemorizePruneNeurons", (1190, -20), (300, 100), model=load[0], mask=mask[0])
    for row, (title, text) in enumerate((("A memorized photograph", CAT), ("A scene that is not memorized", ORDINARY))):
        y = 140 + 640 * row
        prompt = g.add("CLIPTextEncode", (1190, y), (300, 100), title, clip=load[1], text=text)
        for column, (name, model) in enumerate((("Stock", load[0]), ("Pruned", prune[0]))):
            x = 1550 + 340 * column
            sampler = sampled(g, x, y - 160, model, prompt, empty, latent, name)
            decode = g.add("VAEDecode", (x, y + 160), (300, 50), samples=sampler[0], vae=load[2])
            g.add("PreviewImage", (x, y + 250), (300, 220), f"{title}: {name.lower()}", images=decode[0])
    g.add(
        "UnmemorizeCompareNeuronMasks",
        (2250, -20),
        (620, 420),
        mask_1=mask[0],
        mask_2=bundled[0],
        mask_3=control[0],
        names="found, bundled, ordinary",
    )
    return g.build("unmemorize-09-find-and-prune")


def _recorded(g: Graph, x: int, y: int, title: str, load: Node, empty: Node, latent: Node, texts: list[str]) -> Node:
    sampling = {k: SAMPLING[k] for k in ("steps", "cfg", "sampler_name", "scheduler")}
    links = {"model": load[0], "clip": load[1], "negative": empty[0], "latent": latent[0]}
    prompts = "\n".join(texts)
    more = {"window_end": SETTING["low"], "place": SETTING["place"]}
    return g.add("UnmemorizeRecordNeuronActivity", (x, y), (330, 440), title, prompts=prompts, seed=0, **links, **sampling, **more)


def _found(g: Graph, x: int, y: int, title: str, load: Node, memorized: Node, reference: Node) -> Node:
    settings = {"top_share": SETTING["share"], **{k: SETTING[k] for k in ("select_ratio", "rows", "score")}}
    links = {"model": load[0], "memorized": memorized[0], "reference": reference[0]}
    return g.add("UnmemorizeFindMemorizedNeurons", (x, y), (330, 280), title, **links, **settings)
