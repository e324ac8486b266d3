"""What ships with a lab beside its weights: measured on it, and written into its folder again when it was trained anew."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...host.core import files
from ...host.core.store import Store
from ..recipe.lab import LAB

NAME = "demo"

log = logging.getLogger("demo.bundled")


def write(store: Store, measure: Callable[[Path], Any], as_file: Callable[[Any], Any], told: Callable[[Any], str], doc: str | None) -> None:
    """Command line of one kind: `measure(lab's folder)`, then `as_file` of it into the folder of its store; `told` says what it is."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lab", type=Path, default=LAB)
    folder = parser.parse_args().lab
    torch.set_num_threads(1)
    path = folder / store.bundled.name / f"{NAME}.safetensors"
    found = measure(folder)
    files.replace(path, *as_file(found))
    log.info("%s: %s", path, told(found))
