"""What ComfyUI's weight adapters add to a layer: one class a kind, which knows its shape, rank, size, channels, and how it is written anew.

The core's own loaders make them, so that every spelling of keys that it knows is known here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...unmemorize.lora import channels
from ...unmemorize.lora.channels import Channels

MOST_OF_HALF = 6e4
"""Larger numbers do not fit into float16."""


def wide(dtype: torch.dtype) -> torch.dtype:
    """The number type itself, or float32 for one of 8 bits, in which an alpha of 17 is 16."""
    return torch.float32 if dtype.itemsize == 1 else dtype


class Unsupported(Exception):
    """This adapter passes through unfiltered; the text says why."""


def parts_of(core: Any) -> list[Any]:
    """Everything the core's adapter is made of, in its order: tensors, alpha, None."""
    parts = core[1] if isinstance(core, tuple) else core.weights
    return list(parts) if isinstance(parts, list | tuple) else [parts]


def tensors_of(core: Any) -> list[Tensor]:
    """Every tensor of the core's adapter, of any kind."""
    return [p for p in parts_of(core) if isinstance(p, Tensor)]


@dataclass(frozen=True)
class Names:
    """How a file spells a layer's tensors."""

    prefix: str
    """What its keys begin with."""
    of_tensor: dict[int, str]
    """id of a tensor of the adapter -> its key."""
    alpha: dict[str, Tensor]
    """Key -> tensor of the layer's alpha, if the file has one."""

    def of(self, tensor: Tensor) -> str:
        """The key of one of the adapter's tensors."""
        return self.of_tensor[id(tensor)]


class Adapter(ABC):
    """An update dW [m, n] = [out, in * kernel] of one layer."""

    def __init__(self, core: Any) -> None:
        """Unsupported, with the reason, if the core's adapter cannot be filtered."""
        self.parts = parts_of(core)
        self.tensors = tensors_of(core)

    @property
    def alpha(self) -> float | None:
        """The number in the file that scales dW, if there is one."""
        return float(self.parts[2]) if len(self.parts) > 2 and self.parts[2] is not None else None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(m, n); ValueError if the parts do not fit together."""

    @property
    def exact_shape(self) -> tuple[int, ...] | None:
        """The only shape of a weight to which the core adds dW; None: it brings dW into the weight's."""
        return None

    @property
    @abstractmethod
    def rank(self) -> int:
        """As the file says it, at least 1 if it is sound."""

    @abstractmethod
    def norm(self, device: torch.device) -> Tensor:
        """||dW||_F, [1], float32; nothing is decomposed."""

    @abstractmethod
    def channels(self, device: torch.device) -> Channels:
        """Spectral channels, alpha / rank included, float32 on a device."""

    def factors(self) -> tuple[Tensor, Tensor, float] | None:
        """B [m, r], A [r, n] as they are stored and their scale, if dW is nothing but their product."""
        return None

    def rewritten(self, b: Tensor, a: Tensor, names: Names, kernel: tuple[int, ...]) -> dict[str, Tensor]:
        """Key -> tensor of B A [m, r] [r, n], as a file of this kind spells it; `kernel`: [in, *kernel] of the layer.

        LoHa and LoKr become LoRA, since a part of a product is no product; what would be smaller whole is written whole.
        """
        rank = b.shape[1]
        if rank * (len(b) + a.shape[1]) >= len(b) * a.shape[1]:
            return {f"{names.prefix}.diff": self._as_stored((b @ a).reshape(len(b), *kernel))}
        up, down = b.reshape(len(b), rank, *[1] * (len(kernel) - 1)), a.reshape(rank, *kernel)
        return self._as_lora(up, down, f"{names.prefix}.lora_up.weight", f"{names.prefix}.lora_down.weight", names)

    def scaled(self, factor: float, names: Names) -> dict[str, Tensor]:
        """Key -> tensor of factor dW, in the adapter's own kind: dW is linear in its first tensor, the others stay the very same."""
        first = self.tensors[0]
        changed = self._as_stored(first.float() * factor)
        return {names.of(t): changed if t is first else t for t in self.tensors} | names.alpha

    def _as_lora(self, up: Tensor, down: Tensor, up_key: str, down_key: str, names: Names) -> dict[str, Tensor]:
        # where the file has an alpha it is the rank: the loader's alpha / rank is then 1, as it is without one
        alpha = {key: _holding(float(len(down)), t) for key, t in names.alpha.items()}
        return {up_key: self._as_stored(up), down_key: self._as_stored(down)} | alpha

    def _as_stored(self, tensor: Tensor) -> Tensor:
        """In the file's precision; 8 bits would lose up to an eighth of every number, so that the parts no longer make the whole."""
        dtype = self.tensors[0].dtype
        if wide(dtype) != dtype:
            dtype = torch.float16 if float(tensor.abs().max()) < MOST_OF_HALF else torch.bfloat16
        return tensor.to(self.tensors[0].device, dtype).contiguous()

    def _on(self, device: torch.device) -> list[Any]:
        return [p.to(device, torch.float32) if isinstance(p, Tensor) else p for p in self.parts]


