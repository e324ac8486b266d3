"""Pictures for the help pages, js/docs/pictures/*.webp: every node as a user sees it after its template ran.

nox -s help-pictures
"""

from __future__ import annotations

import argparse
import io
import json
import logging
from pathlib import Path
from typing import Any

from PIL import Image

from ..demo.live.server import ROOT
from .browser import SETTLE, VUE, choose, front_end, run

PAGES = ROOT / "js" / "docs"
PICTURES = PAGES / "pictures"
WIDTH, HEIGHT = 1600, 2000
WIDEST, TALLEST = 460, 560
"""Of a picture, in pixels. Of a taller node only its view is shown: the widgets stand in the page's table."""
LEAST_VIEW = 100
"""Lower ones are no more than a line with the verdict."""
ALONE = """id => { const n = app.graph._nodes.find(n => n.id === id); n.flags.collapsed && n.collapse()
    window.alone ??= document.head.appendChild(document.createElement('style'))
    window.alone.textContent = `.lg-node:not([data-node-id="${id}"]), .p-toast { display: none !important }`
    app.canvas.ds.scale = 1; app.canvas.centerOnNode(n); app.canvas.setDirty(true, true) }"""
"""Unfolds a node and shows it at full size, without the others and without messages of the front end."""

SHIFT = """box => { const ds = app.canvas.ds; ds.offset[0] += (innerWidth / 2 - box.x - box.width / 2) / ds.scale
    ds.offset[1] += (innerHeight / 2 - box.y - box.height / 2) / ds.scale; app.canvas.setDirty(true, true) }"""
"""Brings what is shot to the middle of the window."""

log = logging.getLogger("docs.help_pictures")


def shoot(page: Any, node: dict[str, Any], path: Path) -> None:
    """One node of the graph on screen."""
    page.evaluate(ALONE, node["id"])
    page.wait_for_timeout(SETTLE)
    place = page.locator(f'[data-node-id="{node["id"]}"]').first
    view = place.locator(".unmemorize-view").first
    box, inside = (w.bounding_box() if w.count() else None for w in (place, view))
    tall = box and inside and box["height"] > TALLEST and inside["height"] > LEAST_VIEW
    target = view if tall else place
    page.evaluate(SHIFT, target.bounding_box())
    page.wait_for_timeout(SETTLE)
    picture = Image.open(io.BytesIO(target.screenshot())).convert("RGB")
    picture.thumbnail((WIDEST, 2 * TALLEST), Image.Resampling.LANCZOS)
    picture.save(path, quality=82, method=6)


def show_in_page(node_id: str) -> None:
    """The picture stands right under the title of the help page."""
    page = PAGES / f"{node_id}.md"
    title, rest = page.read_text(encoding="utf-8").split("\n", 1)
    line = f"![{title.removeprefix('# ')}](pictures/{node_id}.webp)"
    if line not in rest:
        page.write_text(f"{title}\n\n{line}\n{rest}", encoding="utf-8")


def take(page: Any, workflow: dict[str, Any], missing: set[str]) -> None:
    """Run a workflow, then shoot each node of ours that has no picture yet."""
    page.evaluate("g => app.loadGraphData(g)", workflow)
    page.wait_for_timeout(SETTLE)
    run(page)
    for node in workflow["nodes"]:
        if node["type"] in missing:
            missing.discard(node["type"])
            shoot(page, node, PICTURES / f"{node['type']}.webp")
            show_in_page(node["type"])


def main() -> None:
    """Every template that shows a node without a picture; delete a picture to have it taken anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="of a running ComfyUI with the pack; without it one is started")
    url = parser.parse_args().url
    PICTURES.mkdir(exist_ok=True)
    missing = {p.stem for p in PAGES.glob("*.md")} - {p.stem for p in PICTURES.glob("*.webp")}
    with front_end(url, WIDTH, HEIGHT) as page:
        choose(page, VUE, True)
        for path in sorted((ROOT / "workflows").glob("*.json")):
            workflow = json.loads(path.read_text(encoding="utf-8"))
            if missing & {node["type"] for node in workflow["nodes"]}:
                log.info("%s", path.stem)
                take(page, workflow, missing)
    if missing:
        log.warning("in no template: %s", ", ".join(sorted(missing)))
