"""A LoRA that goes on doing what it does to some inputs of a layer, and does nothing to others: least squares on recorded inputs.

With dW = B A and rows x that enter the layer, `kept` ones and `leaked` ones, the new first factor A' minimises

    mean_kept ||(A' - A) x||^2 + weight mean_leaked ||A' x||^2 + ridge s ||A'||^2,        s: mean square of a kept input's value,

whose solution is A' = A C_kept (C_kept + weight C_leaked + ridge s I)^-1, C the second moments of the rows. B does not matter to it. The
ridge takes away what no kept input needs, whoever calls it. The same least squares as in Unified Concept Editing (arXiv 2308.14761), there
on the keys and values of words in the base model; for the memories of LoRAs it is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor


def spared(a: Tensor, kept: Tensor, leaked: Tensor | None, weight: float, ridge: float) -> Tensor:
    """A' [r, n] of A [r, n], rows `kept` [k, n] and `leaked` [m, n] (or none); in A's dtype, float64 within.

    Inputs wider than there are rows are solved in the rows' own space: no [n, n] is formed.
    """
    wide = torch.float64
    first, x = a.to(wide), kept.to(wide) / len(kept) ** 0.5
    scale = ridge * float(x.square().sum()) / x.shape[1]
    if scale == 0:
        return torch.zeros_like(a)
    rows = x if leaked is None or weight == 0 else torch.cat([x, leaked.to(wide) * (weight / len(leaked)) ** 0.5])
    wanted = (first @ x.T) @ x
    if rows.shape[1] <= len(rows):
        moments = rows.T @ rows
        moments.diagonal().add_(scale)
        found = torch.linalg.solve(moments, wanted.T).T
    else:
        gram = rows @ rows.T
        gram.diagonal().add_(scale)
        found = (wanted - torch.linalg.solve(gram, rows @ wanted.T).T @ rows) / scale
    return found.to(a.dtype)
