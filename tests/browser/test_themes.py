"""Dark and light theme, windows of 1280 and 800 pixels, on two templates: text that can be read, views that stay in their nodes, dialogs
that stay in the window."""

from __future__ import annotations

from typing import Any

import pytest

from .test_workflows import CLASSIC, OPEN, VUE, empty

TEMPLATES = ("01-where-is-it-memorized", "19-inside-a-lora")
THEMES = ("dark", "light")
WIDTHS = (1280, 800)
HEIGHT = 800
LEGIBLE = 4.5
"""Contrast of small text, after WCAG 2."""
VIEWS = """app.graph._nodes.filter(n => n.mode === 0 && !n.flags.collapsed && n.type.startsWith('Unmemorize'))
    .map(n => [n, n.widgets?.find(w => w.name === 'unmemorize_view')?.element]).filter(([, view]) => view)"""
WITHOUT_RESULT = f"() => {VIEWS}.filter(([, v]) => v.shadowRoot.querySelector('button.report').disabled).map(([n]) => n.type)"
PALE = f"""least => {{
    const of = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map(c => c / 255)
        .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    const light = colour => of(colour).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0)
    const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
    return {VIEWS}.flatMap(([n, view]) => {{
        const ground = light(getComputedStyle(view.shadowRoot.querySelector('.panel')).backgroundColor)
        const places = ['.badge', '.summary', '.empty', '.readout', '.field > span', '.keys', '.plot text', '.look', '.fine', '.open',
            '.numbers']
        return places.flatMap(where =>
            [...view.shadowRoot.querySelectorAll(where)].filter(e => e.textContent.trim()).slice(0, 1).map(e => {{
                const style = getComputedStyle(e), own = style.backgroundColor
                const under = own === 'rgba(0, 0, 0, 0)' ? ground : light(own)
                return [n.type, where, contrast(light(where === '.plot text' ? style.fill : style.color), under)] }}))
    }}).filter(([, , found]) => found < least) }}"""
"""Texts of our views that are too pale on their ground, with their contrast."""
ESCAPING = f"""vue => {{ const {{ scale, offset }} = app.canvas.ds, canvas = app.canvas.canvas.getBoundingClientRect()
    return {VIEWS}.filter(([, view]) => view.checkVisibility()).map(([n, view]) => {{
        const inside = view.getBoundingClientRect(), outer = document.querySelector(`[data-node-id="${{n.id}}"]`)?.getBoundingClientRect()
        const left = canvas.left + (n.pos[0] + offset[0]) * scale, top = canvas.top + (n.pos[1] - 30 + offset[1]) * scale
        const node = vue ? outer : {{ left, top, right: left + n.size[0] * scale, bottom: top + (n.size[1] + 30) * scale }}
        return [n.type, Math.max(node.left - inside.left, node.top - inside.top, inside.right - node.right, inside.bottom - node.bottom)]
    }}).filter(([, over]) => over > 2) }}"""
"""Views that reach out of their nodes, in pixels."""


@pytest.fixture(scope="module", params=[(name, mode) for name in TEMPLATES for mode in (CLASSIC, VUE)], ids="-".join)
def ran(request: Any, page: Any, queue: Any) -> tuple[str, str]:
    """A template was opened in a canvas and run; the second canvas finds the results on the server."""
    name, mode = request.param
    page.set_viewport_size({"width": 1600, "height": 1000})
    page.evaluate("on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", mode == VUE)
    page.wait_for_timeout(1000)
    assert page.evaluate(OPEN, name) == []
    queue(page)
    page.wait_for_function("() => window.ends.length", timeout=900_000)
    assert page.evaluate("() => window.ends") == ["success"]
    empty(page, WITHOUT_RESULT)
    return name, mode


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_result_can_be_read(page: Any, ran: tuple[str, str], theme: str, width: int, shoot: Any) -> None:
    name, mode = ran
    page.set_viewport_size({"width": width, "height": HEIGHT})
    page.evaluate("theme => app.extensionManager.setting.set('Comfy.ColorPalette', theme)", theme)
    page.wait_for_timeout(1200)
    try:
        shoot(page, f"theme-{theme}-{width}-{name}-{mode}")
        empty(page, PALE, LEGIBLE)
        empty(page, ESCAPING, mode == VUE)
        page.wait_for_function("() => document.documentElement.scrollWidth <= innerWidth")
        _a_report_fits(page, width)
    finally:
        page.evaluate("() => app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
    assert [e for e in page.errors if "nmemorize" in e and "api.comfy.org" not in e] == []


def _a_report_fits(page: Any, width: int) -> None:
    """The dialog of a node that may itself lie outside the window."""
    opened = page.evaluate(f"""() => {{ const view = {VIEWS}[0][1].shadowRoot
        view.querySelector('button.report').click()
        const box = view.querySelector('dialog').getBoundingClientRect()
        view.querySelector('dialog').close()
        return [box.left, box.top, box.right, box.bottom] }}""")
    left, top, right, bottom = opened
    assert min(left, top) >= 0 and right <= width and bottom <= HEIGHT
