"""`python batch/run.py filter|probe|audit|copies|merge ...`: the nodes' jobs for many files, with no graph and no server.

Runs in ComfyUI's environment: COMFYUI_PATH names its folder, otherwise it is looked for two folders up, where custom_nodes lies in it.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "unmemorize_pack"
WRONG = 2
"""Exit code where nothing was begun."""
HINT = "On a machine without a GPU put `-- --cpu` behind the command; otherwise look whether this is ComfyUI's own Python."


class Unusable(Exception):
    """ComfyUI or the pack is not where it should be, or does not start; the text says what to do."""


def add_comfyui(arguments: list[str]) -> None:
    """Make `import comfy` work. ComfyUI reads the command line when it is imported: it gets what stands behind `--`."""
    path = Path(os.environ.get("COMFYUI_PATH") or ROOT.parents[1])
    if not (path / "comfy").is_dir():
        raise Unusable("ComfyUI was not found: set COMFYUI_PATH to its folder, or run this from inside its custom_nodes folder.")
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
        raise Unusable(f"There is no pack at {ROOT}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = module
    spec.loader.exec_module(module)


def main() -> None:
    """What stands behind `--` is ComfyUI's own, for instance `-- --cpu`."""
    here = sys.argv[1:]
    at = here.index("--") if "--" in here else len(here)
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() not in (ROOT, Path(__file__).parent)]
    options = theirs(here[:at], here[at + 1 :])
    try:
        add_comfyui(options)
        load_pack()
        command = importlib.import_module(f"{PACKAGE}.batch.command")
    except Unusable as error:
        logging.getLogger(__name__).error("%s", error)
        raise SystemExit(WRONG) from None
    except (ImportError, RuntimeError) as error:  # of ComfyUI's start: another Python than its own, no device
        logging.getLogger(__name__).error(
            "ComfyUI does not start: %s\nOn a machine without a GPU put `-- --cpu` behind the command.", error
        )
        raise SystemExit(WRONG) from None
    raise SystemExit(command.main(here[:at], options))


def theirs(ours: list[str], given: list[str]) -> list[str]:
    """ComfyUI's options. Tables and help need no device, and may be asked for where there is none."""
    needs_none = not ours or ours[0] == "merge" or bool({"-h", "--help"} & set(ours))
    return [*given, "--cpu"] if needs_none and "--cpu" not in given else given


if __name__ == "__main__":
    main()
