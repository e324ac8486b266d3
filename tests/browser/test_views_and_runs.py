"""Which run a view speaks of: after a reload, undo, other words, a run that broke or was cancelled."""

from __future__ import annotations

import pytest

from .conftest import READY
from .every_view import CHANGED, CLASSIC, TYPES, VUE, show, view, wait_for_all, workflow


def test_results_come_back_after_a_reload(page, done, shoot):
    if done == VUE:
        pytest.skip("the same code; once is enough")
    page.reload()
    page.wait_for_function("() => window.app?.graph?._nodes?.some(n => n.type === 'UnmemorizeHeatmapOverlay')")
    wait_for_all(page)
    page.wait_for_timeout(2000)
    assert "score" in view(page, "guard").locator(".summary").inner_text()
    shoot(page, "reloaded")


def test_a_verdict_belongs_to_the_graph_on_screen(page, done, shoot):
    """The same workflow with other words: what stood behind them is an earlier run's, what did not is still this graph's."""
    if done == VUE:
        pytest.skip("the same code; once is enough")
    page.evaluate(
        """async () => { const g = app.graph.serialize()
            g.nodes.find(n => n.type === 'CLIPTextEncode' && n.widgets_values[0]).widgets_values[0] = 'a small blue ring'
            await app.loadGraphData(g) }"""
    )
    badge = show(page, "spectrum").locator(".badge")  # what is off the screen may be hidden
    badge.filter(has_not_text="\u2013").wait_for()
    assert "earlier" not in badge.inner_text()
    for name in ("guard", "chart", "map", "overlay"):
        panel = show(page, name)
        assert "earlier run" in panel.locator(".badge").inner_text(), name
        assert "run again" in panel.locator(".summary").inner_text()
    assert show(page, "guard").locator(".gauge").text_content() and show(page, "guard").locator(".gauge").is_hidden()
    shoot(page, "earlier-run")


def test_two_tabs_speak_each_of_its_own_graph(page, done, server, queue, shoot):
    """A second tab with the words that were run has their verdict; when it runs others, the first tab, which shows neither, stays as it
    was, and so does the second after that."""
    if done == VUE:
        pytest.skip("the same code; once is enough")
    before = show(page, "guard").locator(".badge").inner_text()
    with page.expect_popup() as opened:
        page.evaluate("() => void window.open(location.href)")
    tab = opened.value
    tab.set_default_timeout(180_000)
    tab.wait_for_function(READY)
    tab.wait_for_timeout(2000)
    tab.keyboard.press("Escape")
    tab.evaluate("g => app.loadGraphData(g)", workflow(server.object_info()))
    badge = show(tab, "guard").locator(".badge")
    badge.filter(has_not_text="\u2013").wait_for()
    assert "earlier" not in badge.inner_text()
    tab.evaluate("() => { app.graph._nodes.find(n => n.type === 'UnmemorizeKSamplerStabilityGuard').widgets[0].value = 2 }")
    tab.evaluate("async () => (await import('/scripts/api.js')).api.addEventListener('execution_success', () => { window.ended = true })")
    queue(tab)
    tab.wait_for_function("() => window.ended")
    assert "earlier" not in show(tab, "guard").locator(".badge").inner_text()
    shoot(tab, "second-tab")
    assert show(page, "guard").locator(".badge").inner_text() == before and "earlier run" in before
    tab.close()


def test_undo_keeps_a_verdict_with_its_graph(page, done):
    """Results that came live: edited, the graph has none; undone, it has its own again; redone, none."""
    if done == CLASSIC:
        pytest.skip("the page was loaded anew; once is enough")
    page.evaluate(f"() => {CHANGED}")
    page.evaluate(
        f"""() => {{ app.graph._nodes.find(n => n.type === 'CLIPTextEncode' && n.widgets[0].value).widgets[0].value = 'a small blue ring'
            {CHANGED} }}"""
    )
    said = """([type, earlier]) => { const n = app.graph._nodes.find(n => n.type === type)
        const view = n.widgets.find(w => w.name === 'unmemorize_view').element
        const seen = document.querySelector(`[data-node-id="${n.id}"] .unmemorize-view`) ?? view
        const word = seen === view && view.shadowRoot.querySelector('.badge').textContent
        return word && word !== '\u2013' && word.includes('earlier') === earlier }"""
    steps = (("", True), ("Comfy.Undo", False), ("Comfy.Redo", True), ("Comfy.Undo", False))
    for command, earlier in steps:
        if command:
            page.evaluate("command => app.extensionManager.command.execute(command)", command)
            page.wait_for_timeout(1500)
        for name in ("guard", "map", "overlay"):
            page.wait_for_function(said, arg=[TYPES[name], earlier], timeout=15_000)
        page.wait_for_function(said, arg=[TYPES["prune"], False], timeout=15_000)


