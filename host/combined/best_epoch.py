"""Compare a LoRA's epochs, or strengths: what each remembers, what of its style each has, and a picture of each."""

from __future__ import annotations

import functools
import math
import os
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import comfy.sd
import torch
from torch import Tensor

from ...unmemorize.lora.epochs import Epoch, in_words, suggestion
from ...unmemorize.lora.measured import projected
from ...unmemorize.pictures.epoch_grid import epoch_grid
from ...unmemorize.pictures.epoch_plot import Point, Telling
from ...unmemorize.pictures.pages import counted
from ..copies.checking import counted as counted_copies
from ..copies.checking import is_copy
from ..copies.detectors import BuiltIn, Detector
from ..copies.probing import USUAL_W, Probe, check_pictures, compared, drawn, pictures_of_base
from ..copies.references import References, features
from ..core import store
from ..core.latents import check_single, decoded
from ..core.progress import Progress
from ..core.prompts import encoded
from ..core.sampling import draw, empty_of
from ..core.settings import check_range, check_sampling
from ..lora import lora_files
from ..lora.folder import folders
from ..lora.lora_files import LORAS
from .change_measuring import AGREES, PLACES, Latents, changes_of

MOST = 64


@dataclass(frozen=True)
class Comparison:
    """What is compared: files of a folder of ComfyUI's LoRAs at some strengths, on captions."""

    model: Any
    clip: Any
    vae: Any
    folder: str
    strengths: list[float]
    captions: list[str]
    reference: str
    latent: dict[str, Any]
    use: dict[str, Any]
    references: References | None = None
    detector: Detector | None = None
    copy_limit: float = BuiltIn.least
    probe_pictures: int = 0
    """Drawn beyond each epoch, to see which of them agree; 0: none. References say more: with them nothing is probed."""

    @property
    def probed(self) -> int:
        """Pictures that are drawn beyond each epoch."""
        return self.probe_pictures if self.references is None else 0


def strengths_of(text: str) -> list[float]:
    """Numbers with commas between them; ValueError if there are none."""
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = []
    if not found or not all(0 < s <= 10 for s in found):
        raise ValueError(f"strengths = {text!r} is no list of numbers above 0, for instance 1, or 0.6, 0.8, 1.")
    return list(dict.fromkeys(found))


def names_in(folder: str) -> list[str]:
    """LoRAs of a folder, in the order of their epochs' numbers; a file whose name has none is the last epoch."""
    if folder not in folders():
        raise ValueError(f"There is no folder {folder!r} with LoRAs. Press R to refresh the list, or choose another.")
    names = [n for n in store.names(LORAS) if PurePosixPath(n.replace("\\", "/")).parent.as_posix() == folder]

    numbers = numbers_of(names)
    return sorted(names, key=lambda name: (numbers[name], name))


def numbers_of(names: list[str]) -> dict[str, float]:
    """Each file's epoch: the last number in that part of its name which the others do not share; inf where there is none.

    `style_v2-000004-bf16` and `style_v2-bf16`: 4, and inf, for 2 and 16 are every file's.
    """
    stems = [PurePosixPath(name.replace("\\", "/")).stem for name in names]
    ends = [stem[::-1] for stem in _without_shared_beginning(stems)]
    own = [end[::-1] for end in _without_shared_beginning(ends)]
    found = [re.findall(r"\d+", part) for part in own]
    return {name: float(numbers[-1]) if numbers else math.inf for name, numbers in zip(names, found, strict=True)}


def _without_shared_beginning(texts: list[str]) -> list[str]:
    """A number that begins alike, 10 and 12, stays whole; one text shares nothing."""
    shared = os.path.commonprefix(texts) if len(set(texts)) > 1 else ""
    if any(text[len(shared) :][:1].isdigit() for text in texts):
        shared = shared.rstrip("0123456789")
    return [text[len(shared) :] for text in texts]


def compare(c: Comparison) -> tuple[list[Epoch], Tensor]:
    """An entry for every file and strength, and a picture of each caption by each, [epochs, captions, h, w, 3]. ValueError before work."""
    check_sampling(c.use)
    check_single(c.latent)
    check_range("copy_limit", c.copy_limit, 0, 1)
    other = c.references is not None and c.detector is not None and not isinstance(c.detector, BuiltIn)
    if other and c.copy_limit == BuiltIn.least:
        raise ValueError(
            f"copy_limit {BuiltIn.least:g} is the built-in detector's: with another one different pictures may be as alike. Write the "
            "threshold that Copy Check reports for these references and this detector."
        )
    if c.probed:
        check_pictures(c.probed, len(c.captions))
    names = names_in(c.folder)
    pairs = [(name, strength) for name in names for strength in c.strengths]
    if not c.captions:
        raise ValueError("There is no caption. Write some that the LoRA was trained with, one a line.")
    if not 2 <= len(pairs) <= MOST:
        raise ValueError(
            f"{len(pairs)} LoRAs and strengths to compare; 2 to {MOST} are possible. Choose another folder, or other strengths."
        )
    count = len(c.captions)
    probed = (len(pairs) * c.probed + pictures_of_base(c.probed, count)) if c.probed else 0
    progress = Progress((1 + len(pairs)) * count * (c.use["steps"] + 2 * len(PLACES)) + probed * c.use["steps"])
    groups_in = _Prober(c, progress).groups if c.probed else lambda *_: None

    @functools.lru_cache(maxsize=1)
    def read(name: str) -> dict[str, Tensor]:
        return lora_files.read(name, lora_files.cancelled).tensors

    def applied(name: str, strength: float) -> tuple[Any, Any]:
        return comfy.sd.load_lora_for_models(c.model, c.clip, read(name), strength, strength)

    strongest = applied(names[-1], max(c.strengths))
    latents = Latents(*strongest, c.captions, c.reference, c.latent, c.use, progress)
    before = latents.predicted(c.model, c.clip)
    whole = changes_of(latents.predicted(*strongest), before)
    kept = None if c.references is None or c.detector is None else features(c.references, c.detector, progress.check)
    found, pictures = [], []
    for name, strength in pairs:
        model, clip = applied(name, strength)
        changes = changes_of(latents.predicted(model, clip), before)
        made = _pictures(c, model, clip, progress)
        if not made.isfinite().all():
            raise ValueError(f"{name!r} at strength {strength:g} draws broken pictures (values that are no numbers).")
        copies, unclear = None, 0
        if kept is not None and c.detector is not None:
            best = c.detector.compare(c.detector.prepare(made.movedim(-1, 1)), kept, progress.check).max(1).values
            copies, unclear = counted_copies([is_copy(score, c.copy_limit, c.detector.least) for score in best.tolist()])
        common = projected([(u, b) for (_, u), (_, b) in zip(changes, whole, strict=True)])
        found.append(Epoch(name, strength, latents.agreements(changes, before), common, copies, groups_in(model, clip), unclear))
        pictures.append(made)
    return found, torch.stack(pictures)


