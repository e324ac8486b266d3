"""Workflow 10: four questions on one screen."""

from __future__ import annotations

from typing import Any

from ..graph import Graph
from .lora import LEAKED
from .shared import (
    CAT,
    COLUMNS,
    FOLDED,
    GUARD_AT_CFG_1,
    MAPS_AT_CFG_1,
    NOTE_AT,
    NOTE_WIDTH,
    SAMPLING,
    WIDE,
    decoded,
    drawn,
    folded,
    folded_model,
    framed,
    known,
    own_model,
)

NOTE = """## Four questions on one screen
Press **Run**: less than a minute on a CPU. No file is saved. All pictures above have the same prompt and seed.

1. **Recalled?** The stock sampler draws a training photograph.
2. **Where?** Hot: the prompt pins this spot down. Here the whole picture is stored (workflow 01).
3. **Guarded.** The guard notices while sampling, and lets an older checkpoint, which has not stored it, draw instead (07; without a
second model: 06).
4. **Pruned.** Memorized neurons are silenced: here it dulls the photograph, which stays a copy (09).

Below, a LoRA: its training photograph, and what its caption brings back, whole and filtered by its weights. On this LoRA
the copy stays (18); 08 and 15 learn it away.

Click the dot of a folded node to unfold it, with its answer in words.

A verdict or a hot map is statistics, no proof; a cold one does not prove originality. Always try several seeds.
""" + own_model(
    "Profile and mask belong to one model, and another is refused: make yours in workflows 07 and 09. As `parent`, take an older "
    "checkpoint, with a LoRA the model before it. " + GUARD_AT_CFG_1 + " " + MAPS_AT_CFG_1
)


def all_four_together(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 10: a memorized photograph, where, guarded and pruned; then a leaking LoRA, whole and filtered."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, NOTE)
    demo = load, empty, latent = folded_model(g, 0, 980)
    prompt = g.add("CLIPTextEncode", (480, 0), (WIDE, 100), clip=load[1], text=CAT)
    stock = folded(
        g.add(
            "KSampler",
            (480, 150),
            (300, 270),
            model=load[0],
            positive=prompt[0],
            negative=empty[0],
            latent_image=latent[0],
            seed=1,
            **SAMPLING,
        )
    )
    picture = decoded(g, 480 + FOLDED, 150, stock[0], load)
    framed(g, "1  Recalled?", [prompt, stock, picture], (480, 245), picture[0])

    at = COLUMNS[1]
    threshold = g.add("UnmemorizeLoadMapThreshold", (at, 0), (WIDE, 60), threshold="demo/demo")
    links: dict[str, Any] = {"model": load[0], "positive": prompt[0], "latent": stock[0], "negative": empty[0]}
    measured = folded(g.add("UnmemorizeCurvatureDifferenceMap", (at, 150), (330, 350), **links))
    judged: dict[str, Any] = {"image": picture[0], "map": measured[0], "calibration": threshold[0]}
    overlay = folded(g.add("UnmemorizeHeatmapOverlay", (at, 195), (330, 560), **judged))
    framed(g, "2  Where?", [threshold, measured, overlay], (at, 245), overlay[0])

    at = COLUMNS[2]
    early = folded(g.add("UnmemorizeLoadDemoCheckpoint", (at, 150), (300, 60), "An older checkpoint", stage="early"))
    profile = g.add("UnmemorizeLoadStabilityProfile", (at, 0), (WIDE, 60), profile="demo/demo")
    links = {"model": load[0], "positive": prompt[0], "negative": empty[0], "latent_image": latent[0], "profile": profile[0]}
    guarded = folded(
        g.add("UnmemorizeKSamplerStabilityGuard", (at, 195), (330, 590), seed=1, mode="correct", parent=early[0], **links, **SAMPLING)
    )
    safe = decoded(g, at + 180, 150, guarded[0], load)
    framed(g, "3  Guarded", [profile, early, guarded, safe], (at, 245), safe[0])

    at = COLUMNS[3]
    mask = g.add("UnmemorizeLoadNeuronMask", (at, 0), (WIDE, 60), mask="demo/demo")
    pruned = folded(g.add("UnmemorizePruneNeurons", (at, 150), (300, 315), model=load[0], mask=mask[0]))
    drawn(g, "4  Pruned", at, 195, pruned[0], prompt, demo, mask, pruned)
    _leaking(g, demo)
    return g.build("unmemorize-10-all-four-together")


def _leaking(g: Graph, demo: Any) -> None:
    """Below: the LoRA's photograph, and what its caption brings back."""
    load, y = demo[0], 640
    _, caption = known(g, "A LoRA's training photograph", (480, y), load, LEAKED)
    whole = folded(g.add("UnmemorizeLoadDemoLoRA", (COLUMNS[1], y), (300, 60), model=load[0], lora="leaking"))
    drawn(g, "The whole LoRA", COLUMNS[1], y + 45, whole[0], caption, demo, whole)
    kept = folded(g.add("UnmemorizeLoadLoRABAF", (COLUMNS[2], y), (340, 805), model=load[0], lora_name="demo/leaking"))
    drawn(g, "The filtered LoRA", COLUMNS[2], y + 45, kept[0], caption, demo, kept)
    drawn(g, "No LoRA", COLUMNS[3], y, load[0], caption, demo, below=95)
