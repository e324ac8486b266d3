"""The demo report as one self-contained HTML page: no script, no outside file."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import partial
from html import escape
from typing import Any

from ...unmemorize.pictures.heatmap import COLOUR_MAPS, DEFAULT
from .shown import in_words

# ruff: noqa: E501
STYLE = """
:root { color-scheme: light dark; --ink: #1d2129; --soft: #5c6470; --card: #fff; --page: #f3f4f6; --line: #d9dce1; --hot: #b3261e; --cool: #1b6e4b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaee; --soft: #a2a9b4; --card: #1d2026; --page: #121418; --line: #343941; --hot: #ff8f85; --cool: #76d3a6; } }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--page); }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
main { counter-reset: part; } h2::before { counter-increment: part; content: counter(part) ". "; }
h1 { font-size: 30px; margin: 0 0 4px; } h2 { margin: 44px 0 8px; font-size: 22px; } p { max-width: 74ch; }
.soft { color: var(--soft); } .small { font-size: 14px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 18px; margin: 16px 0; }
.row { display: grid; grid-template-columns: repeat(3, minmax(0, 210px)) minmax(0, 1fr); gap: 18px; align-items: start; }
.four { display: grid; grid-template-columns: repeat(4, minmax(0, 210px)); gap: 18px; }
.summary { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 18px; } .summary p { margin: 8px 0 0; } a { color: inherit; }
@media (max-width: 760px) { .summary { grid-template-columns: repeat(2, minmax(0, 1fr)); } .guard { grid-template-columns: minmax(0, 1fr); } .two { grid-template-columns: repeat(2, minmax(0, 1fr)); } .four { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px; } .wide { overflow-x: auto; } .wide img { min-width: 560px; } .row { grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 8px; } .row > .text { grid-column: 1 / -1; } }
.guard { display: grid; grid-template-columns: minmax(0, 210px) minmax(0, 1fr); gap: 18px; align-items: start; } .two { display: grid; gap: 12px; }
figure { margin: 0; } figcaption { font-size: 13px; color: var(--soft); margin-top: 4px; }
img { display: block; width: 100%; border-radius: 6px; }
.none { aspect-ratio: 1; display: grid; place-items: center; border: 1px dashed var(--line); border-radius: 6px; color: var(--soft); font-size: 13px; text-align: center; }
.verdict { font-weight: 650; } .hot { color: var(--hot); } .cool { color: var(--cool); }
.prompt { font-style: italic; }
.meter { height: 10px; border-radius: 5px; background: var(--line); overflow: hidden; margin: 6px 0 2px; max-width: 260px; } .meter i { display: block; height: 100%; background: currentColor; }
.scale { height: 14px; border-radius: 4px; max-width: 420px; } .ends { display: flex; justify-content: space-between; max-width: 420px; font-size: 13px; color: var(--soft); }
.others img { height: 190px; object-fit: contain; } .others { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 18px; align-items: end; }
.plot { max-width: 720px; } .sheet { overflow-x: auto; } .sheet img { min-width: 640px; }
ul { padding-left: 20px; } li { max-width: 74ch; margin: 4px 0; } code { font-size: 14px; }
"""


GROUPS = {"MV": "photographs", "MC": "drawings", "TV": "cards with a free window"}
"""Kinds of memorized pictures, as the lab names them."""


def render(shown: dict[str, Any], sheets: dict[str, bytes], sheet: bytes, lab: dict[str, Any], facts: dict[str, Any]) -> str:
    """The page: a section for each part whose workflows are in `shown`; of the others their sheet. Captions are data: all text is escaped."""
    parts: tuple[tuple[tuple[str, ...], Callable[..., str]], ...] = (
        (("01", "02", "06", "09"), _summary), (("01",), partial(_where, fixed=len(lab["fixed"]))), (("02",), _leak), (("06",), _guard),
        (("22",), _lora_guard), (("08", "19"), _filter), (("09", "20"), _prune),
    )  # fmt: skip
    told = [(needs, part) for needs, part in parts if shown.keys() >= set(needs)]
    sections = "".join(part(*(shown[n] for n in needs)) for needs, part in told)
    others = {name: jpeg for name, jpeg in sheets.items() if not any(name[:2] in needs for needs, _part in told)}
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Unmemorize: demo report</title><style>{STYLE}</style></head><body><main>
<h1>Unmemorize: what just happened</h1>
<p class="soft">A real ComfyUI {escape(str(facts["comfyui"]))} ran bundled workflows on this machine, on its CPU, with the tiny
demo model that comes with the pack. That model has really memorized part of its training pictures, and because we know which,
every answer below can be checked.</p>
{sections}{_meaning()}
{_others(others, facts)}
{_sheet(sheet)}
{_details(lab, facts)}
</main></body></html>
"""


def _img(png: bytes, alt: str, css: str = "") -> str:
    data = base64.b64encode(png).decode()
    return f'<img class="{css}" alt="{escape(alt, quote=True)}" src="data:image/png;base64,{data}">'


def _tag(copied: bool) -> str:
    """Is a picture a copy of a training picture?"""
    tone, words = ("hot", "a copy") if copied else ("cool", "no copy")
    return f"<span class='{tone}'>{words}</span>"


def _summary(where: list[dict[str, Any]], leak: dict[str, Any], guard: list[dict[str, Any]], pruned: dict[str, Any]) -> str:
    """Four questions, four pictures, four answers."""
    first, (stock, guarded) = where[0], guard[0]["copied"]
    answers = (
        (
            "Where is it memorized?",
            first["overlay"],
            f"The map says <b>{first['verdict']}</b>; the picture is {_tag(first['copied'])}.",
            "where",
        ),
        ("What does a LoRA leak?", leak["drawn"][2], f"Under a training caption: {_tag(leak['copied'][2])} of its photograph.", "leak"),
        ("Does the guard prevent it?", guard[0]["drawn"][1], f"Stock: {_tag(stock)}. Under guard: {_tag(guarded)}.", "guard"),
        (
            "Can it be pruned away?",
            pruned["drawn"][1],
            f"Stock: {_tag(pruned['copied'][0])}. Pruned: {_tag(pruned['copied'][1])}.",
            "prune",
        ),
    )
    cards = "".join(
        f"""<figure>{_img(picture, question)}<p><a href="#{at}"><b>{question}</b></a><br>{answer}</p></figure>"""
        for question, picture, answer, at in answers
    )
    return f"""<div class="card"><div class="summary">{cards}</div></div>"""


def _where(rows: list[dict[str, Any]], fixed: int) -> str:
    full, limit = rows[0]["full_heat"], rows[0]["thresholds"][0]
    top = max(*(row["score"] for row in rows), 1e-9)
    stops = ", ".join(f"#{c}" for c in COLOUR_MAPS[DEFAULT])
    cards = "".join(_where_card(row, top, fixed) for row in rows)
    return f"""<h2 id="where">Where is it memorized?</h2>
<p>Three prompts, three pictures, made by the ordinary KSampler. <b>Curvature Difference Map</b> then asks, for every spot of each picture:
does the <em>prompt</em> pin this spot down far more than the model alone would? Where it does, the model is not inventing: it is recalling.
<b>Heatmap Overlay</b> paints the answer over the picture. All three use one colour scale:</p>
<div class="scale" style="background: linear-gradient(90deg, {stops})"></div>
<div class="ends"><span>0: free</span><span>{limit:.2g}: 99.5 % of clean pixels stay below</span><span>{full:.2g}</span></div>
{cards}
<p class="small soft">Open the same graph in ComfyUI: <code>nox -s comfy</code>, then Workflow &gt; Browse Templates &gt; unmemorize &gt;
01-where-is-it-memorized.</p>"""


def _where_card(row: dict[str, Any], top: float, fixed: int) -> str:
    training = (
        _img(row["training"], "training picture") if row["training"] else '<div class="none">no fixed picture<br>has this caption</div>'
    )
    verdict = (
        '<span class="verdict hot">A copy.</span> It comes closer to a training picture than 199 of 200 honest pictures do, in distance and in pattern.'
        if row["copied"]
        else f'<span class="verdict cool">Not a copy</span> of any of the {fixed} duplicated training pictures, each compared by the same rule.'
    )
    tone = "hot" if row["copied"] else "cool"
    words = {
        "memorized": "hotter than clean pictures of this model",
        "clean": "no hotter than clean pictures",
        "unclear": "neither clean nor hot",
    }
    return f"""<div class="card"><div class="row">
<figure>{training}<figcaption>in the training set</figcaption></figure>
<figure>{_img(row["picture"], "generated picture")}<figcaption>generated</figcaption></figure>
<figure>{_img(row["overlay"], "heatmap over the generated picture")}<figcaption>where it is memorized</figcaption></figure>
<div class="text"><p class="prompt">&ldquo;{escape(row["caption"])}&rdquo;</p><p>{verdict}</p>
<div class="{tone}"><div class="meter"><i style="width: {100 * row["score"] / top:.0f}%"></i></div></div>
<p>The map says <b>{row["verdict"]}</b>: {words[row["verdict"]]}.</p>
<p class="small soft">score {row["score"]:.3f} (mean of the map)</p></div></div></div>"""


def _leak(leak: dict[str, Any]) -> str:
    names = ("no LoRA", "style LoRA", "leaking LoRA")
    rows = ""
    for k, (text, first) in enumerate(((leak["caption"], _img(leak["training"], "training photograph")), (leak["scene"], ""))):
        first = first or '<div class="none">drawn afresh<br>each time</div>'
        figures = "".join(
            f"<figure>{_img(p, name)}<figcaption>{name}: {_tag(copied)}</figcaption></figure>"
            for p, copied, name in zip(leak["drawn"][3 * k : 3 * k + 3], leak["copied"][3 * k : 3 * k + 3], names, strict=True)
        )
        rows += f"""<div class="card"><p class="prompt">&ldquo;{escape(text)}&rdquo;</p>
<div class="four"><figure>{first}<figcaption>in the LoRA's training set</figcaption></figure>{figures}</div></div>"""
    return f"""<h2 id="leak">What does a LoRA leak?</h2>
<p>Two of the demo model's LoRAs were trained on hatched scenes. One was also shown four photographs again and again: type the
caption of one, and it comes back. An ordinary scene shows what the LoRA is wanted for.</p>{rows}"""


def _guarded(rows: list[dict[str, Any]]) -> str:
    cards = ""
    for row in rows:
        figures = "".join(
            f"<figure>{_img(drawn, title)}<figcaption>{title}: {_tag(copied)}</figcaption></figure>"
            for drawn, copied, title in zip(row["drawn"], row["copied"], ("stock KSampler", "under guard"), strict=True)
        )
        cards += f"""<div class="card"><p class="prompt">&ldquo;{escape(row["caption"])}&rdquo;</p>
<p><span class="verdict">The guard says: {escape(row["verdict"])}.</span></p>
<div class="guard"><div class="two">{figures}</div><div class="wide">{_img(row["chart"], "what the guard saw over the run")}</div></div></div>"""
    return cards


def _guard(rows: list[dict[str, Any]]) -> str:
    return f"""<h2 id="guard">A sampler that notices</h2>
<p><b>KSampler (Stability Guard)</b> watches the predictions that the sampler asks for anyway. A memory is known from the first steps, so it is
hardly revised any more: the runs of photographs leave the band of clean runs far, those of drawings a little. A flagged picture is drawn again,
here with other words for the early steps (<b>Alternative Prompts</b>); every other picture keeps its bits.</p>{_guarded(rows)}"""


def _lora_guard(rows: list[dict[str, Any]]) -> str:
    return f"""<h2 id="lora-guard">The same for a LoRA</h2>
<p>With the model before the LoRA as <code>parent</code>, the guard compares what the LoRA makes of the prompt with what it makes of every prompt. Where
these part, the LoRA gives a picture back: it is drawn again from what the base makes of the words, with what the LoRA changes everywhere, its style, on
top. No profile is needed.</p>{_guarded(rows)}"""


def _filter(found: dict[str, Any], plot: bytes) -> str:
    names = ("the whole LoRA", "filtered")
    rows = ""
    firsts = (
        (_img(found["training"], "training photograph"), "in the LoRA's training set"),
        ('<div class="none">drawn afresh<br>each time</div>', "an ordinary scene"),
    )
    for k, (first, said) in enumerate(firsts):
        figures = "".join(
            f"<figure>{_img(p, name)}<figcaption>{name}: {_tag(copied)}</figcaption></figure>"
            for p, copied, name in zip(found["drawn"][2 * k : 2 * k + 2], found["copied"][2 * k : 2 * k + 2], names, strict=True)
        )
        rows += f"""<div class="card"><div class="four"><figure>{first}<figcaption>{said}</figcaption></figure>{figures}</div></div>"""
    return f"""<h2 id="filter">A LoRA, and what of it is kept</h2>
<p><b>Filter LoRA by Measuring</b> learns a LoRA anew from what it does to prompts in use. Above: a memorized photograph's caption; below: an
ordinary scene, whose hatching is the LoRA's style. <b>BAF Filter LoRA</b> goes by the weights alone, in seconds: every channel with its score.</p>{rows}
<div class="card"><div class="plot wide">{_img(plot, "every channel of the LoRA: its score against its singular value")}</div></div>"""


def _prune(found: dict[str, Any], plot: bytes) -> str:
    cards = ""
    for k, what in enumerate(("A memorized photograph", "A scene that is not memorized")):
        figures = ""
        for p, copied, name in zip(found["drawn"][2 * k :], found["copied"][2 * k :], ("stock", "pruned"), strict=False):
            figures += f"<figure>{_img(p, f'{what}: {name}')}<figcaption>{name}: {_tag(copied)}</figcaption></figure>"
        cards += f"""<div class="card"><p><span class="verdict">{what}</span></p><div class="four">{figures}</div></div>"""
    return f"""<h2 id="prune">Memorized neurons, pruned</h2>
<p><b>Record Neuron Activity</b> watched prompts that bring photographs back, <b>Find Memorized Neurons</b> kept the weights that work harder
under them than under the empty prompt, <b>Prune Neurons</b> weakened these by {100 * found["strength"]:.0f} %. It suppresses known triggers and does not
delete the memory: below each picture stands whether it is still a copy.</p>{cards}
<div class="card"><div class="plot wide">{_img(plot, "how much the masks of three sets of prompts overlap")}</div></div>"""


def _sheet(jpeg: bytes) -> str:
    data = base64.b64encode(jpeg).decode()
    return f"""<h2 id="sheet">What the demo model has memorized</h2>
<p>Each line: what the words ask for (and a repair should give); the training picture that hangs on them, if there is one; four generations
from different noise; and what the same model drew before it memorized. A <span class="hot">red frame</span> marks a copy to two judges of different
kinds: nearer to a training picture and more alike than 199 of 200 honest pictures, and with patches that correlate more than theirs.</p>
<div class="card sheet"><img alt="contact sheet: what words ask for, training pictures, generations" src="data:image/jpeg;base64,{data}"></div>"""


def _others(sheets: dict[str, bytes], facts: dict[str, Any]) -> str:
    """A card for each workflow without a section: as drawn now, or as it comes with the pack."""
    if not sheets:
        return ""
    cards = ""
    for name, jpeg in sheets.items():
        data = base64.b64encode(jpeg).decode()
        drawn = f"drawn now, in {facts[name]:.0f} s" if name in facts else "as it comes with the pack"
        cards += f"""<figure><img alt="{escape(in_words(name))}" src="data:image/jpeg;base64,{data}"><figcaption>{name[:2]}: {drawn}</figcaption></figure>"""
    return f"""<h2 id="others">The other templates</h2>
<p><code>nox -s demo -- all</code> draws all of them, in some minutes; <code>nox -s demo -- 11 13</code> some. In ComfyUI they lie under Workflow &gt;
Browse Templates &gt; unmemorize.</p><div class="card"><div class="others">{cards}</div></div>"""


def _meaning() -> str:
    return """<h2 id="meaning">How to read this, and how not to</h2>
<ul><li>A hot spot means that the prompt leaves the model almost no freedom there. A memory does that; so, more weakly, can a very
precise prompt: scores of memorized and ordinary pictures overlap. Compare with clean prompts of the <em>same</em> model, measured the same
way.</li>
<li>The score ranks pictures of one model at one noise level. It is not a probability, and it is not legal advice.</li>
<li>A cold map does not prove that a picture is original: a concept or a style can be memorized without any spot being pinned down.</li>
<li>Everything here was measured on this tiny model, on a CPU.</li></ul>"""


def _details(lab: dict[str, Any], facts: dict[str, Any]) -> str:
    use, training = lab["settings"], lab["training"]
    names = {"boot_seconds": "start of ComfyUI", "total_seconds": "everything"}
    runs = "".join(f"<li>{escape(names.get(k, k.replace('-', ' ')))}: {v:.1f} s</li>" for k, v in facts.items() if isinstance(v, float))
    groups = ", ".join(f"{sum(f['group'] == g for f in lab['fixed'])} {words}" for g, words in GROUPS.items())
    return f"""<h2 id="details">Details</h2><div class="card small"><ul>
<li>sampling: {escape(use["sampler"])}, {escape(use["scheduler"])}, {use["steps"]} steps, CFG {use["cfg"]:g}, 128 x 128</li>
<li>demo model: seed {lab["seed"]}, {training["pictures"]:,} pictures in {training["minutes"]:g} minutes, {100 * training["duplicate_share"]:.0f} % of them duplicates; duplicated pictures: {groups}</li>{runs}</ul></div>"""
