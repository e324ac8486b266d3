"""Where a map counts as memorized: a threshold from clean prompts, or Otsu's as an uncalibrated stand-in.

The former is the 99.5 % quantile of the pooled values of at least 20 prompts that are not memorized, measured on the same model at the
same resolution in the same way. Without them Otsu's threshold on log(1 + map) splits any map in two, memorized or not.
"""

from __future__ import annotations

import torch
from torch import Tensor

QUANTILE = 0.995
LEAST_PROMPTS = 20
BINS = 256
FEW, MANY = 2, 10
"""A calibrated threshold lets 1 - QUANTILE of a clean picture's pixels pass by construction: up to so many times that is clean, from so
many on memorized, in between neither is said."""
CHANCE, CHANCE_TO_MISS = 0.001, 0.05
"""Most that chance may give as many hot pixels in a clean picture before it is called memorized, and as few in one of which MANY times the
usual share is hot before it is called clean. The former is small, since hot pixels lie together: they are fewer than they count."""


def clean_threshold(maps: Tensor, regions: Tensor) -> float:
    """QUANTILE of the non-negative values inside the regions, both [n, h, w]; n must be LEAST_PROMPTS or more."""
    if len(maps) < LEAST_PROMPTS:
        raise ValueError(f"At least {LEAST_PROMPTS} clean pictures are needed for a threshold, not {len(maps)}.")
    pooled = maps.clamp_min(0)[regions > 0].double().sort().values
    if len(pooled) == 0:
        raise ValueError("The clean pictures have no generated pixel: remove their mask.")
    return float(pooled[min(int(QUANTILE * len(pooled)), len(pooled) - 1)])


def otsu(values: Tensor) -> float:
    """Otsu's threshold of one picture's non-negative map values [k], found on log1p; 0 where all are alike or there are none."""
    if not values.numel():
        return 0.0
    logs = values.clamp_min(0).double().log1p()
    low, high = float(logs.min()), float(logs.max())
    if high - low < 1e-12:
        return 0.0
    counts = torch.histc(logs, BINS, low, high)
    centres = low + (torch.arange(BINS, dtype=torch.float64) + 0.5) * (high - low) / BINS
    weight = counts.cumsum(0) / counts.sum()
    mean = (counts * centres).cumsum(0) / counts.sum()
    between = (mean[-1] * weight - mean).square() / (weight * (1 - weight)).clamp_min(1e-12)
    # all bins of an empty valley separate equally well: take its middle
    best = torch.nonzero(between >= between.max() * (1 - 1e-9)).double().mean()
    return float(torch.expm1(low + (best + 1) * (high - low) / BINS))


def verdict_of(area: float, quantile: float = QUANTILE, pixels: int = 0) -> str:
    """What a share of pixels above a threshold means that `quantile` of clean pixels stay below: "memorized", "clean", or "unclear".

    Of so many pixels (0: very many): a few of them, as a small inpainting mask leaves, are hot or not by chance, and then it is unclear.
    """
    usual = 1 - quantile
    hot, most = round(area * pixels), min(MANY * usual, 1 - 1e-9)
    if area >= MANY * usual:
        return "memorized" if not pixels or _chance(hot, pixels, pixels, usual) <= CHANCE else "unclear"
    if area > FEW * usual:
        return "unclear"
    return "clean" if not pixels or _chance(0, hot, pixels, most) <= CHANCE_TO_MISS else "unclear"


def _chance(low: int, high: int, pixels: int, share: float) -> float:
    """That low to high of so many pixels are hot, each by itself with the chance `share`."""
    counts = torch.arange(low, high + 1, dtype=torch.float64)
    each = torch.distributions.Binomial(pixels, torch.tensor(share, dtype=torch.float64))
    return float(each.log_prob(counts).exp().sum())
