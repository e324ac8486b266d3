"""A Chromium with the real front end open, and what a user does in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .every_view import CLASSIC, VUE, wait_for_all, workflow

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
READY = "() => window.app?.graph && 'UnmemorizeHeatmapOverlay' in LiteGraph.registered_node_types"


@pytest.fixture(scope="module")
def page(chromium: str, server: Any) -> Iterator[Any]:
    """A tab with ComfyUI; `page.errors` collects what its console calls errors, `page.prompts` the prompts it queued."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        tab = browser.new_page(viewport={"width": 1720, "height": 1080})
        tab.set_default_timeout(180_000)
        tab.errors, tab.prompts = [], []
        tab.on("console", lambda message: tab.errors.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: tab.errors.append(str(error)))
        tab.on("request", lambda request: tab.prompts.append(request.url) if request.url.endswith("/prompt") else None)
        tab.goto(server.url)
        tab.wait_for_function(READY)
        tab.wait_for_timeout(2000)
        tab.keyboard.press("Escape")
        yield tab
        browser.close()


@pytest.fixture(scope="session")
def shoot() -> Callable[[Any, str], None]:
    """A screenshot into out/screens."""

    def take(page: Any, name: str) -> None:
        folder = ROOT / "out" / "screens"
        folder.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(folder / f"{name}.png"))

    return take


@pytest.fixture(scope="session")
def queue() -> Callable[[Any], None]:
    """Press Run; messages of the start (no look-up of outside hosts here) or the tooltip of a tab may lie over the button."""

    def press(page: Any) -> None:
        # dispatched, not pointed at: messages lie over each other, move, and leave by themselves
        page.locator(".p-toast-close-button").evaluate_all("buttons => buttons.forEach((button) => button.click())")
        page.wait_for_timeout(500)
        page.mouse.move(860, 1000)
        page.wait_for_timeout(300)
        with page.expect_response(lambda answer: answer.request.method == "POST" and answer.url.endswith("/prompt")):
            page.locator('[data-testid="queue-button"]').first.click()

    return press


@pytest.fixture(scope="module", params=[CLASSIC, VUE])
def done(request: Any, page: Any, server: Any, queue: Any, shoot: Any) -> str:
    """The graph with every view has run in this mode."""
    page.evaluate("on => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", request.param == VUE)
    page.wait_for_timeout(1500)
    page.evaluate(
        """async () => { const { api } = await import('/scripts/api.js'); window.heard = []
            api.addEventListener('unmemorize.guard', e => window.heard.push(e.detail.kind)) }"""
    )
    page.evaluate("g => app.loadGraphData(g)", workflow(server.object_info()))
    page.wait_for_timeout(1500)
    queue(page)
    wait_for_all(page)
    page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1500)
    shoot(page, f"views-{request.param}")
    return request.param
