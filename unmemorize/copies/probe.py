"""What does a LoRA remember? Sample what it adds to its base, further than it goes itself, and look for pictures that many seeds agree on
and that the base does not draw.

After FineXtract (arXiv 2410.03039): fine-tuning moves the base's distribution towards its training set, so that a step on from the base
through the LoRA lies nearer to that set. Needs no training data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

STEP = 0.01
"""By which the threshold of similarity rises."""
LEAST_MEMBERS = 3
"""Two pictures agree by chance too often."""
LEAST_LIKENESS = 0.4
"""Pictures that are less alike do not agree, however rare that is among these."""
BEYOND = 0.2
"""A group leaks that agrees by so much more than it is like what the base draws: `nox -s sweep -- leak_probe`, where memories have .27 and
more under their captions, frames and nights .12 and less. A shape that the base cannot draw has up to .39 under its word."""
DETAIL = 3.0
"""Standard deviation of the blur that takes the detail from pictures, in pixels at the side at which they are compared (64)."""
BEYOND_IN_LAYOUT = 0.1
"""And by so much more where both are without their detail. A style that covers the whole picture is unlike anything that the base draws,
but leaves its layout: of the sweep's rows that pass BEYOND, memories have .13 and more, hatchings .05 and less."""


def extrapolated(base: Tensor, lora: Tensor, w: float) -> Tensor:
    """D_B + w (D_L - D_B), [n, c, ...]: the base's prediction for the empty prompt, and on through the LoRA's for its caption.

    The paper's eps_B + w (eps_L - eps_B) with k = 0 (its setting for LoRAs), since D is linear in eps.
    """
    return base + w * (lora - base)


@dataclass(frozen=True)
class Group:
    """Pictures that are alike: their numbers, the central one first, and the mean similarity of all pairs."""

    members: list[int]
    agreement: float


def pairs_of(similarity: Tensor) -> Tensor:
    """Every pair once, of a symmetric [n, n]."""
    return similarity[torch.triu(torch.ones(len(similarity), len(similarity), dtype=torch.bool), 1)]


def groups_of(similarity: Tensor, wanted: int) -> list[Group]:
    """Groups among pictures of a symmetric `similarity` [n, n], the most agreed first.

    The threshold rises from the lower quartile, at least LEAST_LIKENESS, until cliques, the largest taken first, again and again, are at
    least `wanted`; if that never happens, those of the threshold that gave the most.
    """
    if len(similarity) < LEAST_MEMBERS:
        return []
    pairs = pairs_of(similarity)
    threshold = max(float(pairs.quantile(0.25)), LEAST_LIKENESS)
    best: list[list[int]] = []
    while threshold <= float(pairs.max()):
        found = _cliques(similarity >= threshold)
        if len(found) > len(best):
            best = found
        if len(best) >= wanted:
            break
        threshold += STEP
    return sorted((_group(similarity, members) for members in best), key=lambda group: -group.agreement)


def _cliques(alike: Tensor) -> list[list[int]]:
    """Disjoint cliques of a graph [n, n], found greedily: the best connected picture, then whoever is connected to all and to most."""
    alike = alike & ~torch.eye(len(alike), dtype=torch.bool)
    left = torch.ones(len(alike), dtype=torch.bool)
    found: list[list[int]] = []
    while True:
        degrees = (alike & left[None]).sum(1).masked_fill(~left, -1)
        if int(degrees.max()) < LEAST_MEMBERS - 1:
            return found
        members = [int(degrees.argmax())]
        candidates = alike[members[0]] & left
        while bool(candidates.any()):
            inner = (alike & candidates[None]).sum(1).masked_fill(~candidates, -1)
            members.append(int(inner.argmax()))
            candidates = candidates & alike[members[-1]]
        left[members] = False
        if len(members) >= LEAST_MEMBERS:
            found.append(members)


def _group(similarity: Tensor, members: list[int]) -> Group:
    """The picture that is most like all others stands for a group."""
    inner = similarity[members][:, members]
    order = (inner.sum(1) - inner.diagonal()).argsort(descending=True).tolist()
    return Group([members[i] for i in order], mean_of_pairs(similarity, members))


def mean_of_pairs(similarity: Tensor, members: list[int]) -> float:
    """Mean over all pairs of some pictures of a symmetric [n, n]."""
    inner = similarity[members][:, members]
    return float((inner.sum() - inner.diagonal().sum()) / (len(members) * (len(members) - 1)))


def like_base(cross: Tensor, captions: Tensor, captions_of_base: Tensor) -> Tensor:
    """How like each picture is to the nearest that the base draws under its caption, [n]; `cross` [n, m], captions [n] and [m].

    What the base draws too, a simple scene or a memory of its own, is no leak of the LoRA, and a style leaves its layout.
    """
    return cross.masked_fill(captions[:, None] != captions_of_base[None], -1.0).amax(1)


def beyond(group: Group, similarity: Tensor, base: Tensor) -> float:
    """By how much a group's pictures are more like each other than like the base's: of pairs `similarity` [n, n], and `base` [n], see
    `like_base`."""
    return mean_of_pairs(similarity, group.members) - float(base[group.members].mean())


def leaks(whole: float, layout: float) -> bool:
    """Is a group a leak that goes so far `beyond` the base as it is, and without its detail?"""
    return whole >= BEYOND and layout >= BEYOND_IN_LAYOUT


def without_detail(pictures: Tensor) -> Tensor:
    """Blurred until the layout is left, [n, c, h, w] at the side of the comparison."""
    return gaussian_blur(pictures, [2 * round(3 * DETAIL) + 1] * 2, [DETAIL, DETAIL])
