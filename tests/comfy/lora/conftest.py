"""An empty LoRA folder, the leaking demo LoRA, and the filter node; a tiny model, and what filter and core do to any tensors on it."""

from __future__ import annotations

import importlib
import json

import pytest
import torch
from unmemorize_pack.tests.comfy import networks
from unmemorize_pack.tests.comfy.loras import HOW, LEAKING


@pytest.fixture
def loras(comfy, tmp_path, monkeypatch):
    """An empty loras folder of ComfyUI's, and a user folder beside it."""
    import folder_paths

    folder = tmp_path / "loras"
    folder.mkdir()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(folder)], {".safetensors", ".pt"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path / "user"))
    return folder


@pytest.fixture(scope="session")
def file(nodes):
    """LORA_MODEL and info of the leaking demo LoRA."""
    with torch.inference_mode():
        return nodes["UnmemorizeOpenLoRA"].execute(LEAKING).args[:2]


@pytest.fixture
def split(nodes, demo, file):
    def run(lora=None, clip=None, info=None, **changes):
        how = HOW | changes
        return nodes["UnmemorizeBAFFilterLoRA"].execute(lora=lora or file[0], model=demo[0], clip=clip, info=info or file[1], **how).args

    return run


@pytest.fixture(scope="module")
def model(comfy):
    return networks.tiny_model("SD1.5")


@pytest.fixture
def filtered(nodes, model):
    """filtered(tensors, **changes) -> kept, removed, report"""

    def run(tensors: dict, **changes) -> tuple[dict, dict, dict]:
        found = nodes["UnmemorizeBAFFilterLoRA"].execute(lora=tensors, model=model, **(HOW | changes)).args
        return found[0], found[1], json.loads(found[5])

    return run


@pytest.fixture
def update_of(comfy, model):
    """update_of(tensors, key) -> what ComfyUI adds to a weight [m, n], or None."""
    sd, lora = importlib.import_module("comfy.sd"), importlib.import_module("comfy.lora")

    def of(tensors: dict, key: str) -> torch.Tensor | None:
        patched = sd.load_lora_for_models(model, None, tensors, 1.0, 0)[0]
        if f"{key}.weight" not in patched.patches:
            return None
        shape = model.model.get_parameter(f"{key}.weight").shape
        return lora.calculate_weight(patched.patches[f"{key}.weight"], torch.zeros(shape), f"{key}.weight")

    return of
