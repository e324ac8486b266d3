"""The views in the nodes: drawn by the real front end, with the classic canvas and with Nodes 2.0."""

from __future__ import annotations

import re
from typing import Any

import pytest

from .every_view import CHANGED, CLASSIC, GAUGE, HOSTILE, TYPES, VUE, asked, pixels, show, slide, view, widget_value


def executed(page: Any, name: str, change: str = "") -> None:
    """Give a node its last result anew, changed."""
    page.evaluate(
        f"""async type => {{ const {{ api }} = await import('/scripts/api.js'), n = app.graph._nodes.find(n => n.type === type)
            const runs = Object.values(await (await api.fetchApi('/history?max_items=8')).json()).reverse()
            const output = runs.map(run => run.outputs[n.id]).find(found => found)
            {change}; n.onExecuted(output) }}""",
        TYPES[name],
    )


def test_guard_shows_the_run_and_its_verdict(page, done, shoot):
    panel = show(page, "guard")
    assert panel.locator(".badge").get_attribute("data-kind") in ("memorized", "clean")
    assert "score" in panel.locator(".summary").inner_text()
    score, limit, filled, mark = panel.locator(".gauge").evaluate(GAUGE)
    assert filled == pytest.approx(100 * min(1, score / max(score, 2 * limit)), abs=1)
    assert mark == pytest.approx(100 * limit / max(score, 2 * limit), abs=1)
    assert panel.locator("path.trace").count() == 3
    if done == CLASSIC:  # the second time the server has the result already
        assert {"step", "done"} <= set(page.evaluate("() => window.heard"))
    panel.locator(".plot").hover()
    assert re.match(
        r"step \d+: size of the step [+-]?[\d.]+, size of the prediction [+-]?[\d.]+, how settled .* sd",
        panel.locator(".readout").inner_text(),
    )
    shoot(page, f"guard-{done}")


def test_overlay_acts_at_once_without_a_run(page, done, shoot):
    panel = show(page, "overlay")
    queued, before = len(page.prompts), asked(page)
    page.wait_for_function("p => p.toDataURL().length > 5000", arg=panel.locator("canvas").first.element_handle())
    seen = [pixels(panel)]
    for label, value in (("opacity", 0.3), ("full heat", 1), ("wipe: before and after", 50)):
        slide(panel, label, value)
        seen.append(pixels(panel))
    panel.get_by_label("colour map").select_option("viridis")
    seen.append(pixels(panel))
    assert len(set(seen)) == len(seen)
    handle, full = panel.locator("circle.handle"), panel.locator(".plot text").last.text_content()
    width = panel.locator(".plot svg").evaluate("v => v.viewBox.baseVal.width - 54")
    assert float(handle.get_attribute("cx")) == pytest.approx(width / 2, abs=2) and panel.locator("line.limit").count() == 0
    assert float(full) > 0
    panel.locator(".plot").hover()
    assert re.match(r"x \d+, y \d+: -?[\d.e-]+, [\d.]+ % of full heat", panel.locator(".readout").inner_text())
    shoot(page, f"overlay-{done}")
    assert len(page.prompts) == queued and asked(page) == before
    assert widget_value(page, "overlay", "colour_map") == "ember"
    for setting, colours in (("cividis", "cividis"), ("as in the node", "ember")):
        page.evaluate("colours => app.extensionManager.setting.set('Unmemorize.ColourMap', colours)", setting)
        page.wait_for_timeout(200)
        assert panel.get_by_label("colour map").input_value() == colours
    heat = panel.get_by_label("full heat", exact=True)
    executed(page, "overlay", "output.unmemorize_overlay[0].opacity = 0.5")
    assert heat.input_value() == "1", "the same full heat: what was set by hand stays"
    executed(page, "overlay", "output.unmemorize_overlay[0].maps[0].top *= 2")
    assert heat.input_value() == "0"
    executed(page, "overlay")


def test_overlay_is_used_from_the_keyboard(page, done):
    panel = show(page, "overlay")
    slider = panel.get_by_label("opacity", exact=True)
    before = pixels(panel)
    slider.focus()
    page.keyboard.press("End")
    assert slider.input_value() == "1" and pixels(panel) != before
    panel.locator(".plot").focus()
    page.keyboard.press("ArrowRight")
    assert "x " in panel.locator(".readout").inner_text()
    nodes = page.evaluate("() => app.graph._nodes.length")
    page.keyboard.press("Delete")
    assert page.evaluate("() => app.graph._nodes.length") == nodes


