"""Memorized neurons: find the weights that memorized prompts share, and silence them (Wanda score, arXiv 2406.18566).

A "neuron" is an entry (i, j) of the weight W [out, d] of a linear layer, in the paper the second linear of every feed-forward block. The
rows z [rows, d] that enter it are the tokens of all prompts. With z_hat = z / ||z||_2 by row:

    A_j     = sqrt(mean over rows of z_hat_j^2)               RMS instead of the paper's sum: prompt and token counts cancel
    S_ij    = |W_ij| A_j                                      once for memorized prompts, once for the reference ("null")
    M_ij(t) = [ij in the top k of row i of S_mem] and [S_mem > S_null],   k = max(1, int(r d)), ties: lowest j
    M       = [sum_t M(t) > select_ratio T]                   over the T noise levels t of a window
    W      <- W (1 - strength M)

Only sums over rows are kept: memory depends neither on prompts nor on tokens. Masks are packed, eight weights a byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .activity import COND, UNCOND, Activity

TOP_SHARE = 0.01
"""r: share of a row's weights that can be taken at one noise level (released code)."""
BLOCK = 1 << 20
"""Weights that are scored, or silenced, at a time: what is needed besides the layer itself stays small, however large the layer is."""
DENSE = 0.03
"""Masks above this density begin to harm other pictures."""


# --- scores: (W, A_mem, A_null) -> what is ranked, and what it must exceed ------------------------------------

