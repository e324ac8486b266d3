"""Writes workflows/*.json (UI format) and subgraphs/*.json against a running ComfyUI: `nox -s workflows` after changing templates/."""

from __future__ import annotations

import argparse
import json

from . import blueprints
from .lower import lower
from .server import ROOT, running
from .shown import thumbnail
from .templates import WORKFLOWS

FOLDER = ROOT / "workflows"


def main() -> None:
    """Rewrite every blueprint, and every workflow file and its thumbnail; of workflows those whose names begin as given, if any are."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", help="beginnings of the workflows' names")
    names = tuple(parser.parse_args().names) or ("",)
    FOLDER.mkdir(exist_ok=True)
    with running() as server:
        info = server.object_info()
        blueprints.write(info)
        for name, build in WORKFLOWS.items():
            if not name.startswith(names):
                continue
            workflow = build(info)
            (FOLDER / f"{name}.json").write_text(json.dumps(workflow, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            prompt = lower(workflow, info)
            thumbnail(server, prompt, server.run(prompt), FOLDER / f"{name}.jpg")
