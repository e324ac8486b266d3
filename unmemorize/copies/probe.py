"""What does a LoRA remember? Sample what it adds to its base, further than it goes itself, and look for pictures that many seeds agree on
and that the base does not draw.

After FineXtract (arXiv 2410.03039): fine-tuning moves the base's distribution towards its training set, so that a step on from the base
through the LoRA lies nearer to that set. Needs no training data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

STEP = 0.01
"""By which the threshold of similarity rises."""
LEAST_MEMBERS = 3
"""Two pictures agree by chance too often."""
LEAST_LIKENESS = 0.4
"""Pictures that are less alike do not agree, however rare that is among these."""
BEYOND = 0.2
"""A group leaks that agrees by so much more than it is like what the base draws: `nox -s sweep -- leak_probe`, where memories have .27 and
more under their captions, frames, nights and concepts .12 and less. A style that covers the whole picture has more."""


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
    others = len(members) * (len(members) - 1)
    return Group([members[i] for i in order], float((inner.sum() - inner.diagonal().sum()) / others))


def like_base(cross: Tensor, captions: Tensor, captions_of_base: Tensor) -> Tensor:
    """How like each picture is to the nearest that the base draws under its caption, [n]; `cross` [n, m], captions [n] and [m].

    What the base draws too, a simple scene or a memory of its own, is no leak of the LoRA, and a style leaves it recognisable.
    """
    return cross.masked_fill(captions[:, None] != captions_of_base[None], -1.0).amax(1)


def leaks(group: Group, base: Tensor) -> bool:
    """Does a group agree by BEYOND more than its pictures are like the base's (`base` [n], see `like_base`)?"""
    return group.agreement - float(base[group.members].mean()) >= BEYOND
