"""Shared by all tiers: the pack as a package, and a real ComfyUI where a tier needs one."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _launcher() -> ModuleType:
    spec = importlib.util.spec_from_file_location("unmemorize_run", ROOT / "demo" / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run = _launcher()
run.load_pack()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-snapshots", action="store_true", help="rewrite tests/data from the running ComfyUI")


def missing(part: str, required_by: str) -> None:
    """Skip with a reason, or fail where CI promised that the part is there."""
    if os.environ.get(required_by) == "1":
        pytest.fail(f"{part} ({required_by}=1 forbids skipping)", pytrace=False)
    pytest.skip(part)


@pytest.fixture(scope="session")
def launcher() -> ModuleType:
    """demo/run.py."""
    return run


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """Path of the ComfyUI under test."""
    path = os.environ.get("COMFYUI_PATH")
    if not path or not (Path(path) / "main.py").is_file():
        missing("no ComfyUI: set COMFYUI_PATH or use `nox -s tests`", "REQUIRE_COMFYUI")
    return Path(path)


@pytest.fixture(scope="session")
def server(comfyui: Path) -> Iterator[object]:
    """A live ComfyUI server with the pack in a folder whose name is not the pack's."""
    from unmemorize_pack.demo.live.server import running

    with running(pack_folder="any folder-name") as live:
        yield live


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the system's Chromium."""
    found = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        missing("no Chromium on this machine: `apt-get install chromium`, or set CHROMIUM_PATH", "REQUIRE_BROWSER")
    return found
