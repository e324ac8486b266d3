"""What does a LoRA remember? Sample what it adds to its base, further than it goes itself, and look for pictures that many seeds agree on.

After FineXtract (arXiv 2410.03039): fine-tuning moves the base's distribution towards its training set, so that a step on from the base
through the LoRA lies nearer to that set. Needs no training data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STEP = 0.01
"""By which the threshold of similarity rises."""
LEAST_MEMBERS = 3
"""Two pictures agree by chance too often."""


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


def floors_of(similarity: Tensor, captions: Tensor, quantile: float, same: float) -> Tensor:
    """What the base's own pictures reach, [n, n], of a symmetric `similarity` [n, n]: below it, pictures under these captions [n] do not
    agree. A quantile of all pairs but those that are the same picture (from `same` on): these are the base's own memory of a caption, and
    count for pictures under that caption alone, where the floor is the quantile of all pairs."""
    ordinary = pairs_of(similarity)
    ordinary = ordinary[ordinary < same] if bool((ordinary < same).any()) else ordinary
    floors = torch.full_like(similarity, float(ordinary.quantile(quantile)))
    for c in remembered(similarity, captions, same):
        under = captions == c
        floors[under[:, None] & under[None]] = float(pairs_of(similarity[under][:, under]).quantile(quantile))
    return floors


def remembered(similarity: Tensor, captions: Tensor, same: float) -> list[int]:
    """Captions [n] under which a model draws the same picture again, of a symmetric `similarity` [n, n]."""
    own = {int(c): pairs_of(similarity[captions == c][:, captions == c]) for c in captions.unique()}
    return [c for c, pairs in own.items() if bool((pairs >= same).any())]


def groups_of(similarity: Tensor, wanted: int, floors: Tensor | float = -1.0) -> list[Group]:
    """Groups among pictures of a symmetric `similarity` [n, n], the most agreed first.

    The threshold rises from the lower quartile, and no pair counts below `floors` (what the base's own pictures reach, of each pair [n, n]
    or of all), until cliques, the largest taken first, again and again, are at least `wanted`; if that never happens, those of the
    threshold that gave the most.
    """
    if len(similarity) < LEAST_MEMBERS:
        return []
    pairs, floors = pairs_of(similarity), torch.as_tensor(floors)
    threshold = max(float(pairs.quantile(0.25)), float(floors.min()))
    best: list[list[int]] = []
    while threshold <= float(pairs.max()):
        found = _cliques(similarity >= floors.clamp_min(threshold))
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


def beyond(groups: list[Group], base: list[Group], captions: Sequence[int], same: float) -> list[Group]:
    """Groups that agree more than any of the base's own: the base's prompts agree too, and are no leak of the LoRA. `captions` of the
    pictures, of which both have one each. A group of the base that is one picture again (from `same` on) is its memory of a caption, and
    says nothing of groups without that caption."""

    def limit(group: Group) -> float:
        theirs = {captions[i] for i in group.members}
        counted = [b.agreement for b in base if b.agreement < same or theirs & {captions[i] for i in b.members}]
        return max(counted, default=-1.0)

    return [group for group in groups if group.agreement > limit(group)]
