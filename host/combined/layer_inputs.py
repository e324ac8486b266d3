"""Rows that enter a LoRA's layers while a model draws prompts: a bounded random sample of them, by whose they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import comfy.patcher_extension
import torch
import torch.nn.functional as F
from torch import Tensor

from ...unmemorize.neurons.activity import COND
from ..core.hooks import as_function
from ..lora.layers import Layer
from ..neurons.layers import Layer as Heard
from ..neurons.recording import Listener, hooked, window_along

KEY = "unmemorize_layer_inputs"
PREFIX = "diffusion_model."
PER_CALL = 12
"""Rows taken of a layer, a prompt and a call of the model."""
MOST_KEPT, MOST_LEAKED = 2048, 512
"""Rows of a layer, and rows of a layer and a caption; then a new one takes a random one's place."""


class LayerInputs:
    """Samples of what enters layers, [rows, in * kernel] each; `label` says to whom the next rows belong.

    `label` None: to what must be kept, both sides of the guidance. A number: to that caption, its own side alone.
    """

    def __init__(self, layers: list[Layer], model: Any, clip: Any) -> None:
        """ValueError if a layer is none of the model's."""
        self.label: int | None = None
        self._rows: dict[tuple[str, int | None], Tensor] = {}
        self._seen: dict[tuple[str, int | None], int] = {}
        self._random = torch.Generator().manual_seed(0)
        self._modules: dict[bool, dict[str, Any]] = {False: {}, True: {}}
        for layer in layers:
            root = clip.cond_stage_model if layer.text_encoder else model.model
            with contextlib.suppress(AttributeError):  # a parameter of its own, of no layer: it gets no rows, and passes through
                self._modules[layer.text_encoder][layer.target] = root.get_submodule(layer.target.removesuffix(".weight"))

    def kept(self, layer: Layer) -> Tensor | None:
        """Rows of what must be kept, float32; None if there are none."""
        return self._found(layer.target, None)

    def leaked(self, layer: Layer, captions: list[int]) -> Tensor | None:
        """Rows of some captions."""
        found = [rows for i in captions if (rows := self._found(layer.target, i)) is not None]
        return torch.cat(found) if found else None

    def _found(self, key: str, label: int | None) -> Tensor | None:
        rows = self._rows.get((key, label))
        return None if rows is None else rows[: self._seen[key, label]].float()

    @contextlib.contextmanager
    def of_runs(self, model: Any, sigmas: Tensor) -> Iterator[Any]:
        """Inside, runs of the given MODEL along a schedule are heard, in the diffusion model's layers."""
        listener = Listener(self, window_along(model, sigmas, 0.0), strict=False)
        clone = model.clone()
        clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, KEY, as_function(listener.around_call))
        with hooked([Heard(key, module, 0) for key, module in self._modules[False].items()], listener):
            yield clone

    @contextlib.contextmanager
    def of_text(self) -> Iterator[None]:
        """Inside, texts that are encoded are heard, in the text encoder's layers."""
        handles = []
        try:
            for key, module in self._modules[True].items():

                def before(_: Any, inputs: tuple[Any, ...], key: str = key) -> None:
                    self.add(key, (COND,), 0, inputs[0])

                handles.append(module.register_forward_pre_hook(before))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def add(self, key: str, sides: Sequence[int], _level: int, z: Tensor) -> None:
        """What enters a layer, [batch, ..., in], or [batch, in, height, width] of a convolution; a part of it for each of `sides`."""
        for side, part in zip(sides, z.chunk(len(sides)), strict=True):
            self._add(key, side, part)

    def _add(self, key: str, side: int, z: Tensor) -> None:
        if self.label is not None and side != COND:
            return
        module = self._modules[False].get(key) or self._modules[True].get(key)
        name, new = (key, self.label), self._some(module, z)
        if name not in self._rows:
            self._rows[name] = new.new_empty(MOST_KEPT if self.label is None else MOST_LEAKED, new.shape[1])
        rows, seen = self._rows[name], self._seen.get(name, 0)
        self._seen[name] = seen + len(new)
        order = torch.arange(seen, seen + len(new))
        chosen = (torch.rand(len(new), generator=self._random) * (order + 1)).long()
        places = torch.where(order < len(rows), order, chosen).tolist()
        for place, row in zip(places, new, strict=True):
            if place < len(rows):
                rows[place] = row

    def _some(self, module: Any, z: Tensor) -> Tensor:
        """PER_CALL random rows [rows, in * kernel], on the CPU in half the bytes: their second moments are what counts."""
        if isinstance(module, torch.nn.Conv2d):
            rows = _patches(module, z, PER_CALL, self._random)
        else:
            flat = z.detach().reshape(-1, z.shape[-1])
            rows = flat[torch.randperm(len(flat), generator=self._random)[:PER_CALL].to(flat.device)]
        return rows.to("cpu", torch.bfloat16)


def _patches(conv: torch.nn.Conv2d, z: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Random patches of a picture [b, c, h, w] as a convolution sees them, [count, c * kh * kw]."""
    (kh, kw), (sy, sx), padding = conv.kernel_size, conv.stride, conv.padding
    py, px = (kh // 2, kw // 2) if isinstance(padding, str) else padding
    padded = F.pad(z.detach(), (px, px, py, py))
    limits = (len(z), (padded.shape[2] - kh) // sy + 1, (padded.shape[3] - kw) // sx + 1)
    places = zip(*(torch.randint(limit, (count,), generator=random).tolist() for limit in limits), strict=True)
    return torch.stack([padded[b, :, y * sy : y * sy + kh, x * sx : x * sx + kw].flatten() for b, y, x in places])
