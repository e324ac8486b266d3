"""What is observed at a step of a run ("Broken Memories", arXiv 2605.22050; revision and sharpness are ours).

Steps are numbered from the noisy end. In variance-preserving coordinates `z = (a x0 + b eps) / sqrt(a^2 + b^2)`, so that
`z = cos(angle) x0 + sin(angle) eps` with `angle = atan(b / a)` for every kind of model: VE, VP and flow models give the same numbers.
All norms are RMS (L2 / sqrt of the number of values), by sample: profiles then serve several resolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor

SIGNALS = ("latent", "update", "prediction", "guidance", "revision", "sharpness", "agreement")
"""What is observed at a step, [n] each:

latent      ||y||, the proposed latent after the step (paper)
update      ||y - z|| over the angle the step covers (paper; divided, so that one profile serves other step counts)
prediction  ||x0_hat||, the guided D (paper)
guidance    ||D_c - D_u|| (for R2, and for comparison)
revision    log ||D_u(t) - D_u(t-1)|| - log ||D_c(t) - D_c(t-1)||: how much less the conditional prediction is still revised
            than the unconditional one. A memory is known from the start.
sharpness   log RMS gradient of D_c: at the first steps an honest prediction is a blur, a memory is not.
agreement   of what the prompt asks for with a LoRA and without it (see `agreement`); only where the model before the LoRA is known.
"""


def rms(x: Tensor, region: Tensor | None = None) -> Tensor:
    """RMS of each sample of [n, c, ...], where `region` (broadcastable, 1 = counts) says; [n], float32."""
    return rms_of_each(x[None], region)[0]


def rms_of_each(several: Tensor, region: Tensor | None = None) -> Tensor:
    """The same for several tensors at once, [k, n, c, ...] -> [k, n]."""
    if region is None:
        return several.float().square().flatten(2).mean(2).sqrt()
    return torch.stack([_mean_square(x, region) for x in several]).sqrt()


def _mean_square(x: Tensor, region: Tensor | None) -> Tensor:
    """[n, c, ...] -> [n]."""
    squares = x.float().square()
    if region is None:
        return squares.flatten(1).mean(1)
    weight = region.to(squares).expand_as(squares)
    return (squares * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1)


def sharpness(x: Tensor, region: Tensor | None = None) -> Tensor:
    """log RMS difference of neighbours of [n, c, ..., h, w], along both sides of the picture; [n]."""
    across, down = (_mean_square(torch.diff(x.float(), dim=dim), _both_inside(x, region, dim)) for dim in (-1, -2))
    return 0.5 * (0.5 * (across + down)).clamp_min(1e-20).log()


def _both_inside(x: Tensor, region: Tensor | None, dim: int) -> Tensor | None:
    """1 where two neighbours both lie in the region."""
    if region is None:
        return None
    inside = region.expand_as(x)
    count = x.shape[dim] - 1
    return inside.narrow(dim, 0, count) * inside.narrow(dim, 1, count)


def revision(change_uncond: Tensor, change_cond: Tensor) -> Tensor:
    """log ratio of the RMS changes of the unconditional and the conditional prediction over a step; [n]."""
    return (change_uncond.clamp_min(1e-10) / change_cond.clamp_min(1e-10)).log()


def by_sample(values: Tensor, like: Tensor) -> Tensor:
    """[n] shaped to broadcast over [n, c, ...]."""
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like.device)
