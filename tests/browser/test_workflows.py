"""Every bundled workflow as its user meets it: opened, queued by the Run button, its results seen in the nodes, also after a reload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

WORKFLOWS = sorted(p.stem for p in (Path(__file__).resolve().parents[2] / "workflows").glob("*.json"))
CLASSIC, VUE = "classic", "nodes-2"
LIKE_OTHERS = ("16", "17", "18", "19", "20", "21", "22", "23")
"""Their nodes are run on the classic canvas in other templates; test_first_view.py opens them there too."""
RUNS = [(name, mode) for name in WORKFLOWS for mode in (CLASSIC, VUE) if mode == VUE or not name.startswith(LIKE_OTHERS)]
RELOADED = ("07-guard-any-sampler",)
"""The kinds of nodes that test_views.py does not load anew."""
ANSWERS = """() => app.graph._nodes.filter(n => n.type === 'UnmemorizeHeatmapOverlay').map(n => {
    const view = n.widgets.find(w => w.name === 'unmemorize_view').element.shadowRoot
    return [view.querySelector('.badge').dataset.kind, view.querySelectorAll('line.limit').length] })"""
"""Verdicts of the heatmaps, and whether the limit is on their colour bars."""
THRESHOLD = """type => app.graph._nodes.filter(n => n.type === type).map(n => {
    const view = n.widgets.find(w => w.name === 'unmemorize_view').element.shadowRoot
    return [view.querySelector('input[type=range]').disabled, view.querySelector('.readout').textContent] })"""
"""Can the threshold be dragged, and what the view says of it?"""

OPEN = """async name => {
    const { api } = await import('/scripts/api.js')
    if (!window.ends) {
        window.ends = []
        api.addEventListener('execution_success', () => window.ends.push('success'))
        api.addEventListener('execution_error', e => window.ends.push(`${e.detail.node_type}: ${e.detail.exception_message}`))
    }
    window.ends.length = 0
    await app.loadGraphData(await (await api.fetchApi(`/workflow_templates/any-folder_name/${name}.json`)).json(), true, true, name)
    return app.graph._nodes.map(n => n.type).filter(t => !(t in LiteGraph.registered_node_types) && t !== 'MarkdownNote') }"""
ACTIVE = "app.graph._nodes.filter(n => n.mode === 0)"
UNSHOWN = f"""vue => {{
    const shown = i => i?.complete && i.naturalWidth > 0
    const picture = n => vue ? [...document.querySelectorAll(`[data-node-id="${{n.id}}"] img`)].some(shown) : shown(n.imgs?.[0])
    const kinds = vue ? ['PreviewImage'] : ['PreviewImage', 'UnmemorizeHeatmapOverlay']
    return {ACTIVE}.filter(n => kinds.includes(n.type) && !n.flags.collapsed && !picture(n)).map(n => `${{n.id}} ${{n.title}}`) }}"""
"""Nodes without their picture; that of an overlay is out of sight under its view, but there for the node's menu."""
UNDRAWN = f"""() => {{
    const painted = c => c.width && c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v > 0)
    const drawn = p => painted(p.querySelector('canvas')) || p.querySelector('svg').childElementCount > 0
    const written = v => ['.stage.words .prompt', '.stage .cards'].some(of => v.querySelector(of)?.childElementCount > 0)
    const full = view => !view.querySelector('button.report').disabled && (!view.querySelector('.stage') || written(view) ||
        (view.querySelector('.plot') && drawn(view.querySelector('.plot'))))
    return {ACTIVE}.filter(n => n.type.startsWith('Unmemorize') && !n.flags.collapsed).filter(n => {{
        const widget = n.widgets?.find(w => w.name === 'unmemorize_view')
        return widget && !full(widget.element.shadowRoot) }}).map(n => `${{n.id}} ${{n.type}}`) }}"""
"""Panels of ours that tell nothing yet or have an empty plot."""
OVERLAPPING = """() => { const box = n => n.flags.collapsed ? [n._collapsed_width ?? 110, 0] : n.size
    return app.graph._nodes.flatMap((a, i, all) => all.slice(0, i).filter(b =>
    a.pos[0] < b.pos[0] + box(b)[0] && b.pos[0] < a.pos[0] + box(a)[0] &&
    a.pos[1] - 30 < b.pos[1] + box(b)[1] && b.pos[1] - 30 < a.pos[1] + box(a)[1]).map(b => `${a.id} ${a.type}, ${b.id} ${b.type}`)) }"""
"""Nodes, as tall as the classic canvas draws them with their results."""
TWICE = """() => [...document.querySelectorAll('.lg-node')].filter(n => n.querySelector('.unmemorize-view.replaces') &&
    [...n.querySelectorAll('img')].some(i => i.checkVisibility())).length"""
"""Nodes of ours under whose view ComfyUI still shows the same picture."""


def fit(page: Any) -> None:
    page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(700)


def empty(page: Any, script: str, argument: Any = None) -> None:
    """Wait until nothing is missing any more; what is left at the end is named."""
    for _ in range(60):
        if not (left := page.evaluate(script, argument)):
            return
        page.wait_for_timeout(500)
    assert left == []


@pytest.fixture(scope="module", params=RUNS, ids="-".join)
def ran(request, page, queue, shoot) -> tuple[str, str]:
    """A workflow was opened and queued in a mode, and came to its end; the second mode finds the results of the first on the server."""
    name, mode = request.param
    page.evaluate("on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", mode == VUE)
    page.wait_for_timeout(700)
    assert page.evaluate(OPEN, name) == []
    fit(page)
    shoot(page, f"opened-{name}-{mode}")
    queue(page)
    page.wait_for_function("() => window.ends.length", timeout=900_000)
    assert page.evaluate("() => window.ends") == ["success"]
    fit(page)
    return name, mode


def test_every_result_is_seen_also_after_a_reload(page, ran, shoot):
    name, mode = ran
    empty(page, UNSHOWN, mode == VUE)
    empty(page, UNDRAWN)
    shoot(page, f"{name}-{mode}")
    page.wait_for_function(f"() => ({TWICE})() === 0")
    if name == "01-where-is-it-memorized":
        assert page.evaluate(ANSWERS) == [["memorized", 1], ["memorized", 1], ["clean", 1]]
    if name == "19-inside-a-lora":
        ((rests, said),) = page.evaluate(THRESHOLD, "UnmemorizeLoRASpectrumPlot")
        assert not rests and "keeps" in said
    if mode == CLASSIC:
        empty(page, OVERLAPPING)
    assert [e for e in page.errors if "nmemorize" in e and "api.comfy.org" not in e] == []
    if mode == CLASSIC and name in RELOADED:
        results_come_back_after_a_reload(page)
        shoot(page, f"reloaded-{name}")


def results_come_back_after_a_reload(page: Any) -> None:
    count = page.evaluate("() => app.graph._nodes.length")
    page.wait_for_timeout(1500)  # the front end keeps the workflow a moment after it changed
    page.reload()
    page.wait_for_function("count => window.app?.graph?._nodes?.length === count", arg=count)
    fit(page)
    empty(page, UNDRAWN)
