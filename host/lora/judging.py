"""The one loop that judges the layers of a LoRA: of a file, or applied to a MODEL already.

Layers are taken some at a time. Those of one size are decomposed together, and numbers come from the device once for all of them: one by
one, small matrices would cost their launch and their wait, not their arithmetic. Base weights are read one at a time, and only where the
score asks for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from ...unmemorize.lora.channels import Channels, norm_of_product, of_stacked
from ...unmemorize.lora.filtering import Verdict, gated_by_file, judge
from ...unmemorize.lora.gates import GATES, Settings, threshold_of_file
from ...unmemorize.lora.scores import SCORES
from ...unmemorize.lora.subspace import Subspace
from ..core.progress import Progress
from ..core.weights import Weights
from .layers import NOTHING, OTHER_SHAPE, TOO_LARGE, UNDEFINED, Layer, Unjudged, base_of, cache_name, is_finite
from .linalg import linalg_device
from .prompt_layers import reads_the_prompt
from .subspaces import Subspaces

MOST_TOGETHER, MOST_BYTES = 256, 64 * 2**20
"""Layers that are taken at a time, and bytes of theirs in the file: what is held of them is a small multiple."""
MOST_NUMBERS = 2**20
"""Of factors that are decomposed together: more is no faster on a GPU, and slower on a CPU, whose caches they leave."""


class LayerAtWork:
    """A layer as scores see it (`unmemorize.lora.scores.LayerFacts`): everything is found when it is first asked for, or given before."""

    def __init__(self, layer: Layer, weights: Weights, subspaces: Subspaces, device: torch.device) -> None:
        self.adapter = layer.adapter
        self.layer, self.weights, self._subspaces, self._device = layer, weights, subspaces, device
        self._norm: Tensor | None = None
        self._channels: Channels | None = None

    @cached_property
    def reads_prompt(self) -> bool:
        """All of a text encoder does."""
        return self.layer.text_encoder or reads_the_prompt(self.layer.target)

    @property
    def rank(self) -> int:
        """As the file says it; no more than the layer can have."""
        return min(self.adapter.rank, *self.adapter.shape)

    @property
    def norm(self) -> Tensor:
        """||dW||_F, [1]. Unjudged if it is 0."""
        if self._norm is None:
            self._norm = self.adapter.norm(self._device).cpu()
        if float(self._norm) == 0:
            raise Unjudged(NOTHING)
        return self._norm

    @property
    def channels(self) -> Channels:
        """Of dW. Unjudged if there are none."""
        if self._channels is None:
            self._channels = self.adapter.channels(self._device)
        if not len(self._channels):
            raise Unjudged(NOTHING)
        return self._channels

    @cached_property
    def base(self) -> Subspace:
        """Of the base's weight, from the cache where it is known. Unjudged where it cannot be read, is undefined, or does not fit."""
        layer = self.layer
        try:
            name = cache_name(self.weights.digest(layer.target), layer.offset, layer.function)
            found = self._subspaces.of(self.adapter.shape, name, lambda: base_of(layer, self.weights, self._device))
        except ValueError as error:
            raise Unjudged(str(error)) from error
        if found is None:
            raise Unjudged(UNDEFINED)
        if (found.u.shape[0], found.v.shape[0]) != self.adapter.shape:
            raise Unjudged(OTHER_SHAPE)
        return found

    def let_base_go(self) -> None:
        """It is as large as the base's weight, and of no use any more."""
        vars(self).pop("base", None)

    def take(self, norm: Tensor | None, channels: Channels | None) -> None:
        """What was found together with other layers."""
        self._norm, self._channels = norm, channels


Judged = tuple[Layer, LayerAtWork, Verdict | str]
"""A verdict, on the CPU, or why there is none."""


def judged(layers: list[Layer], weights: dict[bool, Weights], settings: Settings, subspaces: Subspaces) -> Iterator[Judged]:
    """Each layer judged, in their order; `weights` of the diffusion model (False) and of the text encoder (True).

    Where the gate's threshold is the whole file's, all layers are scored before the first comes.
    """
    by_file = GATES[settings.gate].by_file
    progress = Progress((2 if by_file else 1) * len(layers))
    loop = _Loop(weights, settings, subspaces, progress)
    try:
        if not by_file:
            yield from loop.judged(layers)
            return
        before = [verdict for *_, verdict in loop.judged(layers, float("-inf"))]
        threshold = threshold_of_file([(v.scores, v.sigma) for v in before if isinstance(v, Verdict)], settings.keep)
        yield from loop.judged(layers, threshold, before)
    finally:
        subspaces.close()


