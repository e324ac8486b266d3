"""Workflows 03 and 04: an audit of an existing picture, and all maps side by side."""

from __future__ import annotations

from typing import Any

from ...pictures import read_facts
from ...recipe.lab import LAB
from ..graph import Graph, Node
from .shared import (
    COLUMNS,
    FOLDED,
    MAPS_AT_CFG_1,
    NOTE_AT,
    NOTE_WIDTH,
    SAMPLING,
    WIDE,
    decoded,
    demo_picture,
    folded,
    folded_model,
    framed,
    own_model,
    sampled,
)

AUDIT_NOTE = """## Is this picture memorized?
The question of an **existing** picture: did the model store it? No sampling is needed. *VAE Encode* turns the picture into a
latent, a little noise is added, and the map asks how firmly the prompt holds every spot.

- Left: a training template with its own caption. The card is hot; its window was never the same twice and stays cold.
- Right: the same picture with another caption. Without its words the model does not recall it. A few spots at the border pass the
threshold all the same: look at the shape, not at single spots.

*Calibrate Map Threshold* maps 24 clean prompts first (about 20 seconds, once): white is what is hotter than 99.5 % of their
pixels. Without it *Map Threshold* would split any map in two. *Save Map Threshold* keeps it; it is muted, because it writes a file:
select it and press Ctrl+M.
""" + own_model(
    "Your picture: *Load Image* instead of *Load Demo Picture*, at your model's size, and the prompt you suspect. *Calibrate Map "
    "Threshold* wants ordinary prompts of the kinds you draw. " + MAPS_AT_CFG_1
)
CLEAN_PROMPTS = 24
OTHER_CAPTION = "a large red star on a white background"

ALL_NOTE = """## All maps side by side
Press **Run**. One picture of a memorized card, mapped in six ways. The card is fixed, its window is free: the truth is above at the left.

| map | asks | costs |
|---|---|---|
| against the empty prompt (dh_0) | does the prompt pin it down more than the model alone? | 2 evaluations a probe |
| against the baseline (dh_~) | more than a less-trained model does? | the same |
| both (dh_0 + dh_~) | | 3 a probe |
| quick, against the baseline (ds_~) | how far apart are the two models? | 2 |
| recorded (ds_0) | how far does the prompt pull, while sampling? | nothing |
| Bright Ending | published baseline: attention to the prompt's end | 1 |

The nodes that measure and paint are folded over each picture: click the dot of one to unfold it.
""" + own_model(
    "`baseline` is a less-trained model of the same kind; with a LoRA, the model before it. Bright Ending works on SD1.5, SD2 and SDXL "
    "only, and ds_0, recorded, needs a `cfg` above 1: on Flux both say so and stop, so remove them there. " + MAPS_AT_CFG_1
)
CARD = "template: "
METHODS = (
    "against the empty prompt (dh_0)",
    "against a baseline model (dh_~)",
    "against both (dh_0 + dh_~)",
    "quick, against a baseline model (ds_~)",
)
"""Those that a finished picture needs, as the node's menu names them."""


