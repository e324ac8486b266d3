"""Workflows 03 and 04: an audit of an existing picture, and all maps side by side."""

from __future__ import annotations

from typing import Any

from ...pictures import read_facts
from ...recipe.lab import LAB
from ..graph import Graph
from .shared import (
    MAPS_AT_CFG_1,
    NOTE_AT,
    NOTE_WIDTH,
    SAMPLING,
    WIDE,
    demo_model,
    demo_picture,
    folded,
    folded_model,
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
One generation of a memorized template, mapped in every way the pack knows. The card is fixed, the window is free.

| map | asks | costs |
|---|---|---|
| dh_0 | does the prompt pin it down more than the model alone? | 2 evaluations a probe |
| dh_~ | more than a less-trained model under the same prompt? | the same |
| dh_0 + dh_~ | both | 3 evaluations a probe |
| ds_~ | how far apart are the two models' predictions? | 2 evaluations |
| ds_0, recorded | how far does the prompt pull, while sampling? | nothing |
| Bright Ending | the published baseline: attention to the prompt's end | 1 evaluation |
""" + own_model(
    "`baseline` is a less-trained model of the same kind; with a LoRA, the model before it. Bright Ending works on SD1.5, SD2 and SDXL "
    "only, and ds_0, recorded, needs a `cfg` above 1: on Flux both say so and stop, so remove them there. " + MAPS_AT_CFG_1
)
CARD = "template: "


def is_this_picture_memorized(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 03: an encoded training picture, mapped under its own caption and under another."""
    g = Graph(object_info)
    g.note((0, 60), NOTE_WIDTH, AUDIT_NOTE)
    load, empty, latent = folded_model(g, 0, 960)
    picture = demo_picture(g, 480, 0, CARD)
    encoded = folded(g.add("VAEEncode", (480, 190), (330, 50), pixels=picture[0], vae=load[2]))
    g.add("PreviewImage", (480, 250), (WIDE, 310), images=picture[0])
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
        white = folded(g.add("MaskToImage", (x + 140, 195), (300, 50), mask=threshold[0]))
        g.add("UnmemorizeHeatmapOverlay", (x, 250), (WIDE, 520), **judged)
        g.add("PreviewImage", (x, 880), (WIDE, 280), images=white[0])
        g.group(title, g.nodes[before:])
    return g.build("unmemorize-03-is-this-picture-memorized")


def all_maps_side_by_side(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 04: six maps of one generation, and the true mask."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, ALL_NOTE)
    load, empty, latent = demo_model(g)
    early = g.add("UnmemorizeLoadDemoCheckpoint", (400, 690), (300, 100), "Less-trained baseline", stage="early")
    truth = demo_picture(g, 400, -20, CARD)
    white = g.add("MaskToImage", (400, 160), (300, 50), mask=truth[1])
    g.add("PreviewImage", (400, 270), (300, 200), "The truth: white = fixed", images=white[0])
    prompt = g.add("CLIPTextEncode", (400, 530), (300, 100), "Its caption", clip=load[1], text=truth[2])
    recorder = g.add("UnmemorizeRecordScoreDifference", (760, -20), (300, 110), model=load[0])
    sampler = sampled(g, 760, 150, recorder[0], prompt, empty, latent)
    decode = g.add("VAEDecode", (760, 480), (300, 50), samples=sampler[0], vae=load[2])
    g.add("PreviewImage", (760, 590), (300, 230), "Picture", images=decode[0])
    overlays = []
    for k, method in enumerate(("dh_0", "dh_~", "dh_0 + dh_~", "ds_~")):
        node = g.add(
            "UnmemorizeCurvatureDifferenceMap",
            (1120 + 370 * k, -20),
            (330, 350),
            method,
            model=load[0],
            positive=prompt[0],
            latent=sampler[0],
            negative=empty[0],
            baseline=early[0],
            method=method,
        )
        overlays.append((method, (1120 + 370 * k, 390), node))
    recorded = g.add("UnmemorizeScoreDifferenceMap", (2600, -20), (330, 120), recording=recorder[1], latent=sampler[0])
    overlays.append(("ds_0, recorded", (2600, 390), recorded))
    ending = g.add("UnmemorizeBrightEndingMap", (2970, -20), (330, 260), model=load[0], clip=load[1], text=truth[2], latent=sampler[0])
    overlays.append(("Bright Ending", (2970, 390), ending))
    for title, at, source in overlays:
        g.add("UnmemorizeHeatmapOverlay", at, (330, 480), title, image=decode[0], map=source[0])
    return g.build("unmemorize-04-all-maps-side-by-side")