class _Loop:
    """What stays the same from layer to layer."""

    def __init__(self, weights: dict[bool, Weights], settings: Settings, subspaces: Subspaces, progress: Progress) -> None:
        self._weights, self._settings, self._subspaces, self._progress = weights, settings, subspaces, progress
        self._device = linalg_device()
        self._whole = SCORES[settings.score].whole and not GATES[settings.gate].ranks

    def judged(self, layers: list[Layer], threshold: float | None = None, before: list[Verdict | str] | None = None) -> Iterator[Judged]:
        """Some layers at a time; `before`: verdicts that only wait for the whole file's threshold."""
        start = 0
        while start < len(layers):
            end = _end_of_part(layers, start)
            works = [LayerAtWork(la, self._weights[la.text_encoder], self._subspaces, self._device) for la in layers[start:end]]
            if before is None:
                self._prepare(works)
                verdicts = on_cpu([self._verdict(work, start + k, threshold) for k, work in enumerate(works)])
            else:
                verdicts = [self._once_more(verdict, threshold) for verdict in before[start:end]]
                self._prepare([w for w, v in zip(works, verdicts, strict=True) if isinstance(v, Verdict) and v.changed])
            yield from zip(layers[start:end], works, verdicts, strict=True)
            start = end

    def _verdict(self, work: LayerAtWork, number: int, threshold: float | None) -> Verdict | str:
        self._progress.advance()
        try:
            return judge(work, self._settings, number, threshold)
        except Unjudged as reason:
            return str(reason)
        except torch.linalg.LinAlgError:
            return TOO_LARGE
        finally:
            work.let_base_go()

    def _once_more(self, before: Verdict | str, threshold: float | None) -> Verdict | str:
        self._progress.advance()
        return before if isinstance(before, str) or threshold is None else gated_by_file(before, self._settings, threshold)

    def _prepare(self, works: list[LayerAtWork]) -> None:
        """Find what all of them will be asked for, those of one size together."""
        if SCORES[self._settings.score].needs_base:
            for weights in self._weights.values():
                weights.note_digests([w.layer.target for w in works if w.weights is weights])
        groups: dict[object, list[tuple[LayerAtWork, Tensor, Tensor, float]]] = {}
        for work in works:
            factors = work.adapter.factors()
            if factors is not None:
                b, a, scale = factors
                groups.setdefault((b.shape, a.shape, b.dtype, a.dtype, b.device, a.device), []).append((work, b, a, scale))
        for group in groups.values():
            _, b, a, _ = group[0]
            count = max(1, MOST_NUMBERS // (b.numel() + a.numel()))
            for start in range(0, len(group), count):
                self._progress.check()
                self._prepare_alike(group[start : start + count])

    def _prepare_alike(self, group: list[tuple[LayerAtWork, Tensor, Tensor, float]]) -> None:
        works, several_b, several_a, scales = zip(*group, strict=True)
        b, a = (_stacked(several).to(self._device, torch.float32) for several in (several_b, several_a))
        if self._whole:
            norms = norm_of_product(b, a).cpu() * torch.tensor(scales).abs()
            for work, norm in zip(works, norms, strict=True):
                work.take(norm.reshape(1), None)
            return
        try:
            found = of_stacked(b, a, list(scales))
        except torch.linalg.LinAlgError:
            return  # each is tried alone, and says which of them it is
        for work, channels in zip(works, found, strict=True):
            work.take(None, channels)


def _stacked(several: tuple[Tensor, ...]) -> Tensor:
    """[g, ...]; eight-bit kinds cannot be put together as they are."""
    return torch.stack([t.float() for t in several] if several[0].element_size() == 1 else list(several))


def _end_of_part(layers: list[Layer], start: int) -> int:
    """Behind the last layer of those that are taken together."""
    held, end = 0, start
    while end < len(layers) and end - start < MOST_TOGETHER and (end == start or held < MOST_BYTES):
        held += sum(t.nbytes for t in layers[end].adapter.tensors)
        end += 1
    return end


def on_cpu(found: list[Verdict | str]) -> list[Verdict | str]:
    """Verdicts with their tensors on the CPU, all in one copy; those whose numbers overflow become a reason."""
    parts = [part for v in found if isinstance(v, Verdict) for part in (v.scores, v.sigma, v.new_sigma)]
    if not parts:
        return found
    together = torch.cat(parts).cpu()
    pieces = iter(together.split([part.shape[0] for part in parts]))
    sound = bool(together.square().isfinite().all())
    verdicts: list[Verdict | str] = []
    for verdict in found:
        if isinstance(verdict, Verdict):
            scores, sigma, new = next(pieces), next(pieces), next(pieces)
            fits = sound or all(is_finite(t) for t in (scores, sigma.square(), new))
            verdicts.append(replace(verdict, scores=scores, sigma=sigma, new_sigma=new) if fits else TOO_LARGE)
        else:
            verdicts.append(verdict)
    return verdicts