def is_this_picture_memorized(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 03: an encoded training picture, mapped under its own caption and under another."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, AUDIT_NOTE)
    load, empty, latent = folded_model(g, 0, 960)
    picture = demo_picture(g, 480, 0, CARD)
    encoded = folded(g.add("VAEEncode", (480, 190), (330, 50), pixels=picture[0], vae=load[2]))
    framed(g, "The picture in question", [picture, encoded], (480, 250), picture[0])
    clean = "\n".join(read_facts(LAB / "lab.json")["scene_captions"][::20][:CLEAN_PROMPTS])
    links: dict[str, Any] = {"model": load[0], "clip": load[1], "latent": latent[0]}
    how: dict[str, Any] = {"prompts": clean, "cfg": SAMPLING["cfg"], "steps": 10}
    calibration = g.add("UnmemorizeCalibrateMapThreshold", (880, 0), (WIDE, 560), **links, **how)
    save = g.add("UnmemorizeSaveMapThreshold", (880, 760), (WIDE, 80), calibration=calibration[0], name="demo")
    save.muted = True
    for i, (title, text) in enumerate((("Its own caption", picture[2]), ("Another caption", OTHER_CAPTION))):
        x, before = 1280 + 400 * i, len(g.nodes)
        prompt = g.add("CLIPTextEncode", (x, 0), (WIDE, 100), clip=load[1], text=text)
        mapped: dict[str, Any] = {"model": load[0], "positive": prompt[0], "latent": encoded[0], "negative": empty[0]}
        curvature = folded(g.add("UnmemorizeCurvatureDifferenceMap", (x, 150), (330, 350), **mapped))
        judged: dict[str, Any] = {"image": picture[0], "map": curvature[0], "calibration": calibration[0]}
        threshold = folded(g.add("UnmemorizeMapThreshold", (x, 195), (300, 110), **judged))
        white = folded(g.add("MaskToImage", (x + FOLDED, 195), (300, 50), mask=threshold[0]))
        g.add("UnmemorizeHeatmapOverlay", (x, 250), (WIDE, 520), **judged)
        g.add("PreviewImage", (x, 880), (WIDE, 280), images=white[0])
        g.group(title, g.nodes[before:])
    return g.build("unmemorize-03-is-this-picture-memorized")


def all_maps_side_by_side(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 04: six maps of one generation, and the true mask."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, ALL_NOTE)
    load, empty, latent = folded_model(g, 0, 860)
    early = g.add("UnmemorizeLoadDemoCheckpoint", (0, 930), (NOTE_WIDTH, 60), "A less-trained baseline", stage="early")
    truth = demo_picture(g, 480, 0, CARD)
    white = folded(g.add("MaskToImage", (480, 145), (300, 50), mask=truth[1]))
    framed(g, "The truth: white is fixed", [truth, white], (480, 190), white[0])
    prompt = g.add("CLIPTextEncode", (480, 610), (WIDE, 100), clip=load[1], text=truth[2])
    recorder = folded(g.add("UnmemorizeRecordScoreDifference", (480, 750), (300, 110), model=load[0]))
    sampler = sampled(g, 480, 795, recorder[0], prompt, empty, latent)
    decode = decoded(g, 480 + FOLDED, 795, sampler[0], load)
    framed(g, "The picture", [prompt, recorder, sampler, decode], (480, 840), decode[0])
    links: dict[str, Any] = {"model": load[0], "positive": prompt[0], "latent": sampler[0], "negative": empty[0], "baseline": early[0]}
    titles = ("Against the empty prompt", "Against the baseline", "Against both", "Quick, against the baseline")
    made: list[tuple[str, str, dict[str, Any]]] = [
        (title, "UnmemorizeCurvatureDifferenceMap", links | {"method": method}) for title, method in zip(titles, METHODS, strict=True)
    ]
    made.append(("Recorded while sampling", "UnmemorizeScoreDifferenceMap", {"recording": recorder[1], "latent": sampler[0]}))
    ending = {"model": load[0], "clip": load[1], "text": truth[2], "latent": sampler[0]}
    made.append(("Bright Ending", "UnmemorizeBrightEndingMap", ending))
    for k, (title, kind, inputs) in enumerate(made):
        _painted(g, title, (COLUMNS[1 + k % 3], 540 * (k // 3)), decode, folded(g.add(kind, (0, 0), (300, 350), **inputs)))
    return g.build("unmemorize-04-all-maps-side-by-side")


def _painted(g: Graph, title: str, at: tuple[int, int], picture: Node, measured: Node) -> None:
    """A map over its picture, both its nodes folded."""
    measured.pos = at
    overlay = folded(g.add("UnmemorizeHeatmapOverlay", (at[0], at[1] + 45), (330, 480), image=picture[0], map=measured[0]))
    framed(g, title, [measured, overlay], (at[0], at[1] + 90), overlay[0])
