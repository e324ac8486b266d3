"""Workflow 21: three steps to an answer about a model of one's own."""

from __future__ import annotations

from typing import Any

from ..graph import Graph, Node
from .guard import CLEAN_PROMPTS
from .shared import CAT, COLUMNS, NOTE_AT, NOTE_WIDTH, SAMPLING, WIDE, decoded, folded, framed

NOTE = """## Your own model in three steps
Press **Run** to see it with the demo model. Then:

1. **Load your model.** Muted under the demo checkpoint: *Load Checkpoint* for SD1.5 and SDXL, then the three loaders of Flux. Choose
your files, press Ctrl+M on them, and connect MODEL, CLIP and VAE in the demo's place. Size: SD1.5 512 x 512, SDXL and Flux 1024 x 1024.
2. **Measure once.** *Stability Profile for This Model* samples 50 everyday prompts and keeps what it found: as long as 50 pictures of
yours, and nothing the second time. *Calibrate Map Threshold*, muted, takes as long as its 24 prompts: write ordinary ones of your own
there, press Ctrl+M on it and connect it to *Heatmap Overlay* in place of the demo model's threshold.
3. **Ask.** Write the prompt you wonder about. The guard says whether the run was recalled; the map says where.

Use `steps`, `cfg`, sampler and scheduler of your own, the same everywhere. The prompts to measure with are ordinary ones of the kind you
draw, surely not memorized.

Measured so far: the demo model only. At CFG 1, as with Flux, there is no prediction without a prompt: the guard falls back on the paper's
detector, and maps mean less.
"""


def your_own_model(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 21: load, measure once, ask; loaders of other families stand muted beside the demo's."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, NOTE)
    load = g.add("UnmemorizeLoadDemoCheckpoint", (480, 0), (WIDE, 60))
    empty = g.add("CLIPTextEncode", (480, 130), (WIDE, 60), clip=load[1], text="")
    latent = g.add("EmptyLatentImage", (480, 250), (WIDE, 110), width=128, height=128, batch_size=1)
    g.group("1  Load your model", [load, empty, latent, *_loaders(g, 480, 420)])
    settings = {k: v for k, v in SAMPLING.items() if k != "denoise"}
    links: dict[str, Any] = {"model": load[0], "clip": load[1], "latent": latent[0]}
    asked: dict[str, Any] = {"seed": 1}
    profile = g.add("UnmemorizeModelStabilityProfile", (COLUMNS[1], 0), (WIDE, 380), negative=empty[0], **links, **asked, **settings)
    threshold = g.add("UnmemorizeLoadMapThreshold", (COLUMNS[1], 490), (WIDE, 60), threshold="demo/demo")
    few: dict[str, Any] = {"prompts": CLEAN_PROMPTS, "steps": SAMPLING["steps"], "cfg": SAMPLING["cfg"]}
    calibrate = g.add("UnmemorizeCalibrateMapThreshold", (COLUMNS[1], 640), (WIDE, 500), **links, **few)
    calibrate.muted = True
    g.group("2  Measure once", [profile, threshold, calibrate])
    _asked(g, load, empty, latent, profile, threshold)
    return g.build("unmemorize-21-your-own-model")


def _loaders(g: Graph, x: int, y: int) -> list[Node]:
    """Loaders of SD1.5, SDXL and Flux, muted."""
    made = [
        g.add("CheckpointLoaderSimple", (x, y), (WIDE, 100), ckpt_name="SD1.5 or SDXL: choose your file"),
        g.add("UNETLoader", (x, y + 150), (WIDE, 80), unet_name="Flux: choose your file"),
        g.add("DualCLIPLoader", (x, y + 280), (WIDE, 130), clip_name1="clip_l", clip_name2="t5xxl", type="flux"),
        g.add("VAELoader", (x, y + 460), (WIDE, 60), vae_name="ae"),
    ]
    for node in made:
        node.muted = True
    return made


def _asked(g: Graph, load: Node, empty: Node, latent: Node, profile: Node, threshold: Node) -> None:
    """The prompt in question: its picture under guard with the verdict, and its heatmap."""
    x, before = COLUMNS[2], len(g.nodes)
    prompt = g.add("CLIPTextEncode", (x, 0), (WIDE, 100), clip=load[1], text=CAT)
    links: dict[str, Any] = {"model": load[0], "positive": prompt[0], "negative": empty[0]}
    guard: dict[str, Any] = {"mode": "detect", "profile": profile[0], "latent_image": latent[0]}
    guarded = g.add("UnmemorizeKSamplerStabilityGuard", (x, 150), (WIDE, 590), seed=1, **links, **guard, **SAMPLING)
    g.group("3  Ask: is it recalled?", g.nodes[before:])
    x = COLUMNS[3]
    decode = decoded(g, x + 190, 0, guarded[0], load)
    measured = folded(g.add("UnmemorizeCurvatureDifferenceMap", (x, 0), (330, 390), latent=guarded[0], **links))
    look: dict[str, Any] = {"image": decode[0], "map": measured[0], "calibration": threshold[0]}
    overlay = g.add("UnmemorizeHeatmapOverlay", (x, 50), (WIDE, 560), **look)
    g.group("... and where?", [decode, measured, overlay])
    framed(g, "The picture", [], (x, 680), decode[0])