class LoRA(Adapter):
    """dW = alpha / r B A, with a core C between them where there is one (Tucker)."""

    def __init__(self, core: Any) -> None:
        super().__init__(core)
        _no_magnitudes(self.parts[4])
        if self.parts[5] is not None:
            raise Unsupported("it changes the layer's shape")

    @property
    def shape(self) -> tuple[int, int]:
        up, down, core = self.parts[0], self.parts[1], self.parts[3]
        if min(up.ndim, down.ndim) < 2:
            raise ValueError("a factor is no matrix")
        (m, *ranks), (rank, *inputs) = up.shape, down.shape
        if math.prod(ranks) != rank or (core is not None and (core.ndim < 3 or core.shape[:2] != (rank, rank))):
            raise ValueError("the two factors have different ranks")
        return m, math.prod(inputs) * (core[0, 0].numel() if core is not None else 1)

    @property
    def rank(self) -> int:
        return int(self.parts[1].shape[0])

    def factors(self) -> tuple[Tensor, Tensor, float] | None:
        up, down, _, core, *_ = self.parts
        return None if core is not None else (up.flatten(1), down.flatten(1), _scale(self.alpha, self.rank))

    def _factors(self, device: torch.device) -> tuple[Tensor, Tensor, float]:
        up, down, _, core, *_ = self._on(device)
        return up.flatten(1), (down.flatten(1) if core is None else channels.tucker_down(down, core)), _scale(self.alpha, self.rank)

    def norm(self, device: torch.device) -> Tensor:
        b, a, scale = self._factors(device)
        return abs(scale) * channels.norm_of_product(b, a)

    def channels(self, device: torch.device) -> Channels:
        return channels.of_factors(*self._factors(device))

    def rewritten(self, b: Tensor, a: Tensor, names: Names, kernel: tuple[int, ...]) -> dict[str, Tensor]:
        """Stays LoRA under the file's own names; a core is multiplied into the second factor."""
        rank = b.shape[1]
        up, down, _, core, *_ = self.parts
        shape = (rank, *down.shape[1:]) if core is None else (rank, down.shape[1], *core.shape[2:])
        return self._as_lora(b.reshape(len(b), rank, *[1] * (up.ndim - 2)), a.reshape(shape), names.of(up), names.of(down), names)


class LoHa(Adapter):
    """dW = alpha / r (B1 A1) * (B2 A2) elementwise, either product with a core where there is one."""

    def __init__(self, core: Any) -> None:
        super().__init__(core)
        _no_magnitudes(self.parts[7])

    @property
    def shape(self) -> tuple[int, int]:
        b1, a1, _, b2, a2, core, *_ = self.parts
        _matrices(b1, a1, b2, a2)
        if core is not None:
            second = self.parts[6]
            if any(t is None or t.ndim < 3 or t.shape[:2] != (len(b), len(a)) for t, b, a in ((core, b1, a1), (second, b2, a2))):
                raise ValueError("its factors do not fit together")
            if (b1.shape[1], a1.shape[1], core.shape[2:]) != (b2.shape[1], a2.shape[1], second.shape[2:]):
                raise ValueError("its factors do not fit together")
            return b1.shape[1], a1.shape[1] * core[0, 0].numel()
        if b1.shape[1] != len(a1) or b2.shape[1] != len(a2) or (len(b1), a1.shape[1]) != (len(b2), a2.shape[1]):
            raise ValueError("its factors do not fit together")
        return len(b1), a1.shape[1]

    @property
    def rank(self) -> int:
        return len(self.parts[1]) * len(self.parts[4])

    def _scale(self) -> float:
        return _scale(self.alpha, len(self.parts[1]))

    def _whole(self, device: torch.device) -> Tensor:
        b1, a1, _, b2, a2, core1, core2, _ = self._on(device)
        if core1 is None:
            return self._scale() * (b1 @ a1) * (b2 @ a2)
        first, second = (torch.einsum("ij...,jr,ip->pr...", t, a, b) for t, a, b in ((core1, a1, b1), (core2, a2, b2)))
        return self._scale() * (first * second).flatten(1)

    def norm(self, device: torch.device) -> Tensor:
        return self._whole(device).norm().reshape(1)

    def channels(self, device: torch.device) -> Channels:
        b1, a1, _, b2, a2, core, *_ = self._on(device)
        if core is None and len(a1) * len(a2) < min(len(b1), a1.shape[1]):
            return channels.of_factors(*channels.khatri_rao(b1, a1, b2, a2), self._scale())
        return channels.of_matrix(self._whole(device))


