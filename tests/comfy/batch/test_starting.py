"""ComfyUI's own options count on the command line as they do for its server: devices, folders, lists of model folders."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

PROGRAM = """
import importlib.util, json, os, sys
spec = importlib.util.spec_from_file_location("run", ROOT + "/batch/run.py")
run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)
try:
    run.add_comfyui(OPTIONS, **MORE)
except run.Unusable as error:
    raise SystemExit(str(error))
import folder_paths
found = {name: getattr(folder_paths, f"get_{name}_directory")() for name in ("output", "input", "user")}
found |= {"environment": dict(os.environ), "torch": "torch" in sys.modules, "checkpoints": folder_paths.get_folder_paths("checkpoints")}
sys.stdout.write("found " + json.dumps(found))
"""
DEVICES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES")


@pytest.fixture
def started(comfyui, root, tmp_path):
    """started(*options): the folders and the environment of a process in which ComfyUI was made importable with them."""

    def run(*options, home=comfyui, given=None, **more):
        text = f"ROOT, OPTIONS, MORE = {str(root)!r}, {list(options)!r}, {more!r}\n{PROGRAM}"
        clean = {k: v for k, v in os.environ.items() if k not in (*DEVICES, "ONEAPI_DEVICE_SELECTOR", "CUBLAS_WORKSPACE_CONFIG")}
        environment = clean | {"COMFYUI_PATH": str(home)} | (given or {})
        line = [sys.executable, "-c", text]
        done = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return json.loads(done.stdout.partition("found ")[2])

    return run


def test_devices_are_chosen_before_torch_is_there(started):
    found = started("--cuda-device", "3", "--oneapi-device-selector", "gpu:1", "--deterministic")
    assert [found["environment"][name] for name in DEVICES] == ["3"] * 3 and not found["torch"]
    assert found["environment"]["ONEAPI_DEVICE_SELECTOR"] == "gpu:1" and found["environment"]["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    found = started("--default-device", "2")["environment"]
    assert found["CUDA_VISIBLE_DEVICES"].startswith("2,0,1,3,") and len(found["HIP_VISIBLE_DEVICES"].split(",")) == 32
    assert not {*DEVICES, "ONEAPI_DEVICE_SELECTOR"} & started()["environment"].keys(), "nothing asked for"


def test_a_cluster_deals_out_devices_itself(started):
    """With --cuda-device 0, which stands for every worker, all would share one."""
    found = started("--cuda-device", "0", "--output-directory", "out", choose_device=False, given={"CUDA_VISIBLE_DEVICES": "5"})
    assert found["environment"]["CUDA_VISIBLE_DEVICES"] == "5" and found["output"].endswith("out")


def test_folders_are_those_of_the_options(started, tmp_path):
    (tmp_path / "mine").mkdir()
    found = started("--output-directory", "out", "--input-directory", "in", "--user-directory", str(tmp_path / "mine"))
    assert [found[name] for name in ("output", "input", "user")] == [str(tmp_path / name) for name in ("out", "in", "mine")]
    assert str(tmp_path / "out" / "checkpoints") in found["checkpoints"]


def test_lists_of_model_folders_are_read(started, comfyui, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    for name in ("comfy", "utils", "folder_paths.py", "cuda_malloc.py"):
        (home / name).symlink_to(comfyui / name)
    (home / "extra_model_paths.yaml").write_text("mine:\n  base_path: /models\n  checkpoints: own\n")
    (tmp_path / "more.yaml").write_text("others:\n  checkpoints: beside\n")
    found = started("--extra-model-paths-config", "more.yaml", home=home)
    assert {"/models/own", str(tmp_path / "beside")} <= set(found["checkpoints"])


@pytest.mark.parametrize("content", [None, "[1, 2]", "a: {b: [", "just words"])
def test_a_list_that_cannot_be_read_is_said(started, tmp_path, content):
    if content is not None:
        (tmp_path / "more.yaml").write_text(content)
    with pytest.raises(RuntimeError, match=r"more\.yaml' cannot be read as a list of model folders"):
        started("--extra-model-paths-config", "more.yaml")


def test_workers_start_comfyui_as_the_command_does(comfy, tmp_path, monkeypatch):
    """From the folder where it was given, for its options may name files from there."""
    engines, asked = importlib.import_module("unmemorize_pack.batch.engines"), []
    entry = SimpleNamespace(
        add_comfyui=lambda *a, **more: asked.append((os.getcwd(), a, more)), load_pack=lambda: None, PACKAGE="x", Tools=lambda _: None,
        Options=lambda *_: None,
    )  # fmt: skip
    monkeypatch.setattr(engines.importlib, "import_module", lambda _: entry)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path.parent)
    start = {"root": "/pack", "comfyui": "", "folder": str(tmp_path), "argv": ["--fast"], "output": "", "settings": {}, "paths": {}}
    for dealt in (True, False):
        engines._Actor(start | {"dealt": dealt})
    engines._Actor(start | {"dealt": False, "folder": str(tmp_path / "of another machine")})
    assert asked[:2] == [(str(tmp_path), (["--fast"],), {"choose_device": choose}) for choose in (False, True)] and len(asked) == 3
