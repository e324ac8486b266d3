"""The real front end in a real Chromium: find a template, open it, read an error. What templates show: test_workflows.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


WORDS = {
    "memorization": "Memorization Check", "copyright": "Audit", "overfit": "Audit", "plagiarism": "Copy Check",
    "training image": "Memorization Check", "copy": "Copy Check", "similarity": "Copy Check", "heatmap": "Heatmap Overlay",
    "leak": "LoRA Leak Probe", "clean": "Clean LoRA",
}  # fmt: skip
"""What people type, and the node that must be among the first."""


def open_template(page: Any, name: str, shoot: Any) -> None:
    """Workflow > Browse Templates > our folder > the card of a template."""
    page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.get_by_text("any-folder_name").first.click(timeout=180_000)
    card = page.locator(f'[data-testid="template-workflow-{name}"]')
    card.wait_for(timeout=180_000)
    card.scroll_into_view_if_needed()  # the server lists them as the file system does, and a picture is loaded where it is seen
    with Image.open(ROOT / "workflows" / f"{name}.jpg") as thumbnail:
        size = list(thumbnail.size)
    shown = "size => [...document.images].some(i => i.naturalWidth === size[0] && i.naturalHeight === size[1])"
    page.wait_for_function(shown, arg=size, timeout=180_000)
    shoot(page, "templates")
    card.click()
    page.wait_for_function("() => app.graph._nodes.some(n => n.type.startsWith('Unmemorize'))", timeout=180_000)


def test_template_is_found_and_opens(page, shoot):
    open_template(page, "01-where-is-it-memorized", shoot)
    missing = page.evaluate("() => app.graph._nodes.filter(n => !(n.type in LiteGraph.registered_node_types)).map(n => n.type)")
    assert [m for m in missing if m != "MarkdownNote"] == []
    shoot(page, "template-opened")
    assert [e for e in page.errors if "nmemorize" in e and "api.comfy.org" not in e] == []


def test_missing_negative_prompt_is_explained_in_the_dialog(page, shoot, queue):
    """The user sees our words, not a traceback."""
    linked = """yes => app.graph._nodes.filter(n => n.type === 'UnmemorizeCurvatureDifferenceMap')
        .every(n => (n.inputs[n.findInputSlot('negative')].link != null) === yes)"""
    page.wait_for_function(linked, arg=True)
    page.wait_for_timeout(1000)  # the front end may still be at work on what it has loaded
    page.evaluate("""() => app.graph._nodes.filter(n => n.type === 'UnmemorizeCurvatureDifferenceMap')
        .forEach(n => n.disconnectInput(n.findInputSlot('negative')))""")
    queue(page)
    assert page.evaluate(linked, False)
    words = page.get_by_text("CLIP Text Encode without text").first
    details = page.get_by_role("button", name="View details").first  # newer front ends name the node first
    words.or_(details).first.wait_for()
    if details.is_visible():
        details.click()
    words.wait_for()
    shoot(page, "no-negative-prompt")


def test_found_by_the_words_people_use(page, shoot):
    """In the front end's own search; the first five are seen without scrolling."""
    page.keyboard.press("Escape")
    page.evaluate("() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    box = page.locator("input:focus, .comfy-vue-node-search-container input").first
    missed = {}
    for word, name in WORDS.items():
        box.fill("")
        box.fill(word)
        for _ in range(40):  # the list follows with a delay
            page.wait_for_timeout(250)
            options = [text.split("\n")[0] for text in page.locator(".p-autocomplete-option, [role=option]").all_inner_texts() if text]
            if any(text.startswith(name) for text in options[:5]):
                break
        else:
            missed[word] = options[:5]
    shoot(page, "search")
    page.keyboard.press("Escape")
    assert missed == {}


def test_on_the_graph_a_name_goes_without_its_search_words(page):
    kinds = [f"Unmemorize{name}" for name in ("CopyCheck", "MemorizationCheck", "Audit", "KSamplerStabilityGuard")]
    titles = page.evaluate("kinds => kinds.map(kind => LiteGraph.createNode(kind).title)", kinds)
    assert titles == ["Copy Check", "Memorization Check", "Audit", "KSampler (Stability Guard)"]
