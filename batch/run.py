"""`python batch/run.py filter|probe|audit|copies|merge ...`: the nodes' jobs for many files, with no graph and no server.

Runs in ComfyUI's environment: COMFYUI_PATH names its folder, otherwise it is looked for two folders up, where custom_nodes lies in it.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import logging
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "unmemorize_pack"
WRONG = 2
"""Exit code where nothing was begun."""


class Unusable(Exception):
    """ComfyUI or the pack is not where it should be, or does not start; the text says what to do."""


def add_comfyui(arguments: list[str], choose_device: bool = True) -> None:
    """Make `import comfy` work. ComfyUI reads the command line when it is imported: it gets what stands behind `--`.

    Without `choose_device` the device stays that which a cluster has dealt out.
    """
    path = Path(os.environ.get("COMFYUI_PATH") or ROOT.parents[1])
    if not (path / "comfy").is_dir():
        raise Unusable("ComfyUI was not found: set COMFYUI_PATH to its folder, or run this from inside its custom_nodes folder.")
    sys.path.insert(0, str(path))
    ours, sys.argv[1:] = sys.argv[1:], arguments
    import comfy.options

    comfy.options.enable_args_parsing()
    from comfy.cli_args import args

    sys.argv[1:] = ours
    if choose_device:
        os.environ.update(devices(args))
    if args.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    importlib.import_module("cuda_malloc")  # sets up torch's memory, by ComfyUI's options
    set_folders(path, args)


def devices(args: Any) -> dict[str, str]:
    """Environment variables by which ComfyUI's main.py chooses devices; they count only before torch is imported."""
    found: dict[str, str] = {}
    if args.default_device is not None and args.cuda_device != "all":
        order = [args.default_device, *(k for k in range(32) if k != args.default_device)]
        found |= dict.fromkeys(("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"), ",".join(map(str, order)))
    if args.cuda_device not in (None, "all"):
        names = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES")
        found |= dict.fromkeys(names, str(args.cuda_device))
    if args.oneapi_device_selector is not None:
        found["ONEAPI_DEVICE_SELECTOR"] = args.oneapi_device_selector
    return found


def set_folders(home: Path, args: Any) -> None:
    """Where models, output, input and the user's files lie, as main.py reads it from its options and from lists of model folders."""
    import folder_paths
    import yaml
    from utils.extra_config import load_extra_path_config

    own = home / "extra_model_paths.yaml"
    for file in [*([str(own)] if own.is_file() else []), *itertools.chain(*(args.extra_model_paths_config or []))]:
        try:
            load_extra_path_config(file)
        except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
            raise Unusable(f"{file!r} cannot be read as a list of model folders ({error}). Mend it, or leave it out.") from error
    if args.output_directory:
        folder_paths.set_output_directory(os.path.abspath(args.output_directory))
    for kind in ("checkpoints", "clip", "vae", "diffusion_models", "loras"):  # where ComfyUI's nodes save them
        folder_paths.add_model_folder_path(kind, os.path.join(folder_paths.get_output_directory(), kind))
    if args.input_directory:
        folder_paths.set_input_directory(os.path.abspath(args.input_directory))
    if args.user_directory:
        folder_paths.set_user_directory(os.path.abspath(args.user_directory))


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
