"""Rows of the device benchmark: what maps, guard and neurons cost beside the stock sampler, on a model of real size."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import comfy.sd
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ...host.combined.audit_row import AT_ONCE, Audit, RowMaker
from ...host.copies.checking import check
from ...host.copies.detectors import BuiltIn
from ...host.copies.probing import alike, kept
from ...host.copies.references import of_batch
from ...host.core import denoiser
from ...host.core.progress import Progress
from ...host.core.sampling import draw
from ...host.curvature.measuring import RECOMMENDED, measure_map
from ...host.neurons.finding import find
from ...host.neurons.masks import pruned
from ...host.neurons.recording import WINDOW, record, window_of
from ...host.stability import guard as guarding
from ...host.stability.methods import Guard
from ...host.stability.profiles import calibrate
from ...host.stability.watching import FIRST_READ
from .big_models import Big, write_lora
from .meter import Meter

COUNTED, CALIBRATED, RECORDED = 4, 4, 2
"""Steps of runs that are counted, steps of those that calibrate, prompts that are recorded."""
PICTURES, REFERENCES = 8, 16
"""Pictures that are looked through, and references."""


class Bench:
    """A model, and what a stock run of it costs."""

    def __init__(self, big: Big, meter: Meter) -> None:
        self.big, self.meter = big, meter
        self.positive, self.empty = big.prompt(1), big.prompt(0)
        self.drawn()  # loads the model
        self.once = meter.fastest(self.drawn, 2)

    @property
    def name(self) -> str:
        """What its rows begin with."""
        return self.big.kind.name

    def drawn(self, model: Any = None, steps: int | None = None, side: int | None = None) -> Tensor:
        """A latent by the stock sampler."""
        big = self.big
        with torch.inference_mode():
            return draw(model or big.model, self.positive, self.empty, big.latent(side), big.sampling(steps))

    def ratio(self, work: Callable[[], Any], rounds: int = 2) -> float:
        """Time over that of a stock run."""
        return self.meter.fastest(work, rounds) / self.once

    def named(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Rows under the model's name."""
        return {f"{self.name}_{k}": v for k, v in rows.items()}


def sampling(bench: Bench) -> dict[str, Any]:
    """The stock run itself, and the same again: what is nearer to 1 than that is noise."""
    counts = bench.meter.counts(lambda: bench.drawn(steps=COUNTED))
    return bench.named({
        "weights_billion": bench.big.weights / 1e9, "seconds": bench.once, "again": bench.ratio(bench.drawn),
        "launches_a_step": counts.launches / COUNTED, "waits_a_step": counts.waits / COUNTED,
        "peak_gib": bench.meter.peak(lambda: bench.drawn(steps=2)) / 2**30,
    })  # fmt: skip


def guard(bench: Bench) -> dict[str, Any]:
    """Detecting: time, memory, launches and waits beside the stock run, and the same bits."""
    big, prompts = bench.big, [bench.big.prompt(seed) for seed in range(2, 7)]
    with torch.inference_mode():
        stored = calibrate(big.model, prompts, bench.empty, big.latent(), 1, big.sampling(CALIBRATED))
    clone, _ = guarding.guarded(big.model, Guard(stored, "detect"))
    both = (big.model, clone)
    few = [bench.meter.counts(partial(bench.drawn, model, COUNTED)) for model in both]
    peaks = [bench.meter.peak(partial(bench.drawn, model, 2)) for model in both]
    return bench.named({
        "guard": bench.ratio(lambda: bench.drawn(clone)), "guard_own_share": own_share(bench, clone),
        "guard_launches": few[1].launches / few[0].launches, "guard_waits_a_step": waits_a_step(bench, Guard(stored, "detect")),
        "guard_peak": peaks[1] / peaks[0], "guard_same_bits": float(torch.equal(bench.drawn(), bench.drawn(clone))),
    })  # fmt: skip


def waits_a_step(bench: Bench, how: Guard) -> float:
    """Waits of the guard while the steps run, mean of those behind the calls whose level it reads."""
    control, waits, listening = guarding._Control, list[int](), guarding._Control.listen

    def listen(self: Any, facts: dict[str, Any]) -> Tensor:
        found: list[Tensor] = []
        waits.append(bench.meter.counts(lambda: found.append(listening(self, facts))).waits)
        return found[0]

    control.listen = listen  # type: ignore[method-assign]
    try:
        clone, _ = guarding.guarded(bench.big.model, how)
        bench.drawn(clone)
    finally:
        control.listen = listening  # type: ignore[method-assign]
    later = waits[FIRST_READ:]
    return sum(later) / len(later)