def test_spectrum_names_channels_and_follows_the_threshold(page, done, shoot):
    panel = show(page, "filter")
    panel.locator(".plot").focus()
    page.keyboard.press("ArrowRight")
    assert re.search(r"channel \d+: singular value [\d.]+, score -?[\d.]+, (kept|removed)", panel.locator(".readout").inner_text())
    panel.locator(".badge").click()  # away from the plot
    told, drawn = panel.locator(".readout").inner_text(), pixels(panel)
    assert re.match(r"keeps \d+ of \d+ channels", told)
    slide(panel, "threshold", 0.2)
    assert widget_value(page, "filter", "threshold") == 0.2
    assert "not run yet" in panel.locator(".readout").inner_text() and pixels(panel) != drawn
    page.evaluate(
        """type => { const n = app.graph._nodes.find(n => n.type === type), w = n.widgets.find(w => w.name === 'threshold')
            w.value = 0.05; w.callback(0.05, app.canvas, n) }""",
        TYPES["filter"],
    )
    assert panel.locator(".readout").inner_text() == told
    shoot(page, f"spectrum-{done}")
    other = show(page, "spectrum")
    slide(other, "threshold", 0.1)
    assert widget_value(page, "filter", "threshold") == 0.1
    slide(other, "threshold", 0.05)
    page.evaluate(
        """type => { const n = app.graph._nodes.find(n => n.type === type); window.number = LiteGraph.createNode('PrimitiveFloat')
            app.graph.add(window.number); window.number.connect(0, n, n.findInputSlot('threshold')) }""",
        TYPES["filter"],
    )
    choose(page, "filter", "threshold", 0.3)
    executed(page, "filter")
    slider = view(page, "filter").get_by_label("threshold", exact=True)
    assert slider.is_disabled() and slider.input_value() == "0.05", "the run's, not that of a widget that does not count"
    page.evaluate("() => app.graph.remove(window.number)")
    choose(page, "filter", "threshold", 0.05)
    executed(page, "filter")
    assert slider.is_enabled()


def test_neurons_by_layer(page, done, shoot):
    panel = show(page, "prune")
    panel.locator(".plot").focus()
    page.keyboard.press("ArrowDown")
    assert re.search(r"[\d.]+ % . \w*block", panel.locator(".readout").inner_text())
    shoot(page, f"neurons-{done}")


def test_strings_from_prompts_and_files_stay_text(page, done, shoot):
    panel = show(page, "compare")
    panel.get_by_role("button", name="Report").click()
    dialog = panel.locator("dialog")
    assert HOSTILE in dialog.inner_text()
    assert panel.locator("img").count() == 0 and page.locator('img[src="x"]').count() == 0
    shoot(page, f"report-{done}")
    dialog.get_by_role("button", name="Copy JSON").click()
    page.wait_for_timeout(300)
    assert dialog.get_by_role("button", name=re.compile("Copied|Selected")).count() == 1
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached", timeout=30_000)


def disabled(page: Any, name: str) -> set[str]:
    return set(page.evaluate("t => app.graph._nodes.find(n => n.type === t).widgets.filter(w => w.disabled).map(w => w.name)", TYPES[name]))


FADED = """n => [...document.querySelectorAll(`[data-node-id="${n}"] .lg-node-widget`)]
    .filter(row => row.querySelector(":disabled, [aria-disabled=true], .p-disabled") ||
        [...row.children].some(part => getComputedStyle(part).pointerEvents === "none" && getComputedStyle(part).opacity < 1))
    .map(row => row.dataset.widgetName ?? row.innerText.trim().split("\\n")[0])"""
"""Names of the rows of a node that take no input: newer front ends disable them themselves."""


FADING = """() => document.adoptedStyleSheets.flatMap(sheet => [...sheet.cssRules])
    .filter(rule => rule.selectorText?.includes('.lg-node-widget:nth-child')).length"""
"""Rows that the page's style sheet fades."""


def choose(page: Any, name: str, widget: str, value: Any) -> None:
    page.evaluate(
        """([type, name, value]) => { const n = app.graph._nodes.find(n => n.type === type), w = n.widgets.find(w => w.name === name)
            w.value = value; w.callback?.(value, app.canvas, n) }""",
        [TYPES[name], widget, value],
    )


