"""The real front end in a real Chromium: open the template, queue it, see the heatmap in the node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


def open_template(page: Any, name: str, shoot: Any) -> None:
    """Workflow > Browse Templates > our folder > the card of a template."""
    page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text("any-folder_name").first.click(timeout=180_000)
    card = page.locator(f'[data-testid="template-workflow-{name}"]')
    card.wait_for(timeout=180_000)
    with Image.open(ROOT / "workflows" / f"{name}.jpg") as thumbnail:
        size = list(thumbnail.size)
    shown = "size => [...document.images].some(i => i.naturalWidth === size[0] && i.naturalHeight === size[1])"
    page.wait_for_function(shown, arg=size, timeout=180_000)
    shoot(page, "templates")
    card.click()
    page.wait_for_function("() => app.graph._nodes.some(n => n.type.startsWith('Unmemorize'))", timeout=180_000)


OVERLAYS = "app.graph._nodes.filter(n => n.type === 'UnmemorizeHeatmapOverlay')"


def test_template_opens_runs_and_shows_its_heatmaps(page, shoot, queue):
    open_template(page, "01-where-is-it-memorized", shoot)
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


def test_missing_negative_prompt_is_explained_in_the_dialog(page, shoot, queue):
    """The user sees our words, not a traceback."""
    page.evaluate("""() => app.graph._nodes.filter(n => n.type === 'UnmemorizeCurvatureDifferenceMap')
        .forEach(n => n.disconnectInput(n.findInputSlot('negative')))""")
    queue(page)
    words = page.get_by_text("CLIP Text Encode without text").first
    details = page.get_by_role("button", name="View details").first  # newer front ends name the node first
    words.or_(details).first.wait_for(timeout=120_000)
    if details.is_visible():
        details.click()
    words.wait_for(timeout=180_000)
    shoot(page, "no-negative-prompt")
