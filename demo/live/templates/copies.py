"""Workflows 11 to 13: is it a copy, which word calls it up, and an audit of many prompts."""

from __future__ import annotations

from typing import Any

from ..graph import Graph, Node
from .guard import CLEAN_PROMPTS, shown
from .shared import CAT, NOTE_AT, NOTE_WIDTH, ORDINARY, RACCOON, SAMPLING, demo_model, demo_picture, own_model, sampled

COPY_NOTE = """## Is this picture a copy?
Press **Run**. *Copy Check* compares two pictures with references, here five training photographs of the demo model.

- The first prompt brings a training photograph: a **copy**, with the reference beside it and the copied part outlined.
- The second is an ordinary scene: **accepted**.

The answer is calibrated by 32 honest pictures of two kinds: at most one in twenty such would be called a copy.

**A gate**: what hangs on an empty output does not run. Whatever is *rejected* goes no further; draw its prompt again under guard (workflow
06) with another seed.
""" + own_model("Your training pictures: a folder inside ComfyUI's input folder, in *Reference Pictures*.")
PHOTOS = ("cat-face", "coffee-cup", "airplane-above", "raccoon-face", "astronaut-smile")
HONEST = ("a large yellow cross on a white background", "a small cyan circle on a white background")


def is_it_a_copy(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 11: two pictures against five references."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, COPY_NOTE)
    load, empty, latent = demo_model(g)
    before = len(g.nodes)
    batch: Node | None = None
    for k, words in enumerate(PHOTOS):
        picture = demo_picture(g, 40, 520 + 150 * k, words)
        joined = batch and g.add("ImageBatch", (370, 520 + 150 * k), (240, 60), image1=batch[0], image2=picture[0])
        batch = joined or picture
    assert batch is not None
    references = g.add("UnmemorizeReferencePictures", (640, 1120), (320, 170), folder="none", images=batch[0])
    g.group("References: training photographs", g.nodes[before:])
    made = []
    for i, (title, caption) in enumerate((("A memorized prompt", CAT), ("An ordinary prompt", ORDINARY))):
        prompt = g.add("CLIPTextEncode", (410, 190 * i - 20), (300, 110), title, clip=load[1], text=caption)
        drawn = sampled(g, 740 + 330 * i, -20, load[0], prompt, empty, latent)
        made.append(g.add("VAEDecode", (740 + 330 * i, 300), (300, 50), samples=drawn[0], vae=load[2]))
    both = g.add("ImageBatch", (1070, 400), (300, 60), image1=made[0][0], image2=made[1][0])
    many = g.add("EmptyLatentImage", (410, 360), (300, 110), width=128, height=128, batch_size=16)
    decoded = []
    for i, caption in enumerate(HONEST):
        prompt = g.add("CLIPTextEncode", (640 + 370 * i, 520), (300, 110), "Honest pictures", clip=load[1], text=caption)
        drawn = sampled(g, 640 + 370 * i, 680, load[0], prompt, empty, many)
        decoded.append(g.add("VAEDecode", (640 + 370 * i, 1000), (300, 50), samples=drawn[0], vae=load[2]))
    honest = g.add("ImageBatch", (1010, 1100), (320, 60), image1=decoded[0][0], image2=decoded[1][0])
    detector = g.add("UnmemorizeLoadCopyDetector", (1010, 1210), (320, 110))
    check = g.add(
        "UnmemorizeCopyCheck", (1400, -20), (430, 820), images=both[0], references=references[0], detector=detector[0], honest=honest[0],
        calibrate="honest pictures", false_alarms=0.05,
    )  # fmt: skip
    g.add("PreviewImage", (1870, -20), (300, 320), "Accepted", images=check[0])
    g.add("PreviewImage", (1870, 360), (300, 320), "Rejected", images=check[1])
    return g.build("unmemorize-11-is-it-a-copy")


WORD_NOTE = """## Which word calls it up?
Press **Run**. *Trigger Words* takes each word of the prompt away, puts another in its place, and colours the prompt by how much of the
memorization signal goes with it. Right: the picture of the prompt, and of the prompt with that one word changed.

It samples the first steps only, twice a word and seed.
""" + own_model("*word_list* holds words that may stand in each other's place; leave it empty and the text encoder finds the nearest.")
WORD_LIST = """red, orange, yellow, green, cyan, blue, purple, pink
circle, square, triangle, ring, star, cross
white, black, gray, navy, brown, sand, teal
small, large
striped, halved"""


def which_word_calls_it_up(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 12: the words of a memorized prompt, and its picture before and after."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, WORD_NOTE)
    load, empty, latent = demo_model(g)
    settings = {k: v for k, v in SAMPLING.items() if k != "denoise"}
    profile = g.add("UnmemorizeLoadStabilityProfile", (40, 490), (300, 80), profile="demo/demo")
    words = g.add(
        "UnmemorizeTriggerWords", (410, -20), (420, 700), model=load[0], clip=load[1], negative=empty[0], latent=latent[0],
        prompt=CAT, seeds=2, seed=1, word_list=WORD_LIST, profile=profile[0], **settings,
    )  # fmt: skip
    before = g.add("CLIPTextEncode", (870, -20), (300, 110), "The prompt", clip=load[1], text=CAT)
    after = g.add("CLIPTextEncode", (870, 420), (300, 110), "With that word changed", clip=load[1], text=words[2])
    for prompt, y, title in ((before, -20, "Before"), (after, 420, "After")):
        shown(g, 1540, y, sampled(g, 1200, y, load[0], prompt, empty, latent), load, title)
    return g.build("unmemorize-12-which-word-calls-it-up")


AUDIT_NOTE = """## What does this model give back?
Press **Run**. *Audit* draws each prompt with four seeds and writes a page into output/unmemorize/audits: how much the pictures of a
prompt agree beyond what such prompts do anyway, and what the guard says. Stop it when you like: the same audit carries on.

*Stability Profile for This Model* gives the guard what it needs: the demo's bundled profile, or one that is measured once for your model.
""" + own_model("A list of prompts as a file (text, CSV, JSON Lines) goes into ComfyUI's input folder.")
AUDITED = f"{CAT}\n{RACCOON}\n{ORDINARY}\na large yellow cross on a gray background"


def audit_a_model(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 13: four prompts, two of them memorized."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, AUDIT_NOTE)
    load, empty, latent = demo_model(g)
    settings = {k: v for k, v in SAMPLING.items() if k != "denoise"}
    links: dict[str, Any] = {"model": load[0], "clip": load[1], "negative": empty[0], "latent": latent[0]}
    profile = g.add("UnmemorizeModelStabilityProfile", (410, -20), (360, 420), **links, prompts=CLEAN_PROMPTS, seed=1, **settings)
    g.add(
        "UnmemorizeAudit", (810, -20), (420, 760), **links, vae=load[2], prompts=AUDITED, name="demo", seeds=4, seed=1, neighbours=2,
        profile=profile[0], **settings,
    )  # fmt: skip
    first = g.add("CLIPTextEncode", (1270, -20), (300, 110), "The first prompt", clip=load[1], text=CAT)
    shown(g, 1610, -20, sampled(g, 1270, 150, load[0], first, empty, latent), load, "Its picture")
    return g.build("unmemorize-13-audit-a-model")
