"""Audits in folders of their own."""

from __future__ import annotations

import importlib

import pytest
import torch

from ..auditing import EMPTY, PROMPTS, USE
from ..loras import attention_patched


@pytest.fixture(scope="session")
def audits(comfy):
    """host.combined.audit."""
    return importlib.import_module("unmemorize_pack.host.combined.audit")


@pytest.fixture
def home(comfy, tmp_path, monkeypatch):
    """Folders of its own for ComfyUI: input, output, user."""
    import folder_paths

    for name in ("input", "output", "user"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"get_{name}_directory", lambda name=name: str(tmp_path / name))
    return tmp_path


@pytest.fixture
def audit(audits, demo, encode, home):
    """audit(prompts, **changes) -> rows and page."""

    def run(prompts=PROMPTS, **changes):
        facts = {
            "model": demo[0], "clip": demo[1], "vae": demo[2], "negative": encode(""), "latent": EMPTY, "prompts": prompts, "seeds": 2,
            "use": USE, "name": "mine", "neighbours": 1,
        }  # fmt: skip
        done = audits.run(audits.Audit(**(facts | changes)))
        return done.rows, done.page

    return run


@pytest.fixture
def changed(demo):
    """The demo model under a patch of its cross-attention, as a LoRA is one."""
    return attention_patched(demo[0], lambda w, g: 0.5 * w.float().std() * torch.randn(w.shape, generator=g))
