"""Models and ways of sampling under which a run that is drawn again must go on exactly."""

from __future__ import annotations

import importlib

import torch

KINDS = ("plain", "flow", "scaled", "flow scaled")


def kinds(demo, name):
    """The demo as it is, as a flow model, with another latent format, and with both: their pictures mean nothing, their sums do."""
    sampling, formats = (importlib.import_module(f"comfy.{n}") for n in ("model_sampling", "latent_formats"))
    model = demo[0].clone()
    if "flow" in name:
        model.add_object_patch("model_sampling", type("Flow", (sampling.ModelSamplingDiscreteFlow, sampling.CONST), {})())
    if "scaled" in name:
        latent_format = type("Scaled", (formats.LatentFormat,), {"latent_channels": 8, "scale_factor": 0.3})()
        model.add_object_patch("latent_format", latent_format)
    return model


def kept_picture(n=2):
    """A picture of which the left half is kept, differently for each sample."""
    g = torch.Generator().manual_seed(4)
    mask = torch.zeros(n, 1, 8, 8)
    for i in range(n):
        mask[i, :, :, 4 - i :] = 1
    return torch.randn(n, 8, 8, 8, generator=g), mask


SITUATIONS = {
    "whole": {},
    "img2img": {"latent": True, "denoise": 0.6},
    "inpaint": {"latent": True, "noise_mask": True},
    "first steps only": {"last_step": 3},
    "last steps only": {"start_step": 1, "latent": True},
}


def situation(name):
    """Arguments of `draw` for a batch of two."""
    given = dict(SITUATIONS[name])
    picture, mask = kept_picture()
    given |= {"latent": picture} if given.get("latent") else {"n": 2}
    return given | ({"noise_mask": mask} if given.get("noise_mask") else {})
