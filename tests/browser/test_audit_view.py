"""An audit as a gallery in its node: cards with pictures, another order, hostile prompts inert."""

from __future__ import annotations

from typing import Any

import pytest
from unmemorize_pack.demo.live.graph import Graph

from .test_themes import LEGIBLE, PALE, THEMES
from .test_workflows import empty

HOSTILE = "<img src=x onerror=alert(1)> a large blue star"
PROMPTS = f"a small red circle\n{HOSTILE}\na green cross on a white background"
PANEL = "app.graph._nodes.find(n => n.type === 'UnmemorizeAudit').widgets.find(w => w.name === 'unmemorize_view').element.shadowRoot"


def workflow(object_info: dict[str, Any]) -> dict[str, Any]:
    g = Graph(object_info)
    load = g.add("UnmemorizeLoadDemoCheckpoint", (0, 0), (300, 100))
    empty = g.add("CLIPTextEncode", (0, 150), (300, 100), clip=load[1], text="")
    latent = g.add("EmptyLatentImage", (0, 300), (300, 110), width=128, height=128)
    g.add(
        "UnmemorizeAudit", (340, 0), (420, 900), model=load[0], clip=load[1], vae=load[2], negative=empty[0], latent=latent[0],
        prompts=PROMPTS, name="view", seeds=3, seed=1, steps=4, cfg=3.0, sampler_name="euler", scheduler="normal", neighbours=1,
    )  # fmt: skip
    return g.build("unmemorize-audit-view")


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "nodes-2"])
def test_the_gallery_is_drawn_sorted_and_inert(page, server, queue, shoot, vue):
    page.evaluate("on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", vue)
    page.wait_for_timeout(1500)
    page.evaluate("g => app.loadGraphData(g)", workflow(server.object_info()))
    page.wait_for_timeout(1500)
    queue(page)
    page.wait_for_function(f"() => {PANEL}.querySelectorAll('.card').length === 3", timeout=300_000)
    page.wait_for_function(f"() => [...{PANEL}.querySelectorAll('.card img')].every(i => i.complete && i.naturalWidth === 3 * 96)")
    titles = f"() => [...{PANEL}.querySelectorAll('.card b')].map(b => b.textContent)"
    assert sorted(page.evaluate(titles)) == sorted(PROMPTS.split("\n")), "a hostile prompt is text"
    order = f"by => {{ const s = {PANEL}.querySelector('select'); s.value = by; s.dispatchEvent(new Event('change')) }}"
    page.evaluate(order, "prompt")
    assert page.evaluate(titles)[0] == HOSTILE
    page.evaluate(order, "map score")
    numbers = page.evaluate(
        f"() => [...{PANEL}.querySelectorAll('.card .numbers')].map(n => Number(n.textContent.match(/map score ([\\d.e-]+)/)[1]))"
    )
    assert len(numbers) == 3 and numbers == sorted(numbers, reverse=True) and len(set(numbers)) > 1
    link = page.evaluate(f"() => {PANEL}.querySelector('a').href")
    assert page.request.get(link).text().startswith("<!doctype html>")
    shoot(page, f"audit-{'nodes-2' if vue else 'classic'}")
    try:
        for theme in THEMES:
            page.evaluate("theme => app.extensionManager.setting.set('Comfy.ColorPalette', theme)", theme)
            page.wait_for_timeout(800)
            empty(page, PALE, LEGIBLE)
    finally:
        page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
