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


def test_what_an_inpainting_keeps_is_what_the_model_is_given_there(demo, encode, monkeypatch):
    """Most models get the picture with noise, some (LTXV, Wan 2.2) the picture itself."""
    denoiser = importlib.import_module("unmemorize_pack.host.core.denoiser")
    picture, noise = (torch.randn(2, 8, 16, 16, generator=torch.Generator().manual_seed(k)) for k in (1, 2))
    mask = torch.zeros(1, 16, 16)
    mask[:, :, 5:] = 1
    seen = []
    work = lambda d: seen.append((d.noised(noise), d.x0, d.level))  # noqa: E731
    ask = lambda: denoiser.with_denoiser(demo[0], encode("a red ring"), None, {"samples": picture, "noise_mask": mask}, 0.2, 0, work)  # noqa: E731
    ask()
    monkeypatch.setattr(demo[0].model, "scale_latent_inpaint", lambda latent_image, **_: latent_image)
    ask()
    (usual, x0, level), (other, _, _) = seen
    assert torch.allclose(usual, level.a * x0 + level.b * noise, atol=1e-6)
    assert torch.equal(other[..., 5:], usual[..., 5:]) and torch.equal(other[..., :5], x0[..., :5])