Score = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def wanda(weight: Tensor, memorized: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """The paper's S_mem and S_null."""
    size = weight.abs()
    return size * memorized, size * reference


def contrast(weight: Tensor, memorized: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """|W_ij| (A_mem,j - A_null,j), which must exceed 0: ranks what memories add, not what is active anyway."""
    score = weight.abs() * (memorized - reference)
    return score, torch.zeros_like(score)


SCORES: dict[str, Score] = {"wanda": wanda, "contrast": contrast}


# --- masks --------------------------------------------------------------------------------------------------


def top_of_rows(score: Tensor, share: float) -> Tensor:
    """The top k = max(1, int(share d)) of each row of [out, d], ties by lowest index; boolean."""
    k = max(1, int(share * score.shape[1]))
    least = score.topk(k, dim=1).values[:, -1:]
    above, tied = score > least, score == least
    room = k - above.sum(1, keepdim=True)
    if bool((tied.sum(1, keepdim=True) > room).any()):  # topk itself leaves open which of several equals it takes
        tied &= tied.cumsum(1) <= room
    return above | tied


def level_masks(weight: Tensor, memorized: Tensor, reference: Tensor, share: float, score: Score = wanda) -> Iterator[Tensor]:
    """M(t) of each level, boolean [out, d]; `memorized` and `reference` are A [levels, d']. Levels nobody was seen at are left out.

    If d' < d, the activity is that of the last d' features, and the others are never taken.
    """
    first = weight.shape[1] - memorized.shape[1]
    for level in _seen(memorized, reference):
        ranked, least = score(weight[:, first:], memorized[level], reference[level])
        yield torch.nn.functional.pad(top_of_rows(ranked, share) & (ranked > least), (first, 0))


def _seen(memorized: Tensor, reference: Tensor) -> list[int]:
    """Levels of A [levels, d] that somebody was seen at in both."""
    return torch.nonzero((memorized.isfinite() & reference.isfinite()).all(1)).flatten().tolist()


def seen_levels(memorized: Activity, reference: Activity, sides: tuple[int, ...] = (COND, UNCOND)) -> list[int]:
    """Levels at which every layer was seen under both: a sampler may pass over some, as a cache or one that takes longer steps does."""
    several = [set(_seen(memorized.rms(layer, sides), reference.rms(layer, sides))) for layer in memorized.squares]
    return sorted(set.intersection(*several)) if several else []


def union(masks: Iterable[Tensor], select_ratio: float) -> Tensor:
    """Weights that were taken at more than select_ratio of the levels (0: at any)."""
    count, total = None, 0
    for mask in masks:
        count = mask.to(torch.int16) if count is None else count + mask
        total += 1
    if count is None:
        raise ValueError("There is no noise level to find neurons at.")
    return count > select_ratio * total


def pack(mask: Tensor) -> Tensor:
    """Boolean [..., d] -> uint8 [..., ceil(d / 8)], the first weight in the lowest bit."""
    padded = torch.nn.functional.pad(mask.to(torch.uint8), (0, -mask.shape[-1] % 8))
    bits = padded.reshape(*mask.shape[:-1], -1, 8)
    return (bits << torch.arange(8, dtype=torch.uint8, device=mask.device)).sum(-1, dtype=torch.uint8)


def unpack(packed: Tensor, d: int) -> Tensor:
    """The reverse: uint8 [..., ceil(d / 8)] -> boolean [..., d]."""
    bits = (packed[..., None] >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1
    return bits.flatten(-2)[..., :d].bool()


def count_bits(packed: Tensor) -> Tensor:
    """How many weights each of [..., rows, bytes] holds, [...], int64."""
    pairs = packed - ((packed >> 1) & 0x55)
    fours = (pairs & 0x33) + ((pairs >> 2) & 0x33)
    return ((fours + (fours >> 4)) & 0x0F).flatten(-2).sum(-1, dtype=torch.int64)


@dataclass(frozen=True)
class Mask:
    """Which weights of which layers are silenced."""

    bits: dict[str, Tensor]
    """Layer -> [out, ceil(d / 8)], uint8, packed."""
    shapes: dict[str, tuple[int, int]]
    """Layer -> (out, d)."""
    by_level: dict[str, Tensor] = field(default_factory=dict)
    """Layer -> M(t) of each level in `seen_levels`, [levels, out, ceil(d / 8)]; empty unless they were kept."""
    level_shares: dict[str, list[float]] = field(default_factory=dict)
    """Layer -> share of its weights that each of them took, [levels]; for the eye only, not kept in files."""

    def dense(self, layer: str) -> Tensor:
        """Boolean [out, d]."""
        return unpack(self.bits[layer], self.shapes[layer][1])

    def density_by_level(self) -> dict[str, list[float]]:
        """Layer -> share of its weights that each noise level took; empty where that is not known."""
        if self.level_shares:
            return self.level_shares
        sizes = {k: out * d for k, (out, d) in self.shapes.items()}
        return {k: (count_bits(v).double() / sizes[k]).tolist() for k, v in self.by_level.items()}

    def weights(self) -> int:
        """How many weights are silenced."""
        return sum(int(count_bits(b)) for b in self.bits.values())

    def density_by_layer(self) -> dict[str, float]:
        """Share of each layer's weights."""
        return {k: int(count_bits(b)) / (self.shapes[k][0] * self.shapes[k][1]) for k, b in self.bits.items()}

    def density(self) -> float:
        """Share of all layers' weights."""
        return self.weights() / max(1, sum(out * d for out, d in self.shapes.values()))


def find_mask(
    weights: Iterable[tuple[str, Tensor]], memorized: Activity, reference: Activity, share: float = TOP_SHARE,
    select_ratio: float = 0.0, sides: tuple[int, ...] = (COND, UNCOND), score: Score = wanda, keep_levels: bool = False,
) -> Mask:  # fmt: skip
    """The mask of layers whose weights come one by one, as (layer, weight), each scored by blocks of rows.

    A weight is [out, d], or a convolution's [out, in, ...], whose d = in * kernel entries share the activity of their input channel.
    """
    bits, shapes, by_level = {}, {}, {}
    level_shares: dict[str, list[float]] = {}
    everywhere = seen_levels(memorized, reference, sides)
    for layer, weight in weights:
        kernel = weight[0, 0].numel()
        mem, null = (a.rms(layer, sides).to(weight).repeat_interleave(kernel, 1) for a in (memorized, reference))
        chosen = [place for place, level in enumerate(_seen(mem, null)) if level in everywhere]
        weight = weight.flatten(1)
        packed, by_block, taken = [], [], []
        for rows in weight.split(max(1, BLOCK // weight.shape[1])):
            masks = list(level_masks(rows, mem, null, share, score))
            packed.append(pack(union(masks, select_ratio)))
            taken.append([int(masks[place].sum()) for place in chosen])
            if keep_levels and chosen:
                by_block.append(torch.stack([pack(masks[place]) for place in chosen]))
        bits[layer] = torch.cat(packed)
        if by_block:
            by_level[layer] = torch.cat(by_block, 1)
        level_shares[layer] = [sum(counts) / weight.numel() for counts in zip(*taken, strict=True)]
        shapes[layer] = (weight.shape[0], weight.shape[1])
    return Mask(bits, shapes, by_level, level_shares)


def prune(weight: Tensor, mask: Tensor, strength: float) -> Tensor:
    """W (1 - strength M) as a new tensor; where the mask is 0 the bits stay the same."""
    return torch.where(mask, weight * (1 - strength), weight)


def prune_in_place(weight: Tensor, packed: Tensor, strength: float) -> Tensor:
    """The same in a weight [out, d] that nobody else holds, by blocks of rows; packed mask [out, ceil(d / 8)]."""
    rows = max(1, BLOCK // weight.shape[-1])
    for start in range(0, len(weight), rows):
        part = weight[start : start + rows]  # one of several views from `split` may not be written while autograd is on
        part.copy_(prune(part, unpack(packed[start : start + rows], weight.shape[-1]), strength))
    return weight


# --- several masks ----------------------------------------------------------------------------------------------


def check_same_layers(masks: list[Mask]) -> None:
    """ValueError unless all masks have the same layers and shapes."""
    if any(m.shapes != masks[0].shapes for m in masks):
        raise ValueError(
            "These neuron masks do not have the same layers: they belong to different models, or were found at different places."
        )


def merge(masks: list[Mask]) -> Mask:
    """Union of masks of several subsets of prompts. What single levels took is not kept."""
    check_same_layers(masks)
    bits = dict(masks[0].bits)
    for mask in masks[1:]:
        bits = {k: b | mask.bits[k] for k, b in bits.items()}
    return Mask(bits, masks[0].shapes)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of packed masks [..., out, bytes]; of two empty ones 0. [...], float64."""
    return count_bits(a & b).double() / count_bits(a | b).clamp_min(1)


def iou_by_layer(masks: list[Mask]) -> dict[str, Tensor]:
    """Layer -> IoU of each two masks, [n, n], 1 on the diagonal unless empty."""
    check_same_layers(masks)
    return {k: torch.stack([torch.stack([iou(a.bits[k], b.bits[k]) for b in masks]) for a in masks]) for k in masks[0].bits}


def iou_by_layer_and_level(masks: list[Mask]) -> dict[str, Tensor]:
    """Layer -> IoU at each level, mean over the pairs i < j, [levels]; empty unless all masks kept as many levels."""
    check_same_layers(masks)
    kept = [{k: len(v) for k, v in m.by_level.items()} for m in masks]
    if not kept[0] or any(k != kept[0] for k in kept):
        return {}
    ordered = [(a, b) for i, a in enumerate(masks) for b in masks[i + 1 :]]
    return {k: torch.stack([iou(a.by_level[k], b.by_level[k]) for a, b in ordered]).mean(0) for k in masks[0].by_level}


def mean_of_pairs(matrix: Tensor) -> float:
    """Mean over the pairs i < j of a symmetric [n, n], n >= 2."""
    n = len(matrix)
    return float(matrix[torch.triu(torch.ones(n, n, dtype=torch.bool), 1)].mean())
