"""Shared by all tiers: the pack as a package, and a real ComfyUI where a tier needs one."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _launcher() -> ModuleType:
    spec = importlib.util.spec_from_file_location("unmemorize_run", ROOT / "demo" / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SERVED = ("browser", "server")

run = _launcher()
run.load_pack()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-snapshots", action="store_true", help="rewrite tests/data from the running ComfyUI")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of two processes, each takes whole files: what these set up is shared. One takes all that asks a server, and the only browser.

    Groups by marks would be shorter, but pytest 9.2 no longer lets pytest-xdist 3.8 write them.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "served" if file.startswith(tuple(f"tests/{room}/" for room in SERVED)) else file

    return ByFile(config, log)


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
def shipped_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of only those files that users get from the registry (.comfyignore)."""
    import pathspec

    ignored = pathspec.GitIgnoreSpec.from_lines((ROOT / ".comfyignore").read_text().splitlines())
    if not (ROOT / ".git").exists():
        pytest.skip("not a git clone: which files ship is read from git")
    command = ["git", "ls-files", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    copy = tmp_path_factory.mktemp("shipped") / "pack"
    for name in ignored.match_files((n for n in names if n and (ROOT / n).is_file()), negate=True):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="session")
def server(comfyui: Path, shipped_pack: Path) -> Iterator[object]:
    """A live ComfyUI server with the pack as shipped, in a folder whose name is not the pack's."""
    from unmemorize_pack.demo.live.server import running

    with running(shipped_pack, pack_folder="any-folder_name") as live:
        yield live


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the system's Chromium."""
    found = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        missing("no Chromium on this machine: `apt-get install chromium`, or set CHROMIUM_PATH", "REQUIRE_BROWSER")
    return found
