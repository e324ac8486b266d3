"""An empty LoRA folder, the leaking demo LoRA, and the filter node."""

from __future__ import annotations

import pytest
import torch
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