def test_after_a_run_that_did_not_reach_it_a_node_has_no_verdict(page, done):
    """Messages as the server sends them of a run that broke; one node was served from the cache. What was heard of the run live belongs to
    the graph only if it has the run's words: on the classic canvas they are others by now, as in another tab."""
    number = page.evaluate("type => String(app.graph._nodes.find(n => n.type === type).id)", TYPES["compare"])
    before = view(page, "compare").locator(".badge").inner_text()
    watching = page.evaluate(
        """async ([cached, type]) => { const { api } = await import('/scripts/api.js'), n = app.graph._nodes.find(n => n.type === type)
            const prompt_id = Object.keys(await (await api.fetchApi('/history?max_items=1')).json())[0]
            const send = (name, more) => api.dispatchEvent(new CustomEvent(name, { detail: { prompt_id, ...more } }))
            const step = { kind: 'step', step: 0, steps: 12, signals: { update: { z: [[0.1]], mean: [1], sd: [1] } } }
            send('execution_start'); send('execution_cached', { nodes: [cached] })
            send('unmemorize.guard', { node: String(n.id), ...step })
            await new Promise(resolve => setTimeout(resolve, 1500))
            const view = n.widgets.find(w => w.name === 'unmemorize_view').element.shadowRoot
            const said = view.querySelector('.badge').textContent
            send('execution_error')
            return said.includes('watching') }""",
        [number, TYPES["guard"]],
    )
    assert watching == (done == VUE)
    panel = view(page, "prune")
    panel.locator(".badge").filter(has_text="not reached").wait_for(state="attached", timeout=15_000)
    assert "in this run" in panel.locator(".summary").text_content()
    assert panel.locator("button.report").get_attribute("disabled") is not None
    assert view(page, "compare").locator(".badge").inner_text() == before


def test_after_a_cancel_no_view_goes_on_watching(page, done):
    """Messages as the server sends them while a run is watched, then cancelled; one that was judged keeps its verdict."""
    heard = """async ([type, events]) => { const { api } = await import('/scripts/api.js')
        const node = app.graph._nodes.find(n => n.type === type)
        const signals = { magnitude: { z: [[0.1]], raw: [[1]] } }
        const step = { node: String(node.id), kind: 'step', step: 0, steps: 12, scores: [0], memorized: [false], limit: 3, signals }
        for (const [name, more] of events) api.dispatchEvent(new CustomEvent(name, { detail: { ...step, ...more } })) }"""
    badge = view(page, "guard").locator(".badge")
    page.evaluate(heard, [TYPES["guard"], [["unmemorize.guard", {}]]])
    assert "watching" in badge.inner_text()
    report = view(page, "guard").locator("button.report")
    assert report.get_attribute("disabled") is not None, "the report is the last run's"
    page.evaluate(heard, [TYPES["guard"], [["execution_interrupted", {}]]])
    assert "stopped" in badge.inner_text()


def test_loading_does_not_wait_for_results(page, done):
    """Some front ends do not say which tab a graph is in before extensions are through with it."""
    waited = page.evaluate(
        """async () => { const { api } = await import('/scripts/api.js'), before = api.fetchApi
            api.fetchApi = (route, ...more) => route.startsWith('/history') ? new Promise(() => {}) : before.call(api, route, ...more)
            const late = new Promise(resolve => setTimeout(() => resolve('late'), 20000))
            const done = await Promise.race([app.loadGraphData(app.graph.serialize()).then(() => 'loaded'), late])
            api.fetchApi = before
            return done }"""
    )
    assert waited == "loaded"
