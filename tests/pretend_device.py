"""A pretend accelerator: tensors on device "gpu:0" that compute on the CPU, and refuse to meet tensors of the CPU as CUDA's would.

`COMFYUI_DEVICE=pretend nox -s tests -- tests/comfy/stability` runs tests so: ComfyUI then loads models onto it, and keeps prompts and
latents where it would with a real one. It finds tensors of two devices in one operation, random numbers of another device's generator, and
what only works because everything lies in one memory. It says nothing of speed, precision or memory.

PyTorch's device for backends written in Python is the ground (torch.utils.backend_registration).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_map

NAME = "gpu"
CPU = torch.device("cpu")
CROSSING = {"aten::copy_", "aten::_to_copy", "aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_", "aten::set_"}
"""Operations that take tensors of two devices on CUDA too."""
MEMORY = 8 << 30


class Pretend(Tensor):
    """A tensor on the pretend device; `raw` lies on the CPU."""

    raw: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: Tensor) -> Pretend:
        layout = {"strides": raw.stride(), "storage_offset": raw.storage_offset(), "dtype": raw.dtype, "layout": raw.layout}
        return Tensor._make_wrapper_subclass(cls, raw.shape, **layout, device=torch.device(NAME, 0))  # type: ignore[attr-defined]

    def __init__(self, raw: Tensor) -> None:
        self.raw = raw

    def __repr__(self) -> str:
        return f"Pretend({self.raw!r})"

    def new_tensor(self, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
        """PyTorch cannot make it in a subclass."""
        return torch.tensor(data, dtype=dtype or self.dtype).to(device or self.device)

    def tolist(self) -> Any:
        """PyTorch cannot make it of a subclass."""
        return self.raw.tolist()

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(_lists_as_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_lists_as_tensors(index), value)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # in inference mode PyTorch leaves composite operations whole
        return func.decompose(*args, **(kwargs or {})) if func._can_decompose() else _run(func, args, kwargs or {})


class Device(backend_registration._DummyBackendModule):
    """What PyTorch asks of a device beside its operations: one, with random numbers of its own."""

    state: ClassVar[Tensor] = torch.Generator().manual_seed(0).get_state()

    def get_rng_state(self, device: Any = None) -> Tensor:
        return Device.state.clone()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        Device.state = state.clone()

    def manual_seed_all(self, seed: int) -> None:
        Device.state = torch._C.Generator().manual_seed(seed).get_state()

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


class Generator(torch._C.Generator):
    """torch.Generator that may be of the pretend device."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = torch._C.Generator.__new__(cls)
        made.pretend = torch.device(device).type == NAME  # type: ignore[attr-defined]
        return made

    def __init__(self, device: Any = "cpu") -> None:
        pass

    @property
    def device(self) -> torch.device:
        """Where it was made for."""
        return torch.device(NAME, 0) if self.pretend else CPU  # type: ignore[attr-defined]


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """An operation on the CPU, for tensors of the pretend device."""
    name = func._schema.name
    if name == "aten::_has_compatible_shallow_copy_type":
        return False
    tensors: list[Tensor] = []
    plain = [_plain(a, tensors) for a in args], {k: _plain(v, tensors) for k, v in kwargs.items()}
    ours = any(isinstance(t, Pretend) for t in tensors)
    if ours and name not in CROSSING and any(t.dim() for t in tensors if not isinstance(t, Pretend)):
        raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and cpu! ({name})")
    here = ours or _is_here(kwargs.get("device"))
    raw = (_with_own_random_numbers if here and torch.Tag.nondeterministic_seeded in func.tags else _called)(func, *plain)
    if name == "aten::_to_copy":
        return _wrapped(raw) if _is_here(kwargs.get("device", args[0].device)) else raw
    written = [i for i, a in enumerate(func._schema.arguments) if a.alias_info is not None and a.alias_info.is_write and not a.kwarg_only]
    if written and len(func._schema.returns) == 1 and isinstance(args[written[0]], Tensor):
        return args[written[0]]
    if "out" in kwargs:
        return kwargs["out"]
    if name == "aten::detach" and not args[0].is_inference():
        with torch.inference_mode(False):
            return Pretend(raw)
    return _wrapped(raw)