def test_what_does_not_count_is_disabled_and_stays(page, done, shoot):
    """The preset's widgets fade, and typing into one of them means custom; nothing that would be queued or saved changes by it."""
    settled = {"sigmas", "probes", "noises", "probing", "estimator"}
    before = asked(page)
    assert disabled(page, "map") == set()  # the graph says custom
    choose(page, "map", "preset", "recommended")
    assert disabled(page, "map") == settled
    show(page, "map")
    shoot(page, f"faded-{done}")
    if done == VUE:
        number = page.evaluate("t => app.graph._nodes.find(n => n.type === t).id", TYPES["map"])
        rows = set(page.evaluate(FADED, number))
        assert settled <= rows and "method" not in rows
    page.evaluate(
        """type => { const n = app.graph._nodes.find(n => n.type === type)
            for (const [name, value] of [['probes', 7], ['noises', 3]]) {
                const w = n.widgets.find(w => w.name === name); w.value = value; w.callback?.(value, app.canvas, n) } }""",
        TYPES["map"],
    )
    assert widget_value(page, "map", "preset") == "recommended", "a program sets several at a time"
    choose(page, "map", "noises", 1)
    choose(page, "map", "preset", "recommended")
    page.evaluate(
        """type => { const n = app.graph._nodes.find(n => n.type === type); window.number = LiteGraph.createNode('PrimitiveInt')
            app.graph.add(window.number); window.number.connect(0, n, n.findInputSlot('probes')) }""",
        TYPES["map"],
    )
    choose(page, "map", "probes", 9)
    assert widget_value(page, "map", "preset") == "recommended", "a link is not typed"
    page.evaluate("() => app.graph.remove(window.number)")
    choose(page, "map", "probes", 5)
    assert widget_value(page, "map", "preset").endswith("(custom)") and disabled(page, "map") == set()
    choose(page, "map", "probes", 2)
    assert asked(page) == before
    choose(page, "filter", "score", "cross-attention")
    assert disabled(page, "filter") == {"threshold", "deviations", "temperature", "keep", "base_energy", "control_seed"}
    choose(page, "filter", "score", "mean")
    assert disabled(page, "filter") == {"temperature", "keep", "control_seed"}
    mode = f"""mode => {{ app.graph._nodes.find(n => n.type === 'UnmemorizeLoadDemoCheckpoint').mode = mode; {CHANGED} }}"""
    page.evaluate(mode, 2)
    assert disabled(page, "filter") == {"temperature", "keep", "control_seed", "text_encoder"}, "a muted node feeds no CLIP"
    page.evaluate(mode, 0)
    assert disabled(page, "filter") == {"temperature", "keep", "control_seed"}


def test_a_setting_begins_new_nodes_and_leaves_those_of_a_workflow(page, done):
    """The rate of false alarms that a user always wants."""
    found = page.evaluate(
        """async () => {
            const rate = (n) => n.widgets.find(w => w.name === 'false_alarms').value, id = 'Unmemorize.FalseAlarms'
            const make = () => { const n = LiteGraph.createNode('UnmemorizeCopyCheck'); app.graph.add(n); return n }
            const set = (v) => app.extensionManager.setting.set(id, v)
            const old = make(), before = rate(old)
            await set(0.05)
            const fresh = make(), later = rate(fresh), kept = rate(old)
            const saved = old.serialize(), loaded = make()
            loaded.configure({ ...saved, id: loaded.id })
            const found = [before, later, kept, rate(loaded)]
            await set(0.02)
            for (const n of [old, fresh, loaded]) app.graph.remove(n)
            return found }"""
    )
    assert found == [0.02, 0.05, 0.02, 0.02]


def test_uncalibrated_is_said(page, done):
    for name in ("map", "threshold"):
        assert view(page, name).locator(".badge").get_attribute("data-kind") == "uncalibrated"


def test_light_theme(page, done, shoot):
    """Colours come from the theme: text stays readable on its ground."""
    panel = show(page, "spectrum")
    page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'light')")
    page.wait_for_timeout(1500)
    shoot(page, f"light-{done}")
    brightness = "(e, key) => getComputedStyle(e)[key].match(/[\\d.]+/g).slice(0, 3).map(Number).reduce((a, b) => a + b) / 3"
    text = panel.locator(".readout").evaluate(brightness, "color")
    ground = panel.locator(".panel").evaluate(brightness, "backgroundColor")
    page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
    assert ground > 200 and text < 110


def test_a_node_in_a_subgraph_shows_its_result(page, done, queue, shoot):
    page.evaluate(
        """type => { const n = app.graph._nodes.find(n => n.type === type); app.canvas.setGraph?.(app.graph)
            window.inside = app.graph.convertToSubgraph(new Set([n])).subgraph }""",
        TYPES["overlay"],
    )
    queue(page)
    shown = """() => { const n = window.inside.nodes.find(n => n.type === 'UnmemorizeHeatmapOverlay')
        return n && !n.widgets.find(w => w.name === 'unmemorize_view').element.shadowRoot.querySelector('button.report').disabled }"""
    page.wait_for_function(shown, timeout=300_000)
    page.evaluate("() => app.canvas.setGraph(window.inside)")
    page.wait_for_timeout(2000)
    page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1500)
    shoot(page, f"subgraph-{done}")
    assert page.evaluate(FADING) == 0, "a root node's number may be another's in here"
    inside = "([v]) => v === window.inside.nodes[0].widgets.find(w => w.name === 'unmemorize_view').element"
    seen = page.locator(".unmemorize-view").all()
    assert [v for v in seen if v.is_visible() and v.evaluate(f"v => ({inside})([v])")]
    page.evaluate("() => app.canvas.setGraph(app.graph)")
    page.wait_for_timeout(500)
    assert page.evaluate(FADING) > 0


def test_settings_and_about(page, done):
    read = "id => app.extensionManager.setting.get(id)"
    assert [page.evaluate(read, f"Unmemorize.{i}") for i in ("ColourMap", "Shares", "Digits")] == ["as in the node", "percent", 3]
    assert page.evaluate("() => app.extensions.find(e => e.name === 'Unmemorize.Views').aboutPageBadges[0].label").startswith("Unmemorize")


def test_no_error_is_ours(page, done):
    assert [e for e in page.errors if "nmemorize" in e and "api.comfy.org" not in e] == []
