"""Workflows 11 to 13 and 23: is it a copy, which word calls it up, an audit of many prompts, and a gate that has copies drawn again."""

from __future__ import annotations

from typing import Any

from ..graph import Graph, Node
from .shared import (
    CAT,
    FOLDED,
    NEXT_ROW,
    NOTE_AT,
    NOTE_WIDTH,
    ORDINARY,
    RACCOON,
    SAMPLING,
    WIDE,
    decoded,
    demo_picture,
    drawn,
    folded,
    folded_model,
    framed,
    own_model,
    sampled,
)

COPY_NOTE = """## Is this picture a copy?
Press **Run**. *Copy Check* compares two pictures with references, here five training photographs of the demo model.

- The first prompt brings a training photograph: a **copy**, with the reference beside it and the copied part outlined.
- The second is an ordinary scene: **accepted**.

The answer is calibrated by 32 honest pictures of two kinds: at most one in twenty such would be called a copy.

**A gate**: what hangs on an empty output does not run. Whatever is *rejected* goes no further. Next: 23 draws its prompt again under guard.
""" + own_model("Your training pictures: a folder inside ComfyUI's input folder, in *Reference Pictures*.")
PHOTOS = ("cat-face", "coffee-cup", "airplane-above", "raccoon-face", "astronaut-smile")
HONEST = ("a large yellow cross on a white background", "a small cyan circle on a white background")