def _called(func: Any, args: Any, kwargs: Any) -> Any:
    return func(*args, **kwargs)


def _with_own_random_numbers(func: Any, args: Any, kwargs: Any) -> Any:
    if any(isinstance(v, torch._C.Generator) for v in (*args, *kwargs.values())):
        return func(*args, **kwargs)
    before = torch.get_rng_state()
    torch.set_rng_state(Device.state)
    try:
        raw = func(*args, **kwargs)
        Device.state = torch.get_rng_state()
        return raw
    finally:
        torch.set_rng_state(before)


def _is_here(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _lists_as_tensors(index: Any) -> Any:
    """PyTorch cannot make them in a subclass."""
    if isinstance(index, tuple):
        return tuple(_lists_as_tensors(i) for i in index)
    return torch.tensor(index) if isinstance(index, list) else index


def _plain(value: Any, seen: list[Tensor]) -> Any:
    if isinstance(value, Tensor):
        seen.append(value)
        return value.raw if isinstance(value, Pretend) else value
    if type(value) in (list, tuple):
        return type(value)(_plain(v, seen) for v in value)
    return CPU if isinstance(value, torch.device) and value.type == NAME else value


def _wrapped(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value if isinstance(value, Pretend) else Pretend(value)
    return type(value)(_wrapped(v) for v in value) if type(value) in (list, tuple) else value


def _made_on_the_cpu(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.tensor and its kind, which PyTorch cannot make on a device written in Python."""

    def make(*args: Any, device: Any = None, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], (list, tuple)):
            args = (tree_map(lambda v: v.item() if isinstance(v, Pretend) and v.dim() == 0 else v, args[0]), *args[1:])
        if _is_here(device):
            return original(*args, **kwargs).to(device)
        return original(*args, **kwargs, **({} if device is None else {"device": device}))

    return make


def _of_its_own_generator(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """torch.randn and its kind: as on CUDA, the generator must be of the device."""

    def make(*args: Any, generator: Any = None, device: Any = None, **kwargs: Any) -> Tensor:
        more = {k: v for k, v in (("generator", generator), ("device", device)) if v is not None}
        if generator is not None and _is_here(device) != getattr(generator, "pretend", False):
            raise RuntimeError(f"Expected a {device or 'cpu'!r} generator, but found another device's")
        return original(*args, **more, **kwargs)

    return make


def install() -> None:
    """Register the device, and let ComfyUI, which must be imported for the CPU, compute on it."""
    import comfy.model_management as management

    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Device())
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda op, *args, **kwargs: _run(op, args, kwargs), "PrivateUse1")
    Device.library = library  # type: ignore[attr-defined]
    torch.Generator = Generator  # type: ignore[misc,assignment]
    for name in ("tensor", "as_tensor", "asarray"):
        setattr(torch, name, _made_on_the_cpu(getattr(torch, name)))
    for name in ("randn", "rand", "randint", "randperm"):
        setattr(torch, name, _of_its_own_generator(getattr(torch, name)))
    device = torch.device(NAME, 0)
    instead: dict[str, Any] = {
        "cpu_state": management.CPUState.GPU, "vram_state": management.VRAMState.NORMAL_VRAM,
        "get_torch_device": lambda: device, "get_torch_device_name": str, "soft_empty_cache": lambda force=False: None,
        "get_total_memory": _memory, "get_free_memory": _memory, "should_use_fp16": lambda *_, **__: False,
        "should_use_bf16": lambda *_, **__: False, "device_supports_non_blocking": lambda _: False, "get_offload_stream": lambda _: None,
        "xformers_enabled": lambda: False, "NUM_STREAMS": 0,
    }  # fmt: skip
    instead |= {name: lambda *_: False for name in vars(management) if name.startswith("supports_") and name.endswith("_compute")}
    for name, value in instead.items():
        setattr(management, name, value)


def _memory(device: Any = None, torch_total_too: bool = False, torch_free_too: bool = False) -> Any:
    return (MEMORY, MEMORY) if torch_total_too or torch_free_too else MEMORY
