"""The denoiser outside ComfyUI's inference mode, as scripts and benchmarks use it."""

from __future__ import annotations

import importlib

import torch


def test_no_graph_is_kept_where_nobody_asks_for_gradients(demo, encode):
    """Every call would keep its activations: 30 MB on the demo model."""
    denoiser = importlib.import_module("unmemorize_pack.host.core.denoiser")
    seen = []

    def work(d):
        x = d.noised(torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))).requires_grad_(True)
        seen.append(d.branches(x))
        with denoiser.differentiable(d.network):
            seen.append(d.branches(x.detach().clone().requires_grad_(True)))

    positive, latent = encode("a red ring"), {"samples": torch.zeros(1, 8, 16, 16)}
    positive = [[positive[0][0].clone(), positive[0][1]]]
    with torch.inference_mode(False), torch.enable_grad():
        denoiser.with_denoiser(demo[0], positive, None, {"samples": latent["samples"].clone()}, 0.2, 0, work)
        assert torch.is_grad_enabled()
    plain, asked = seen
    assert not plain.requires_grad and plain.grad_fn is None
    assert asked.requires_grad, "work that needs gradients gets them"
    assert torch.allclose(plain, asked.detach(), atol=1e-5)