class LoKr(Adapter):
    """dW = alpha / r W1 kron W2, either of which may be a product itself."""

    def __init__(self, core: Any) -> None:
        super().__init__(core)
        _no_magnitudes(self.parts[8])

    @property
    def shape(self) -> tuple[int, int]:
        w1, w2, _, b1, a1, b2, a2, core, _ = self.parts
        if w1 is not None:
            _matrices(w1)
        first, second = _kronecker_shape(w1, b1, a1, None), _kronecker_shape(w2, b2, a2, core)
        return first[0] * second[0], first[1] * second[1]

    @property
    def alpha(self) -> float | None:
        """As in the core, it counts only where a factor is itself factored; "full dimension" files hold anything there, infinity too."""
        return super().alpha if self.parts[0] is None or self.parts[1] is None else None

    @property
    def rank(self) -> int:
        w1, w2, _, _, a1, _, a2, *_ = self.parts
        ranks = (min(len(w), w[0].numel()) if w is not None else len(a) for w, a in ((w1, a1), (w2, a2)))
        first, second = ranks
        return first * second

    def _factors(self, device: torch.device) -> tuple[Tensor, Tensor, float]:
        w1, w2, _, b1, a1, b2, a2, core, _ = self._on(device)
        rank = None
        if w1 is None:
            w1, rank = b1 @ a1, len(a1)
        if w2 is None:
            w2, rank = (b2 @ a2 if core is None else torch.einsum("ij...,jr,ip->pr...", core, a2, b2)), len(a2)
        return w1.flatten(1), w2.flatten(1), 1.0 if rank is None else _scale(self.alpha, rank)

    def norm(self, device: torch.device) -> Tensor:
        w1, w2, scale = self._factors(device)
        return (abs(scale) * w1.norm() * w2.norm()).reshape(1)

    def channels(self, device: torch.device) -> Channels:
        return channels.of_kronecker(*self._factors(device))


class Difference(Adapter):
    """dW itself."""

    def __init__(self, core: Any) -> None:
        super().__init__(core)
        if len(self.parts) > 1 or self.parts[0].ndim < 2:
            raise Unsupported("differences of biases and norms, and padded ones, are not filtered")

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.parts[0]), self.parts[0][0].numel()

    @property
    def exact_shape(self) -> tuple[int, ...]:
        return tuple(self.parts[0].shape)

    @property
    def rank(self) -> int:
        return min(self.shape)

    def norm(self, device: torch.device) -> Tensor:
        return self._on(device)[0].norm().reshape(1)

    def channels(self, device: torch.device) -> Channels:
        return channels.of_matrix(self._on(device)[0].flatten(1))

    def rewritten(self, b: Tensor, a: Tensor, names: Names, kernel: tuple[int, ...]) -> dict[str, Tensor]:
        """Stays whole."""
        source = self.tensors[0]
        return {names.of(source): self._as_stored((b @ a).reshape(source.shape))} | names.alpha


KINDS: dict[str, type[Adapter]] = {"lora": LoRA, "loha": LoHa, "lokr": LoKr, "diff": Difference}
"""By the core's name of the kind."""


def adapter_of(core: Any) -> Adapter:
    """The core's adapter as one of ours. Unsupported, with the reason, for what is passed through."""
    kind = core[0] if isinstance(core, tuple) else str(getattr(core, "name", type(core).__name__))
    if kind not in KINDS:
        raise Unsupported(f"adapters of the kind {kind} are not filtered")
    return KINDS[kind](core)


def _holding(rank: float, like: Tensor) -> Tensor:
    """A rank in a tensor's precision, or in one that holds it exactly: bfloat16 does to 256."""
    found = torch.full_like(like, rank, dtype=wide(like.dtype))
    return found if found.double().eq(rank).all() else torch.full_like(like, rank, dtype=torch.float32)


def _no_magnitudes(magnitudes: Any) -> None:
    if magnitudes is not None:
        raise Unsupported("DoRA: its magnitudes belong to the unfiltered update")


def _matrices(*several: Tensor) -> None:
    if any(t.ndim != 2 for t in several):
        raise ValueError("a factor is no matrix")


def _scale(alpha: float | None, rank: int) -> float:
    return 1.0 if alpha is None else alpha / rank


def _kronecker_shape(whole: Tensor | None, b: Tensor | None, a: Tensor | None, core: Tensor | None) -> tuple[int, int]:
    if whole is not None:
        if whole.ndim < 2:
            raise ValueError("a factor is no matrix")
        return len(whole), whole[0].numel()
    if a is None or b is None:
        raise ValueError("a factor is missing")
    _matrices(b)
    fits = b.shape[1] == len(a) if core is None else core.ndim > 2 and core.shape[:2] == (len(b), len(a))
    if not fits:
        raise ValueError("its factors do not fit together")
    return (len(b), a[0].numel()) if core is None else (b.shape[1], a.shape[1] * core[0, 0].numel())
