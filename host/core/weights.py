"""Weights of a MODEL, one at a time: as its checkpoint holds them, and as the sampler uses them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any

import comfy.lora
import comfy.model_patcher
import torch
from torch import Tensor

PLAIN = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
GOLDEN = (math.sqrt(5) - 1) / 2
SLICES, SLICE = 32, 512
"""Of a weight's content, for its name: so many evenly spread slices of so many bytes."""
REMEMBERED = 20_000
_UNPACKED: dict[bytes, Tensor] = {}
"""A few values of so many packed weights, by a digest of what they are packed as: to unpack one is to read all of it, and a model is asked
for its name at every guarded run."""


class Weights:
    """The weights of a ModelPatcher by key; nothing is copied until a weight is asked for."""

    def __init__(self, patcher: Any) -> None:
        self._entries = _entries_of(patcher)
        self._digests: dict[str, str] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def names(self, prefix: str) -> list[str]:
        """Keys that begin with a prefix, sorted."""
        return sorted(k for k in self._entries if k.startswith(prefix))

    def dtype_name(self, key: str) -> str:
        """`float16` and the like; "packed" for quantised weights."""
        weight = self._entries[key][0][0]
        return str(weight.dtype).removeprefix("torch.") if _is_unpacked(weight) else "packed"

    def few_values(self, key: str, count: int) -> Tensor:
        """At most `count` numbers of an unpatched weight, spread over rows and columns alike, where it lies and in its precision; of a
        packed one float32."""
        weight, convert = self._entries[key][0]
        return few_of(weight, convert, count)

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of a weight; of a packed one as it is stored."""
        return tuple(self._entries[key][0][0].shape)

    def is_plain(self, key: str) -> bool:
        """False: quantised, so that its stored shape may not be its shape."""
        return _is_plain(self._entries[key][0][0])

    def check_readable(self, key: str) -> None:
        """ValueError for GGUF, whose weights only its own loader can read."""
        weight = self._entries[key][0][0]
        if _is_gguf(weight):
            raise ValueError(
                "This model is stored as GGUF, whose weights cannot be read here. Connect the same model from a safetensors file (fp16, "
                "bf16 or fp8); what is made with it serves the GGUF model too."
            )

    def base(self, key: str, device: torch.device) -> Tensor:
        """A copy of a weight before any patch: float32, dequantised. ValueError for GGUF, whose weights cannot be read."""
        weight, convert = self._entries[key][0]
        if _is_plain(weight):
            return convert(weight.detach().to(device, torch.float32, copy=True), inplace=True)
        self.check_readable(key)
        # a packed tensor becomes numbers by its own conversion only
        return convert(weight.detach(), inplace=False).to(device, torch.float32, copy=True)

    def effective(self, key: str, device: torch.device) -> Tensor:
        """The same with all patches (LoRAs) of the MODEL."""
        weight, patches = self.base(key, device), self._entries[key][1:]
        return comfy.lora.calculate_weight(patches, weight, key) if patches else weight

    def digest(self, key: str) -> str:
        """32 hex digits of an unpatched weight's shape, type and content, of which evenly spread slices are read.

        Training changes a weight everywhere, so that two that differ, differ there; reading everything would take most of a warm run.
        """
        if key not in self._digests:
            weight = self._entries[key][0][0]
            self._note([key], [weight if _is_plain(weight) else self.base(key, torch.device("cpu"))])
        return self._digests[key]

    def note_digests(self, keys: Iterable[str]) -> None:
        """Find those of many weights that need no conversion: one copy from a device for all, where `digest` needs one each."""
        of_device: dict[torch.device, list[str]] = {}
        for key in dict.fromkeys(keys):
            weight = self._entries[key][0][0]
            if key not in self._digests and _is_plain(weight):
                of_device.setdefault(weight.device, []).append(key)
        for several in of_device.values():
            self._note(several, [self._entries[key][0][0] for key in several])

    def _note(self, keys: list[str], weights: list[Tensor]) -> None:
        """Digests of weights on one device."""
        samples = [sample_of(weight) for weight in weights]
        together, start = memoryview(torch.cat(samples).cpu().numpy().data), 0
        for key, weight, sample in zip(keys, weights, samples, strict=True):
            digest = hashlib.blake2b(f"{weight.dtype}{tuple(weight.shape)}".encode(), digest_size=16)
            digest.update(together[start : start + sample.numel()])
            self._digests[key] = digest.hexdigest()
            start += sample.numel()


def _entries_of(patcher: Any) -> dict[str, list[Any]]:
    """Key -> [(weight, how it is unpacked), its patches ...], of a patched weight from its backup: `module.weight` may hold the LoRAs of
    another clone."""
    try:
        entries: dict[str, list[Any]] = patcher.get_key_patches()
        return entries
    except AttributeError:  # newer cores write parts of a quantised weight (its scale) beside it, and then look for them in its layer
        return {key: entry for key in patcher.model_state_dict() if (entry := _entry_of(patcher, key)) is not None}


def _entry_of(patcher: Any, key: str) -> list[Any] | None:
    """As the core gives it; None for what is written, but is no weight."""
    try:
        weight, _, convert = comfy.model_patcher.get_key_weight(patcher.model, key)
    except AttributeError:
        return None
    kept, hooked = patcher.backup.get(key), patcher.hook_backup.get(key)
    weight = hooked[0] if hooked is not None else weight if kept is None else kept.weight
    return [(weight, convert or (lambda found, **_: found)), *patcher.patches.get(key, [])]


def sample_of(weight: Tensor) -> Tensor:
    """Bytes of a weight, where it lies: evenly spread slices, and its end."""
    raw = weight.detach().contiguous().view(-1).view(torch.uint8)
    rows = raw.numel() // SLICES
    return raw if rows <= SLICE else torch.cat([raw.as_strided((SLICES, SLICE), (rows, 1)).reshape(-1), raw[-SLICE:]])


def few_of(weight: Tensor, convert: Callable[..., Tensor], count: int) -> Tensor:
    """At most `count` numbers of a weight as the core hands it out, with the function that unpacks it; see `Weights.few_values`."""
    if _is_gguf(weight):  # only its own loader can read it: its bytes stand for themselves
        weight = weight.detach().as_subclass(Tensor).view(torch.uint8)
    elif not _is_unpacked(weight):
        return _few_of_packed(weight, convert, count)
    return spread(weight.detach().flatten(), count)


def _few_of_packed(weight: Tensor, convert: Callable[..., Tensor], count: int) -> Tensor:
    """float32, on the weight's device; unpacked once for all of the same content, of which slices are looked at, as by `Weights.digest`."""

    def unpacked() -> Tensor:
        return spread(convert(weight.detach(), inplace=False).to(torch.float32).flatten(), count)

    if not hasattr(weight, "__tensor_flatten__"):  # PyTorch's protocol of tensors that are made of others: what it is packed as
        return unpacked()
    names, how = weight.__tensor_flatten__()
    packed = hashlib.blake2b(f"{type(weight).__name__} {how} {count}".encode(), digest_size=16)
    for name in names:
        part = getattr(weight, name)
        packed.update(f"{name} {part.dtype} {tuple(part.shape)}".encode() + sample_of(part).cpu().numpy().tobytes())
    found = _UNPACKED.get(packed.digest())
    if found is None:
        if len(_UNPACKED) >= REMEMBERED:
            _UNPACKED.clear()
        found = _UNPACKED[packed.digest()] = unpacked().cpu()
    return found.to(weight.device)


def spread(flat: Tensor, count: int) -> Tensor:
    """At most `count` numbers of [n]: multiples of the golden section, which no length of rows divides evenly."""
    size = flat.shape[0]
    if size <= count:
        return flat
    places = sorted({int(size * ((k + 0.5) * GOLDEN % 1)) for k in range(count)})
    return torch.cat([flat[place : place + 1] for place in places])


def _is_unpacked(weight: Tensor) -> bool:
    return type(weight) in (Tensor, torch.nn.Parameter)


def _is_plain(weight: Tensor) -> bool:
    return _is_unpacked(weight) and weight.dtype in PLAIN


def _is_gguf(weight: Tensor) -> bool:
    return hasattr(weight, "tensor_type") and hasattr(weight, "tensor_shape")
