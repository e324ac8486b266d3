"""What a user sees when a template opens, at 1600 x 1000 and without running it: text that can be read, nodes beside each other."""

from __future__ import annotations

from typing import Any

import pytest

from .test_workflows import CLASSIC, OPEN, OVERLAPPING, VUE, WORKFLOWS, empty

LEGIBLE = {CLASSIC: 0.6, VUE: 0.5}
"""Least scale: below it the classic canvas draws no text; Nodes 2.0 draws all a fifth larger."""
BOX = "const box = n => n.flags.collapsed ? [n._collapsed_width ?? 110, 0] : n.size"
OUTSIDE = f"""() => {{ {BOX}; const {{ scale, offset }} = app.canvas.ds
    return app.graph._nodes.map(n => [n.id + ' ' + n.type, (n.pos[0] + offset[0]) * scale, (n.pos[1] - 30 + offset[1]) * scale,
        (n.pos[0] + box(n)[0] + offset[0]) * scale, (n.pos[1] + box(n)[1] + offset[1]) * scale])
        .filter(([, left, top, right, bottom]) => left < 50 || top < 80 || right > innerWidth || bottom > innerHeight) }}"""
"""Nodes that are not wholly in the window, beside and below the bars, with their edges in pixels."""
OVER_EACH_OTHER = """() => { const all = [...document.querySelectorAll('.lg-node')]
        .map(e => [e.innerText.split('\\n')[0], e.getBoundingClientRect()])
    const shared = (a, b) => [Math.min(a.right, b.right) - Math.max(a.left, b.left),
        Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top)]
    return all.flatMap(([a, ra], i) => all.slice(0, i).map(([b, rb]) => [a, b, ...shared(ra, rb)])
        .filter(([, , x, y]) => x > 1 && y > 1)) }"""
"""Nodes that Nodes 2.0 draws over each other, with the pixels they share."""
ESCAPED = f"""() => {{ {BOX}; return app.graph._groups.flatMap(g => {{ const [x, y, w, h] = g._bounding
    const middle = n => [n.pos[0] + box(n)[0] / 2, n.pos[1] + box(n)[1] / 2]
    const held = n => middle(n)[0] > x && middle(n)[0] < x + w && middle(n)[1] > y && middle(n)[1] < y + h
    return app.graph._nodes.filter(held).filter(n => n.pos[0] < x || n.pos[1] - 30 < y || n.pos[0] + box(n)[0] > x + w ||
        n.pos[1] + box(n)[1] > y + h).map(n => `${{g.title}}: ${{n.id}} ${{n.type}}`) }}) }}"""
"""Nodes of which a group's frame holds the middle and not the whole."""


BLUEPRINT = """async name => {
    const { api } = await import('/scripts/api.js')
    const all = Object.entries(await (await api.fetchApi('/global_subgraphs')).json())
    const key = all.find(([, entry]) => entry.name === name)[0]
    await app.loadGraphData(JSON.parse((await (await api.fetchApi(`/global_subgraphs/${key}`)).json()).data))
    const [node] = app.graph._nodes
    return [Object.values((await app.graphToPrompt()).output).map(n => n.class_type).sort(), node.widgets.map(w => w.name)] }"""
"""What a blueprint sends when it is queued, and the widgets its node shows."""
SEARCHED = "() => app.graph._nodes.map(n => n.title).filter(title => / \\([a-z, ]+\\)$/.test(title))"
"""Titles that still say what people search for."""


@pytest.fixture(scope="module", params=[CLASSIC, VUE])
def mode(request, page) -> str:
    page.set_viewport_size({"width": 1600, "height": 1000})
    page.evaluate("on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", request.param == VUE)
    page.wait_for_timeout(1000)
    return request.param


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_template_opens_legibly(page: Any, mode: str, name: str, shoot: Any) -> None:
    assert page.evaluate(OPEN, name) == []
    page.wait_for_timeout(900)
    shoot(page, f"first-{name}-{mode}")
    page.wait_for_function("least => app.canvas.ds.scale >= least", arg=LEGIBLE[mode])
    for trouble in (OVERLAPPING, ESCAPED, SEARCHED) if mode == CLASSIC else (OVER_EACH_OTHER,):
        empty(page, trouble)
    empty(page, OUTSIDE)


@pytest.mark.parametrize(
    ("name", "kinds", "widgets"),
    [
        (
            "Where is it memorized",
            ["KSampler", "UnmemorizeCurvatureDifferenceMap", "UnmemorizeHeatmapOverlay", "VAEDecode"],
            ["seed", "steps", "cfg"],
        ),
        (
            "Picture under guard",
            ["UnmemorizeKSamplerStabilityGuard", "UnmemorizeModelStabilityProfile", "VAEDecode"],
            ["seed", "steps", "cfg", "mode"],
        ),
        (
            "Clean a LoRA",
            ["KSampler", "KSampler", "UnmemorizeCleanLoRA", "UnmemorizeLoadLoRABAF", "VAEDecode", "VAEDecode"],
            ["lora_name", "seed", "steps", "cfg"],
        ),
    ],
)
def test_a_blueprint_is_a_node_with_the_widgets_that_matter(
    page: Any, mode: str, name: str, kinds: list, widgets: list, shoot: Any
) -> None:
    assert page.evaluate(BLUEPRINT, name) == [kinds, widgets]
    shoot(page, f"blueprint-{name}-{mode}")
