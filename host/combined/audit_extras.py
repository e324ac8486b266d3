"""What nodes have put on a model beside its weights, as digests: an audit carries on only where all of it is the same.

Names alone would not do: another shift of the schedule, or another multiplier in a function's closure, is another model.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.identity import VALUES, identity, shown
from ..core.weights import spread
from ..stability.methods import Guard

MOST, DEEPEST = 20_000, 60
"""Objects that are looked at, and how far inside each other: what lies beyond is not seen."""
PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), torch.dtype, torch.device)
COMPILED = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType)
COMPILERS = ("torch._dynamo", "torch._inductor")
"""What comes from here computes the same network otherwise; how it was asked for stands among the options."""
UNUSUAL = (AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What a look at objects of other packs may end in."""
KEPT_BY_COMFYUI = ("training", "weight_function", "bias_function", "comfy_", "prev_comfy_")
"""What names in a network begin with that change when it is loaded."""


@dataclass(frozen=True)
class Extras:
    """Of a model."""

    digests: dict[str, str]
    """Name of what is beside its weights (schedule, replaced objects, options, wrappers) -> 16 hex digits of all that can be seen."""
    unseen: list[str]
    """Names of those that hold something which cannot be looked into: it may differ unnoticed."""


def extras(model: Any) -> Extras:
    """Of a MODEL; the schedule stands for itself also where no node has replaced it."""
    found, unseen, own = {}, [], _own(model)
    for name, value in _named(model):
        look = _Look(own)
        try:
            found[name] = look.of(value).hex()[:16]
        except UNUSUAL:
            look.blind = True
        unseen += [name] if look.blind else []
    return Extras(found, sorted(unseen))


def looked_into(value: Any) -> tuple[str, bool]:
    """A digest of anything by all that it holds, and could all of it be looked into?"""
    look = _Look({})
    return look.of(value).hex(), not look.blind


def _own(model: Any) -> dict[int, str]:
    """Parts of the network that its identity speaks of, by id: their weights change with what is loaded. What a node has put in the place
    of one is not among them."""
    replaced = {id(value) for value in model.object_patches.values()}
    network = model.model.diffusion_model
    inside = network.named_modules(prefix="diffusion_model") if isinstance(network, torch.nn.Module) else [("diffusion_model", network)]
    return {id(part): name for name, part in [("", model.model), *inside] if id(part) not in replaced}


def _named(model: Any) -> Iterator[tuple[str, Any]]:
    yield "sampling", model.get_model_object("model_sampling")
    options = model.model_options
    kinds = {
        "object": model.object_patches, "option": {k: v for k, v in options.items() if k != "transformer_options"},
        "transformer": options.get("transformer_options", {}), "wrapper": getattr(model, "wrappers", {}),
        "callback": getattr(model, "callbacks", {}), "attachment": getattr(model, "attachments", {}),
        "model": getattr(model, "additional_models", {}), "injection": getattr(model, "injections", {}),
        "weight wrapper": getattr(model, "weight_wrapper_patches", {}),
    }  # fmt: skip
    for kind, named in kinds.items():
        yield from ((f"{kind} {name}", value) for name, value in named.items() if _is_filled(value))


def _is_filled(value: Any) -> bool:
    """False for what says nothing: None, and containers of nothing."""
    if isinstance(value, Mapping):
        return any(_is_filled(inner) for inner in value.values())
    return value is not None and not (isinstance(value, list | tuple) and not value)


def _hash(*parts: bytes | str) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.digest()


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


