"""The real front end in a Chromium, for pictures of it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

from ..demo.live.server import running

PATIENCE = 900_000
"""Milliseconds."""
SETTLE = 1200
READY = "() => window.app?.graph && 'UnmemorizeHeatmapOverlay' in LiteGraph.registered_node_types"
LISTEN = """async () => { const { api } = await import('/scripts/api.js'); window.ends = []
    api.addEventListener('execution_success', () => window.ends.push(''))
    api.addEventListener('execution_error', e => window.ends.push(`${e.detail.node_type}: ${e.detail.exception_message}`)) }"""
SETTING = "([id, value]) => app.extensionManager.setting.set(id, value)"
VUE = "Comfy.VueNodes.Enabled"


@contextlib.contextmanager
def front_end(url: str | None, width: int, height: int) -> Iterator[Any]:
    """A page with ComfyUI at `url`; without one a server is started."""
    from playwright.sync_api import sync_playwright

    with contextlib.ExitStack() as stack:
        address = url or stack.enter_context(running()).url
        browser = stack.enter_context(sync_playwright()).chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto(address)
        page.wait_for_function(READY, timeout=PATIENCE)
        page.wait_for_timeout(2 * SETTLE)
        page.keyboard.press("Escape")
        page.evaluate(LISTEN)
        page.evaluate(SETTING, ["Comfy.Minimap.Visible", False])
        yield page
        browser.close()


def choose(page: Any, setting: str, value: Any) -> None:
    """Change a setting of the front end."""
    page.evaluate(SETTING, [setting, value])
    page.wait_for_timeout(SETTLE)


def run(page: Any) -> None:
    """Queue the graph on screen and wait for its end. RuntimeError with what the node said, if one failed."""
    page.evaluate("() => { window.ends.length = 0; app.queuePrompt(0) }")
    page.wait_for_function("() => window.ends.length", timeout=PATIENCE)
    (said,) = page.evaluate("() => window.ends")
    if said:
        raise RuntimeError(said)
    page.wait_for_timeout(2 * SETTLE)
