"""What a user sees of every template, out/screenshots/NAME-CANVAS.png: run, in its first view, by the classic canvas and by Nodes 2.0.

nox -s screenshots [-- NAME ...]
"""

from __future__ import annotations

import argparse
import json
import logging

from ..demo.live.server import ROOT
from .browser import SETTLE, VUE, choose, front_end, run

WIDTH, HEIGHT = 1600, 1000
"""The window that templates are laid out for."""
CANVASES = {"classic": False, "nodes-2": True}

log = logging.getLogger("docs.screenshots")


def main() -> None:
    """Every template, or those whose names begin as given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of the templates' names")
    parser.add_argument("--url", help="of a running ComfyUI with the pack; without it one is started")
    o = parser.parse_args()
    folder = ROOT / "out" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [p for p in sorted((ROOT / "workflows").glob("*.json")) if not o.names or p.stem.startswith(tuple(o.names))]
    with front_end(o.url, WIDTH, HEIGHT) as page:
        for path in wanted:
            workflow = json.loads(path.read_text(encoding="utf-8"))
            for canvas, vue in CANVASES.items():
                log.info("%s, %s", path.stem, canvas)
                choose(page, VUE, vue)
                page.evaluate("g => app.loadGraphData(g)", workflow)
                page.wait_for_timeout(SETTLE)
                run(page)  # the second time from the cache
                page.screenshot(path=str(folder / f"{path.stem}-{canvas}.png"))
    log.info("%d pictures are in %s", len(CANVASES) * len(wanted), folder.relative_to(ROOT))
