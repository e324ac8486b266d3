"""`python batch/run.py filter|probe|audit|copies|merge ...`: the nodes' jobs for many files, with no graph and no server.

Runs in ComfyUI's environment: COMFYUI_PATH names its folder, otherwise it is looked for two folders up, where custom_nodes lies in it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "unmemorize_pack"


def add_comfyui(arguments: list[str]) -> None:
    """Make `import comfy` work. ComfyUI reads the command line when it is imported: it gets what stands behind `--`."""
    path = Path(os.environ.get("COMFYUI_PATH") or ROOT.parents[1])
    if not (path / "comfy").is_dir():
        raise SystemExit("ComfyUI was not found: set COMFYUI_PATH to its folder, or run this from inside its custom_nodes folder.")
    sys.path.insert(0, str(path))
    ours, sys.argv[1:] = sys.argv[1:], arguments
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args  # noqa: F401

    sys.argv[1:] = ours


def load_pack() -> None:
    """The pack as a package of its own name: it uses relative imports only."""
    if PACKAGE in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(PACKAGE, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    if spec is None or spec.loader is None:
        raise SystemExit(f"There is no pack at {ROOT}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)


def main() -> None:
    """What stands behind `--` is ComfyUI's own, for instance `-- --cpu`."""
    here = sys.argv[1:]
    at = here.index("--") if "--" in here else len(here)
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() not in (ROOT, Path(__file__).parent)]
    add_comfyui(here[at + 1 :])
    load_pack()
    raise SystemExit(importlib.import_module(f"{PACKAGE}.batch.command").main(here[:at]))


if __name__ == "__main__":
    main()