class _Prober:
    """Draws beyond epochs, as LoRA Leak Probe does; what the base draws under the captions is drawn once."""

    def __init__(self, c: Comparison, progress: Progress) -> None:
        self._c, self._progress = c, progress
        self._by_base: Tensor | None = None

    def groups(self, model: Any, clip: Any) -> int:
        """How many groups of pictures agree, and are unlike what the base draws."""
        c, (empty,) = self._c, encoded(self._c.clip, [""])
        job = Probe(
            c.model, model, c.vae, encoded(clip, c.captions), empty, c.latent, c.use, c.probed, USUAL_W, 2 * len(c.captions),
            encoded(c.clip, c.captions),
        )  # fmt: skip
        if self._by_base is None:
            self._by_base = drawn(job, None, self._progress).small
        return len(compared(job, drawn(job, USUAL_W, self._progress), self._by_base).leaks)


def _pictures(c: Comparison, model: Any, clip: Any, progress: Progress) -> Tensor:
    """[captions, h, w, 3]."""
    empty = empty_of(model, c.latent)
    (negative,) = encoded(clip, [""])
    made = [draw(model, p, negative, {"samples": empty}, c.use, progress.advance) for p in encoded(clip, c.captions)]
    return torch.cat([decoded(c.vae, latent) for latent in made])


def report(epochs: list[Epoch]) -> dict[str, Any]:
    """The table; JSON-able."""
    best = suggestion(epochs, AGREES)
    rows = [
        {
            "name": e.name, "strength": e.strength, "leaks": e.leaks(AGREES), "copies": _told(e), "groups": e.groups,
            "unclear": e.unclear, "common": round(e.common, 4),
            "agreements": [None if math.isnan(a) else round(a, 4) for a in e.agreements],
        }
        for e in epochs
    ]  # fmt: skip
    return {"verdict": in_words(epochs, AGREES), "suggestion": "" if best is None else best.name, "epochs": rows}


def _told(epoch: Epoch) -> int | None:
    """How many copies; None without references, or if there are none for sure, but pictures of which it cannot be told."""
    return epoch.copies or (None if epoch.unclear else epoch.copies)


def _judged(epoch: Epoch) -> str:
    leaks = epoch.leaks(AGREES)
    if epoch.unclear and not epoch.copies:
        return f"not judged: {counted(epoch.unclear, 'picture')} of which the references cannot tell"
    if leaks is None:
        return "not judged: it changes nothing"
    if epoch.copies is not None:
        return f"leaks: {counted(epoch.copies, 'copy', 'copies')}" if leaks else "no copy"
    least = "" if math.isnan(epoch.least) else f", least agreement {epoch.least:.2f}"
    groups = f": {counted(epoch.groups, 'group')} of a probe" if epoch.groups else ""
    return ("leaks" if leaks else "no leak seen") + groups + least


def shown(epochs: list[Epoch], pictures: Tensor) -> Tensor:
    """A row an epoch, IMAGE [1, h, w, 3]."""
    best = suggestion(epochs, AGREES)
    rows = [
        {
            "title": f"{PurePosixPath(e.name).name}" + ("" if e.strength == 1 else f" at {e.strength:g}"),
            "words": f"{_judged(e)}, {e.common:.0%} learnt",
            "leaks": bool(e.leaks(AGREES)), "chosen": e is best,
        }
        for e in epochs
    ]  # fmt: skip
    return epoch_grid(pictures, rows, in_words(epochs, AGREES), *_points(epochs, best, pictures.shape[1]))


def _points(epochs: list[Epoch], best: Epoch | None, captions: int) -> tuple[list[Point], Telling]:
    """For the plot: copies where there are references, otherwise the agreement of the caption that agrees least."""
    copies = any(e.copies is not None for e in epochs)
    numbers = numbers_of(list(dict.fromkeys(e.name for e in epochs)))
    points = [
        Point(
            _short(e, numbers[e.name]),
            e.common,
            _told(e) if copies else None if math.isnan(e.least) else e.least,
            bool(e.leaks(AGREES)),
            e is best,
        )
        for e in epochs
    ]
    if copies:
        return points, Telling(f"share of the {captions} pictures that are copies", captions, None)
    return points, Telling(f"least agreement; below {AGREES:.2g} it leaks", 1.0, AGREES)


def _short(e: Epoch, number: float) -> str:
    """An epoch's number, or its name where it has none."""
    stem = PurePosixPath(e.name.replace("\\", "/")).stem
    return (stem[-8:] if math.isinf(number) else str(int(number))) + ("" if e.strength == 1 else f" x{e.strength:g}")