@dataclass
class _Look:
    """A walk through an object and all that it holds: values, never addresses, so that another start of ComfyUI finds the same."""

    own: dict[int, str]
    """See `_own`."""
    blind: bool = False
    """Something could not be looked into."""
    _open: dict[int, int] = field(default_factory=dict)
    _known: dict[int, tuple[bytes, Any]] = field(default_factory=dict)
    """Of objects by id, which are held here so that the id stays theirs."""

    def of(self, value: Any) -> bytes:
        """A digest."""
        if isinstance(value, PLAIN) and not isinstance(value, enum.Enum | np.generic):
            return _hash(type(value).__name__, repr(value))
        if id(value) in self.own:
            return _hash("own", self.own[id(value)])
        if id(value) in self._known:
            return self._known[id(value)][0]
        if id(value) in self._open:
            return _hash("around", str(len(self._open) - self._open[id(value)]))
        if len(self._known) > MOST or len(self._open) > DEEPEST:
            return self._unseen(value)
        self._open[id(value)] = len(self._open)
        found = _hash(_name(type(value)), *self._parts(value))
        del self._open[id(value)]
        self._known[id(value)] = found, value
        return found

    def _unseen(self, value: Any) -> bytes:
        self.blind = True
        return _hash("unseen", _name(type(value)))

    def _parts(self, value: Any) -> list[bytes]:
        """Digests of what an object is made of."""
        if isinstance(value, Tensor):
            return [self._tensor(value)]
        if isinstance(value, np.ndarray | np.generic):
            return [self.of(value.tolist() if value.dtype.hasobject else (value.dtype.str, value.shape, value.tobytes()))]
        if isinstance(value, Mapping):
            return [*sorted(self.of(k) + self.of(v) for k, v in value.items()), *self._inside(value)]
        if isinstance(value, set | frozenset):
            return sorted(map(self.of, value))
        if isinstance(value, list | tuple):
            return [*map(self.of, value), *self._inside(value)]
        if type(value).__module__.startswith(COMPILERS):
            return []
        if isinstance(value, torch.nn.Module):
            return self._network(value)
        if hasattr(value, "model_options") and hasattr(value, "patches"):
            return self._patcher(value)
        return self._function(value) or self._thing(value)

    def _patcher(self, value: Any) -> list[bytes]:
        """Of a MODEL all that is told of one; of what patches a text encoder, a VAE or a ControlNet its network and what is patched."""
        if hasattr(value.model, "model_type"):
            return [self.of(shown(identity(value))), *(self.of(name) + self.of(held) for name, held in _named(value))]
        return [self.of(value.model), self.of(sorted(map(str, value.patches)))]

    def _function(self, value: Any) -> list[bytes]:
        """Of functions and what is like them: the code, and the values it was made with; [] for other things."""
        if isinstance(value, types.FunctionType):
            held = [_content(cell) for cell in value.__closure__ or ()]
            return [self.of(x) for x in (value.__code__, value.__defaults__, value.__kwdefaults__, held, value.__dict__, _constants(value))]
        if isinstance(value, types.CodeType):
            return [self.of(x) for x in (value.co_name, value.co_code, value.co_consts, value.co_names)]
        if isinstance(value, types.MethodType):
            return [self.of(value.__func__), self.of(value.__self__)]
        if isinstance(value, functools.partial):
            return [self.of(value.func), self.of(value.args), self.of(value.keywords)]
        if isinstance(value, COMPILED):
            return [self.of(value.__qualname__), self.of(getattr(value, "__self__", None))]
        return []

    def _thing(self, value: Any) -> list[bytes]:
        """Of anything else: its attributes."""
        if isinstance(value, type):
            return [self.of([_name(kind) for kind in value.__mro__])]
        if isinstance(value, types.ModuleType):
            return [self.of(value.__name__)]
        if isinstance(value, enum.Enum | PurePath):
            return [self.of(str(value))]
        guard = getattr(value, "_guard", None)
        if isinstance(guard, Guard):  # what a guard has noted of earlier runs is no setting of it
            return [self.of(guard)]
        slots = any("__slots__" in vars(kind) for kind in type(value).__mro__)
        if hasattr(value, "__dict__") or slots or type(value) is object:
            return [self.of([_name(kind) for kind in type(value).__mro__]), *self._inside(value)]
        return [self._unseen(value)]

    def _inside(self, value: Any) -> list[bytes]:
        """Of its attributes, in `__dict__` and in slots."""
        several = [kind.__dict__.get("__slots__", ()) for kind in type(value).__mro__]
        slots = [name for names in several for name in ([names] if isinstance(names, str) else names)]
        held = {name: getattr(value, name) for name in slots if not name.startswith("__") and hasattr(value, name)}
        held |= getattr(value, "__dict__", {})
        return [self.of(held)] if held else []

    def _network(self, value: torch.nn.Module) -> list[bytes]:
        """Of a schedule, or of a network: classes, settings, parts. A weight is spoken for by some of its numbers, a table by all."""
        settings = {k: v for k, v in vars(value).items() if not k.startswith(("_", *KEPT_BY_COMFYUI))}
        weights = {k: spread(w.detach().flatten(), VALUES) for k, w in value.named_parameters(recurse=False)}
        chain = [_name(kind) for kind in type(value).__mro__]
        return [self.of(x) for x in (chain, settings, weights, dict(value.named_buffers(recurse=False)), dict(value.named_children()))]

    def _tensor(self, value: Tensor) -> bytes:
        try:
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        except UNUSUAL:  # packed by another pack, or without numbers at all
            return self._unseen(value)
        return _hash(str(value.dtype), str(tuple(value.shape)), raw)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that was never given a value
        return "empty"


def _constants(function: types.FunctionType) -> dict[str, Any]:
    """Numbers and words beside a function that it reads."""
    found = {name: function.__globals__.get(name) for name in function.__code__.co_names}
    return {name: value for name, value in found.items() if isinstance(value, bool | int | float | str)}