def own_share(bench: Bench, clone: Any) -> float:
    """Share of a run's processor time that is spent in the guard's own functions."""
    spent, control = [0.0], guarding._Control
    ours = [(control, "_step"), (control, "_finished"), (guarding, "facts_of"), (guarding, "new_watch")]
    kept = [getattr(place, name) for place, name in ours]

    def timed(work: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            begun = time.process_time()
            try:
                return work(*arguments, **more)
            finally:
                spent[0] += time.process_time() - begun

        return call

    try:
        for (place, name), work in zip(ours, kept, strict=True):
            setattr(place, name, timed(work))
        begun = time.process_time()
        bench.drawn(clone)
        return spent[0] / (time.process_time() - begun)
    finally:
        for (place, name), work in zip(ours, kept, strict=True):
            setattr(place, name, work)


def maps(bench: Bench) -> dict[str, Any]:
    """The recommended map at the full side and at half of it, several probes a call and one."""
    big, how = bench.big, dataclasses.replace(RECOMMENDED, fitted=True)
    half = big.side // 2

    def mapped(side: int | None = None) -> dict[str, Any]:
        with torch.inference_mode():
            return measure_map(big.model, bench.positive, bench.empty, big.latent(side), how, 0)

    half_run = bench.meter.fastest(lambda: bench.drawn(side=half), 2)
    peaks = [bench.meter.peak(work) for work in (lambda: bench.drawn(steps=2), mapped)]
    rows = {
        "map": bench.ratio(mapped), "map_evaluations": mapped()["settings"]["evaluations"], "map_peak": peaks[1] / peaks[0],
        "map_half_side": bench.meter.fastest(lambda: mapped(half), 2) / half_run,
    }  # fmt: skip
    with everywhere_together(True):
        together = mapped(half)["values"]
        rows["map_half_side_together"] = bench.meter.fastest(lambda: mapped(half), 2) / half_run
    with everywhere_together(False):
        alone = mapped(half)["values"]
        rows["map_half_side_one_by_one"] = bench.meter.fastest(lambda: mapped(half), 2) / half_run
    rows["map_together_correlation"] = float(torch.corrcoef(torch.stack([together.flatten(), alone.flatten()]))[0, 1])
    return bench.named(rows)


@contextlib.contextmanager
def everywhere_together(wanted: bool) -> Iterator[None]:
    """Several probes share a call on every kind of device, or on none."""
    kept, room = denoiser.BUSY_ALONE, denoiser.KEPT_BUSY
    denoiser.BUSY_ALONE, denoiser.KEPT_BUSY = (), room if wanted else 1
    try:
        yield
    finally:
        denoiser.BUSY_ALONE, denoiser.KEPT_BUSY = kept, room


def neurons(bench: Bench, folder: Path) -> dict[str, Any]:
    """Recording beside the same steps unrecorded, finding, and the first run after pruning beside later ones and a stock LoRA's."""
    big, use = bench.big, bench.big.sampling()
    prompts, more = ([big.prompt(seed) for seed in range(start, start + RECORDED)] for start in (10, 20))
    steps = window_of(big.model, use, WINDOW, float("inf")).last_step

    def recorded(several: list[Any]) -> Any:
        with torch.inference_mode():
            return record(big.model, several, bench.empty, big.latent(), 1, use, "feed-forward")

    def unrecorded() -> None:
        with torch.inference_mode():
            for prompt in prompts:
                draw(big.model, prompt, bench.empty, big.latent(), {**use, "last_step": steps})

    plain, ours = bench.meter.fastest(unrecorded, 2), bench.meter.fastest(lambda: recorded(prompts), 2)
    peaks = [bench.meter.peak(work) for work in (unrecorded, lambda: recorded(prompts))]
    memorized, reference = recorded(prompts), recorded(more)
    masks: list[Any] = []
    seconds = bench.meter.seconds(lambda: masks.append(find(big.model, memorized, reference, 0.01, 0.0, "both", "wanda")))
    write_lora(big, folder / "stock.safetensors")
    lora, _ = comfy.sd.load_lora_for_models(big.model, None, load_file(folder / "stock.safetensors"), 1.0, 0.0)
    firsts = {name: _first_over_later(bench, model) for name, model in (("pruned", pruned(big.model, masks[0], 1.0)), ("lora", lora))}
    bench.drawn()
    return bench.named({
        "record": ours / plain, "record_peak": peaks[1] / peaks[0], "find": seconds / bench.once,
        "pruned_first_run": firsts["pruned"], "lora_first_run": firsts["lora"],
    })  # fmt: skip


def _first_over_later(bench: Bench, model: Any) -> float:
    """The first run patches the weights."""
    bench.drawn()
    first = bench.meter.seconds(lambda: bench.drawn(model))
    return first / bench.meter.fastest(lambda: bench.drawn(model), 2)


class _Words:
    """In the place of a text encoder."""

    def __init__(self, big: Big) -> None:
        self._big = big

    def tokenize(self, text: str) -> int:
        """The same words for the same text."""
        return 1 + sum(text.encode()) % 1000

    def encode_from_tokens_scheduled(self, tokens: int) -> list[Any]:
        """CONDITIONING."""
        return self._big.prompt(tokens)


class _Picture:
    """In the place of an autoencoder, which costs the same with and without us."""

    def decode(self, latents: Tensor) -> Tensor:
        """IMAGE [n, h, w, 3]."""
        return F.interpolate(latents[:, :3].float(), scale_factor=8).sigmoid().movedim(1, -1).cpu()


def copies(bench: Bench) -> dict[str, Any]:
    """Looking through pictures beside the time of sampling as many; an audit's row beside its pictures."""
    big, side, random = bench.big, 8 * bench.big.side, torch.Generator().manual_seed(0)
    pictures, references = (torch.rand(n, side, side, 3, generator=random) for n in (PICTURES, REFERENCES))
    sampled = PICTURES * bench.once
    audit = Audit(big.model, _Words(big), _Picture(), bench.empty, big.latent(), ["a cat"], AT_ONCE, big.sampling(), "device", neighbours=0)
    several = {"samples": big.latent()["samples"].repeat(AT_ONCE, 1, 1, 1)}
    with torch.inference_mode():
        together = bench.meter.fastest(lambda: draw(big.model, bench.positive, bench.empty, several, big.sampling()), 2)
        return bench.named({
            "copy_check": bench.meter.seconds(lambda: check(pictures, of_batch(references), BuiltIn(), None, False, 0.05)) / sampled,
            "probe_comparing": bench.meter.seconds(lambda: alike(kept(pictures, False).small)) / sampled,
            "audit_row": bench.meter.seconds(lambda: RowMaker(audit, Progress(10_000)).row("a cat")) / together,
        })  # fmt: skip