def is_it_a_copy(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 11: two pictures against five references."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, COPY_NOTE)
    demo = load, empty, latent = folded_model(g, 0, 800)
    references = _references(g, 0, 900, PHOTOS)
    pictures = []
    for k, (title, caption) in enumerate((("A memorized prompt", CAT), ("An ordinary prompt", ORDINARY))):
        y = 580 * k
        prompt = g.add("CLIPTextEncode", (480, y), (WIDE, 100), clip=load[1], text=caption)
        pictures.append(drawn(g, title, 480, y + 150, load[0], prompt, demo, prompt))
    both = folded(g.add("ImageBatch", (880, 0), (300, 60), image1=pictures[0][0], image2=pictures[1][0]))
    detector = folded(g.add("UnmemorizeLoadCopyDetector", (880 + FOLDED, 0), (320, 110)))
    check = g.add(
        "UnmemorizeCopyCheck", (880, 40), (560, 820), images=both[0], references=references[0], detector=detector[0],
        honest=_honest(g, 880, 930, demo, HONEST)[0], calibrate="honest pictures", false_alarms=0.05,
    )  # fmt: skip
    for k, title in enumerate(("Accepted", "Rejected")):
        framed(g, title, [], (1450, NEXT_ROW * k), check[k])
    return g.build("unmemorize-11-is-it-a-copy")


def _references(g: Graph, x: int, y: int, photographs: tuple[str, ...]) -> Node:
    """Training photographs, folded."""
    batch: Node | None = None
    before = len(g.nodes)
    for k, words in enumerate(photographs):
        picture = folded(demo_picture(g, x, y + 40 * k, words))
        joined = batch and folded(g.add("ImageBatch", (x + 170, y + 40 * k), (240, 60), image1=batch[0], image2=picture[0]))
        batch = joined or picture
    assert batch is not None
    references = folded(g.add("UnmemorizeReferencePictures", (x + 170, y), (320, 170), folder="none", images=batch[0]))
    g.group("References: training photographs", g.nodes[before:])
    return references


def _honest(g: Graph, x: int, y: int, demo: tuple[Node, Node, Node], captions: tuple[str, str]) -> Node:
    """32 pictures of ordinary prompts, folded."""
    load, empty, _ = demo
    before = len(g.nodes)
    many = folded(g.add("EmptyLatentImage", (x, y), (300, 110), width=128, height=128, batch_size=16))
    made = []
    for k, caption in enumerate(captions):
        row = y + 40 * (k + 1)
        prompt = folded(g.add("CLIPTextEncode", (x, row), (300, 110), clip=load[1], text=caption))
        made.append(decoded(g, x + 2 * FOLDED, row, sampled(g, x + FOLDED, row, load[0], prompt, empty, many)[0], load))
    honest = folded(g.add("ImageBatch", (x + FOLDED, y), (320, 60), image1=made[0][0], image2=made[1][0]))
    g.group("Honest pictures, to compare with", g.nodes[before:])
    return honest


AGAIN_NOTE = """## A gate that has copies drawn again
Press **Run**. Four pictures of one prompt, and some of them are a photograph that the demo model was trained on.

1. *Copy Check* compares them with references. What it accepts goes on at once.
2. What it rejects is drawn again, once: as many pictures, another seed, by *KSampler (Stability Guard)*, which draws what it recognises
with other words.
3. A second *Copy Check* looks at these. What it rejects, too, goes nowhere.

If nothing is rejected, nothing is drawn again: what hangs on an empty output does not run.
""" + own_model(
    "Your training pictures: a folder inside ComfyUI's input folder, in *Reference Pictures*. *rejected indices* says which pictures "
    "of the batch they were."
)
SOMETIMES = "a small striped red ring on a gray background"
"""Caption of a photograph that the demo model gives back for some seeds."""
ITS_PHOTOS = ("hopper-ribbons", *PHOTOS[:4])
ITS_HONEST = ("a small striped blue ring on a white background", "a large striped red ring on a brown background")
"""Of the same kind: pictures of another kind are less alike."""
SEVERAL, FIRST_SEED, OTHER_SEED = 4, 4, 6


def draw_copies_again(object_info: dict[str, Any]) -> dict[str, Any]:
    """Workflow 23: pictures of a prompt; copies are drawn once more under guard with another seed, and looked at again."""
    g = Graph(object_info)
    g.note(NOTE_AT, NOTE_WIDTH, AGAIN_NOTE)
    demo = load, empty, _ = folded_model(g, 0, 730)
    check: dict[str, Any] = {
        "references": _references(g, 0, 830, ITS_PHOTOS)[0], "honest": _honest(g, 480, 930, demo, ITS_HONEST)[0],
        "calibrate": "honest pictures", "false_alarms": 0.05,
    }  # fmt: skip
    before = len(g.nodes)
    prompt = g.add("UnmemorizeAlternativePrompts", (480, 0), (NOTE_WIDTH, 110), clip=load[1], text=SOMETIMES, word_list="")
    many = folded(g.add("EmptyLatentImage", (480, 200), (300, 110), width=128, height=128, batch_size=SEVERAL))
    sampler = sampled(g, 640, 200, load[0], prompt, empty, many, FIRST_SEED)
    pictures = decoded(g, 640 + FOLDED, 200, sampler[0], load)
    first = g.add("UnmemorizeCopyCheck", (480, 245), (NOTE_WIDTH, 560), images=pictures[0], **check)
    g.group("1  Are they copies?", g.nodes[before:])
    guarded = _again(g, 970, first, (load, empty, prompt))
    framed(g, "Accepted at once", [], (970, 800), first[0])
    decode = decoded(g, 1360, 0, guarded[0], load)
    second = g.add("UnmemorizeCopyCheck", (1360, 45), (NOTE_WIDTH, 560), images=decode[0], **check)
    g.group("3  And now?", [decode, second])
    framed(g, "Accepted, drawn again", [], (1360, 800), second[0])
    return g.build("unmemorize-23-draw-copies-again")


def _again(g: Graph, x: int, check: Node, given: tuple[Node, Node, Node]) -> Node:
    """A guarded sampler with another seed, for as many pictures as were rejected."""
    load, empty, prompt = given
    before = len(g.nodes)
    size = folded(g.add("GetImageSize", (x, 0), (250, 60), image=check[1]))
    latent = folded(g.add("EmptyLatentImage", (x + FOLDED, 0), (300, 110), width=size[0], height=size[1], batch_size=size[2]))
    profile = folded(g.add("UnmemorizeLoadStabilityProfile", (x, 45), (NOTE_WIDTH, 60), profile="demo/demo"))
    links: dict[str, Any] = {"model": load[0], "positive": prompt[0], "negative": empty[0], "latent_image": latent[0]}
    look: dict[str, Any] = {"mode": "correct", "profile": profile[0], "alternatives": prompt[1]}
    guarded = g.add("UnmemorizeKSamplerStabilityGuard", (x, 90), (WIDE, 590), seed=OTHER_SEED, **links, **look, **SAMPLING)
    g.group("2  Copies, drawn again", g.nodes[before:])
    return guarded


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
    demo = load, empty, latent = folded_model(g, 0, 640)
    settings = {k: v for k, v in SAMPLING.items() if k != "denoise"}
    profile = g.add("UnmemorizeLoadStabilityProfile", (0, 720), (NOTE_WIDTH, 60), profile="demo/demo")
    words = g.add(
        "UnmemorizeTriggerWords", (480, 0), (520, 900), model=load[0], clip=load[1], negative=empty[0], latent=latent[0],
        prompt=CAT, seeds=2, seed=1, word_list=WORD_LIST, profile=profile[0], **settings,
    )  # fmt: skip
    for k, (title, text) in enumerate((("Before", CAT), ("With that word changed", words[2]))):
        prompt = g.add("CLIPTextEncode", (1060 + 400 * k, 0), (WIDE, 100), clip=load[1], text=text)
        drawn(g, title, 1060 + 400 * k, 150, load[0], prompt, demo, prompt)
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
    demo = load, empty, latent = folded_model(g, 0, 700)
    settings = {k: v for k, v in SAMPLING.items() if k != "denoise"}
    links: dict[str, Any] = {"model": load[0], "clip": load[1], "negative": empty[0], "latent": latent[0]}
    profile = g.add("UnmemorizeModelStabilityProfile", (480, 0), (WIDE, 420), **links, seed=1, **settings)
    g.add(
        "UnmemorizeAudit", (880, 0), (560, 900), **links, vae=load[2], prompts=AUDITED, name="demo", seeds=4, seed=1, neighbours=2,
        profile=profile[0], **settings,
    )  # fmt: skip
    first = g.add("CLIPTextEncode", (1460, 0), (WIDE, 100), clip=load[1], text=CAT)
    drawn(g, "The first prompt", 1460, 150, load[0], first, demo, first)
    return g.build("unmemorize-13-audit-a-model")
