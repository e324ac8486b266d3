"""Run a module of the pack outside ComfyUI's own process: `python demo/run.py demo.recipe.train --help`.

The pack uses relative imports only and must work under any folder name, so it is loaded here as a
package of its own name, with ComfyUI (COMFYUI_PATH) in front of sys.path.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "unmemorize_pack"
DEVICES = {"cpu": ["--cpu"], "gpu": [], "pretend": ["--cpu"]}
"""pretend: of the tests alone, see tests/pretend_device.py."""


def load_pack() -> ModuleType:
    """The pack as package `unmemorize_pack`; nothing of ComfyUI is imported yet."""
    if PACKAGE in sys.modules:
        return sys.modules[PACKAGE]
    spec = importlib.util.spec_from_file_location(PACKAGE, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    if spec is None or spec.loader is None:
        raise ImportError(f"no pack at {ROOT}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)
    return module


def add_comfyui() -> None:
    """Make `import comfy` work; COMFYUI_PATH says where it is. On a CPU, unless COMFYUI_DEVICE=gpu lets it choose."""
    path = os.environ.get("COMFYUI_PATH")
    if not path or not (Path(path) / "comfy").is_dir():
        raise SystemExit("COMFYUI_PATH must name a ComfyUI folder (`nox` sets it for its own sessions).")
    sys.path.insert(0, path)
    arguments, sys.argv[1:] = sys.argv[1:], [*DEVICES[os.environ.get("COMFYUI_DEVICE", "cpu")], "--use-pytorch-cross-attention"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args  # noqa: F401

    sys.argv[1:] = arguments


def main() -> None:
    """Load the pack, then call `main()` of the named module with the remaining arguments."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    name = sys.argv.pop(1)
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() not in (ROOT, Path(__file__).parent)]
    add_comfyui()
    load_pack()
    importlib.import_module(f"{PACKAGE}.{name}").main()


if __name__ == "__main__":
    main()
