"""The real front end in a real Chromium: open the template, queue it, see the heatmap in the node."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
OURS = "unmemorize"


@pytest.fixture(scope="module")
def page(chromium: str, server: Any) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        tab = browser.new_page(viewport={"width": 1720, "height": 1080})
        tab.errors = []
        tab.on("console", lambda message: tab.errors.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: tab.errors.append(str(error)))
        tab.goto(server.url)
        tab.wait_for_function("() => window.app?.graph && 'UnmemorizeHeatmapOverlay' in LiteGraph.registered_node_types", timeout=120_000)
        tab.wait_for_timeout(2000)
        tab.keyboard.press("Escape")
        yield tab
        browser.close()


def shoot(page: Any, name: str) -> None:
    folder = ROOT / "out" / "screens"
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(folder / f"{name}.png"))


def open_template(page: Any, name: str) -> None:
    """Workflow > Browse Templates > our folder > the card of a template."""
    page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text("any-folder_name").first.click(timeout=30_000)
    card = page.locator(f'[data-testid="template-workflow-{name}"]')
    card.wait_for(timeout=30_000)
    with Image.open(ROOT / "workflows" / f"{name}.jpg") as thumbnail:
        size = list(thumbnail.size)
    shown = "size => [...document.images].some(i => i.naturalWidth === size[0] && i.naturalHeight === size[1])"
    page.wait_for_function(shown, arg=size, timeout=30_000)
    shoot(page, "templates")
    card.click()
    page.wait_for_function("() => app.graph._nodes.some(n => n.type.startsWith('Unmemorize'))", timeout=30_000)


OVERLAYS = "app.graph._nodes.filter(n => n.type === 'UnmemorizeHeatmapOverlay')"


def queue(page: Any) -> None:
    """Press Run; messages of the start (no look-up of outside hosts here) may lie over the button."""
    for _ in range(page.locator(".p-toast-close-button").count()):
        page.locator(".p-toast-close-button").first.click()
        page.wait_for_timeout(500)
    page.locator('[data-testid="queue-button"]').first.click()


def test_template_opens_runs_and_shows_its_heatmaps(page):
    open_template(page, "01-where-is-it-memorized")
    missing = page.evaluate("() => app.graph._nodes.filter(n => !(n.type in LiteGraph.registered_node_types)).map(n => n.type)")
    assert [m for m in missing if m != "MarkdownNote"] == []
    shoot(page, "template-opened")
    queue(page)
    page.wait_for_function(f"() => {OVERLAYS}.every(n => n.imgs?.length && n.imgs[0].naturalWidth > 0)", timeout=300_000)
    page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1500)
    shoot(page, "where-is-it-memorized")
    sizes = page.evaluate(f"() => {OVERLAYS}.map(n => [n.imgs[0].naturalWidth, n.imgs[0].naturalHeight])")
    assert sizes == [[128, 128]] * 3
    assert [e for e in page.errors if "nmemorize" in e and "api.comfy.org" not in e] == []


def test_missing_negative_prompt_is_explained_in_the_dialog(page):
    """The user sees our words, not a traceback."""
    page.evaluate("""() => app.graph._nodes.filter(n => n.type === 'UnmemorizeCurvatureDifferenceMap')
        .forEach(n => n.disconnectInput(n.findInputSlot('negative')))""")
    queue(page)
    words = page.get_by_text("CLIP Text Encode without text").first
    details = page.get_by_role("button", name="View details").first  # newer front ends name the node first
    words.or_(details).first.wait_for(timeout=120_000)
    if details.is_visible():
        details.click()
    words.wait_for(timeout=30_000)
    shoot(page, "no-negative-prompt")
