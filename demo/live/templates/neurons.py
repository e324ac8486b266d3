"""Workflows 09 and 20: find memorized neurons and prune them; compare masks."""

from __future__ import annotations

from typing import Any

from ...pictures import read_facts
from ...recipe.lab import LAB
from ...scripts.demo_mask import SETTING, captions
from ..graph import Graph, Node
from .shared import CAT, COLUMNS, NOTE_AT, NOTE_WIDTH, ORDINARY, SAMPLING, WIDE, compared, folded, folded_model, own_model

NOTE = """## Find and prune memorized neurons
Press **Run**. Prompts that bring back photographs are recorded, then the empty prompt. Weights that carry more under the first make up a
**mask**, and *Prune Neurons* silences them. Sampling costs nothing more.

- **Above**: a memorized photograph, stock before, pruned after; move over it to wipe. Change both seeds: the stock model always copies.
- **Below**: an ordinary scene. It should stay a good picture of its words: judge several seeds.

**Pruning suppresses known triggers, it does not delete the memory.** Other words, or optimised embeddings, can bring it back.

The demo model is tiny: it needs a denser mask (10 %, from the prompt's rows alone) than the paper's 1 % for SD1.5, the nodes' default.
Here it dulls the photograph and leaves it a copy, and tints scenes. Rates are in `benchmarks/RESULTS.md`.

*Save Neuron Mask* is muted, because it writes a file: select it and press Ctrl+M.
""" + own_model(
    "Ten prompts that surely trigger, and the nodes' defaults. The layers of SD1.5, SDXL and Flux are known to the nodes; pruning a "
    "full-sized model is untried."
)
COMPARE_NOTE = """## Do memories share neurons?
Press **Run**. Three masks of the same model, and how much they overlap: one found from memorized prompts, the bundled one of the same
prompts, and one of ordinary prompts.

Ordinary prompts make a mask as well: memories share neurons only if *their* masks overlap more than that one does with them.
""" + own_model("Record ten prompts that surely trigger, and ten ordinary ones. Next: 09 prunes with such a mask.")
CONTROLS = 10


def find_and_prune(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 09: record, find, prune; a memory and a scene, stock and pruned."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, NOTE)
    demo = load, _, _ = folded_model(g, 0, 900)
    triggers = captions(read_facts(LAB / "lab.json"))
    memorized = _recorded(g, 480, 0, "Memorized prompts", demo, triggers)
    nothing = _recorded(g, 480, 550, "The empty prompt", demo, [])
    mask = _found(g, 870, 0, "Memorized neurons", load, memorized, nothing)
    prune = g.add("UnmemorizePruneNeurons", (870, 500), (WIDE, 100), model=load[0], mask=mask[0])
    save = g.add("UnmemorizeSaveNeuronMask", (870, 900), (WIDE, 80), mask=mask[0], name="demo-photographs")
    save.muted = True
    for row, (words, text) in enumerate((("photograph", CAT), ("scene", ORDINARY))):
        y = 560 * row
        prompt = g.add("CLIPTextEncode", (COLUMNS[2], y), (WIDE, 100), clip=load[1], text=text)
        at: dict[str, Any] = {"beside": (COLUMNS[3], y + 20), "at": (COLUMNS[2], y + 150)}
        compared(g, f"Stock, and pruned: {words}", (load[0], prune[0]), prompt, demo, prompt, **at)
    return g.build("unmemorize-09-find-and-prune")


def compare_masks(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 20: masks of memorized and of ordinary prompts, compared."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, COMPARE_NOTE)
    demo = load, _, _ = folded_model(g, 0, 620)
    facts = read_facts(LAB / "lab.json")
    memorized = _recorded(g, 480, 0, "Memorized prompts", demo, captions(facts))
    ordinary = _recorded(g, 480, 550, "Ordinary prompts", demo, facts["scene_captions"][::40][:CONTROLS])
    nothing = folded(_recorded(g, 0, 670, "The empty prompt", demo, []))
    mask = _found(g, 870, 0, "Memorized neurons", load, memorized, nothing)
    control = _found(g, 870, 550, "For comparison: of ordinary prompts", load, ordinary, nothing)
    bundled = g.add("UnmemorizeLoadNeuronMask", (1260, 0), (620, 80), mask="demo/demo")
    masks: dict[str, Any] = {"mask_1": mask[0], "mask_2": bundled[0], "mask_3": control[0]}
    g.add("UnmemorizeCompareNeuronMasks", (1260, 180), (620, 520), names="found, bundled, ordinary", **masks)
    return g.build("unmemorize-20-compare-masks")


def _recorded(g: Graph, x: int, y: int, title: str, demo: tuple[Node, Node, Node], texts: list[str]) -> Node:
    load, empty, latent = demo
    sampling = {k: SAMPLING[k] for k in ("steps", "cfg", "sampler_name", "scheduler")}
    links: dict[str, Any] = {"model": load[0], "clip": load[1], "negative": empty[0], "latent": latent[0]}
    more = {"window_end": SETTING["low"], "place": SETTING["place"], "prompts": "\n".join(texts)}
    return g.add("UnmemorizeRecordNeuronActivity", (x, y), (WIDE, 440), title, seed=0, **links, **sampling, **more)


def _found(g: Graph, x: int, y: int, title: str, load: Node, memorized: Node, reference: Node) -> Node:
    settings = {"top_share": SETTING["share"], **{k: SETTING[k] for k in ("select_ratio", "rows", "score")}}
    links = {"model": load[0], "memorized": memorized[0], "reference": reference[0]}
    return g.add("UnmemorizeFindMemorizedNeurons", (x, y), (WIDE, 280), title, **links, **settings)
