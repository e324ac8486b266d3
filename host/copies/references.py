"""Reference pictures: a folder or a batch, what a detector keeps of each, cached by content; memory does not grow with their size."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ..core import files, store
from ..core.files import reason
from .detectors import Detector
from .pictures import Listed, content_hash, hash_of, listed, read

CACHE = "references"
"""Folder of the cache in the pack's user folder."""
KIND = "reference features"

log = logging.getLogger("unmemorize")


@dataclass(frozen=True)
class References:
    """Pictures that others may be copies of, each once."""

    names: list[str]
    hashes: list[str]
    sources: list[Path | Tensor]
    """A file, or a picture [3, h, w] itself."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Name -> why it was left out."""

    @property
    def digest(self) -> str:
        """Of all of them, in any order."""
        return hashlib.sha256("".join(sorted(self.hashes)).encode()).hexdigest()[:16]

    def picture(self, i: int) -> Tensor:
        """[3, h, w]."""
        source = self.sources[i]
        return read(source) if isinstance(source, Path) else source


def gathered(folder: str | None, images: Tensor | None, counted: Callable[[int], Callable[[], None]]) -> References:
    """Of a folder inside ComfyUI's input folder, of a batch, or of both. ValueError if there is neither. `counted`: how many files there
    are -> what is called for each."""
    if folder is None and images is None:
        raise ValueError("There are no references: choose a folder of ComfyUI's input folder, or connect pictures.")
    parts = []
    if folder is not None:
        files_of_it = listed(folder)
        parts.append(of_listed(files_of_it, folder, counted(len(files_of_it.paths))))
    parts += [of_batch(images)] if images is not None else []
    found = together(*parts) if len(parts) > 1 else parts[0]
    if not found.names:
        why = f" ({next(iter(found.left_out.items()))[1]})" if found.left_out else ""
        raise ValueError(f"There are no references: no picture came in that could be one{why}.")
    return found


def of_listed(found: Listed, name: str, tick: Callable[[], None]) -> References:
    """Of files that were listed; `name` of their folder, for messages. ValueError if there is none that can be read."""
    names, hashes, left_out = [], [], dict(found.left_out)
    sources: list[Path | Tensor] = []
    known: dict[str, str] = {}
    for shown, path in found.paths.items():
        tick()
        try:
            digest = content_hash(path)
        except OSError as error:
            left_out[shown] = f"it cannot be read: {reason(error)}"
            continue
        if digest in known:
            left_out[shown] = f"the same picture as {known[digest]}"
            continue
        if not _is_cached(digest):
            try:
                read(path)
            except ValueError as error:
                left_out[shown] = str(error)
                continue
        known[digest] = shown
        names.append(shown)
        hashes.append(digest)
        sources.append(path)
    if not names:
        why = f" ({len(left_out)} left out: {next(iter(left_out.items()))[1].rstrip('.')})" if left_out else ""
        raise ValueError(f"The folder {name!r} holds no picture that can be read{why}. Put pictures into it: PNG, JPEG, WebP ...")
    return References(names, hashes, sources, left_out)


def of_batch(pictures: Tensor) -> References:
    """Of an IMAGE batch [n, h, w, c]; grey ones have one channel."""
    names, hashes, left_out = [], [], {}
    sources: list[Path | Tensor] = []
    known: dict[str, str] = {}
    for i, picture in enumerate(pictures[..., :3].movedim(-1, 1).float().cpu()):
        digest, name = hash_of(picture), f"picture {i}"
        if not picture.isfinite().all():
            left_out[name] = "a broken picture: values that are no numbers"
        elif digest in known:
            left_out[name] = f"the same as {known[digest]}"
        else:
            known[digest] = name
            names.append(name)
            hashes.append(digest)
            sources.append(picture.expand(3, *picture.shape[1:]))
    return References(names, hashes, sources, left_out)


def together(one: References, other: References) -> References:
    """Both, each picture once."""
    new = [i for i, digest in enumerate(other.hashes) if digest not in one.hashes]
    return References(
        one.names + [other.names[i] for i in new],
        one.hashes + [other.hashes[i] for i in new],
        one.sources + [other.sources[i] for i in new],
        one.left_out | other.left_out,
    )


def features(references: References, detector: Detector, tick: Callable[[], None]) -> Tensor:
    """What a detector keeps of every reference, [m, ...], from the cache where it is known; m at least 1. Nothing else stays in memory.

    A reference that the detector cannot take is named among those left out, and has zeros, which nothing is like. ValueError if it can take
    none.
    """
    found: Tensor | None = None
    for i, digest in enumerate(references.hashes):
        tick()
        kept = _cached(digest, detector.name)
        if kept is None or (found is not None and kept.shape != found.shape[1:]):
            kept = _looked_at(references, i, detector)
        if kept is None:
            continue
        if found is None or kept.shape != found.shape[1:]:  # the first; or what the cache had of those before is damaged
            found = kept.new_zeros(len(references.hashes), *kept.shape)
            for k, before in enumerate(_looked_at(references, k, detector) for k in range(i)):
                found[k] = 0 if before is None else before
        found[i] = kept
    if found is None:
        raise ValueError(f"This detector can take none of the references: {list(references.left_out.values())[-1]}")
    return found


def _looked_at(references: References, i: int, detector: Detector) -> Tensor | None:
    """What a detector keeps of a reference, into the cache; None if it cannot take it."""
    try:
        kept = detector.prepare(references.picture(i)[None])[0]
    except ValueError as error:
        references.left_out[references.names[i]] = str(error)
        return None
    _kept(_path(references.hashes[i], detector.name), {"features": kept}, KIND)
    return kept


def _kept(path: Path, tensors: dict[str, Tensor], kind: str) -> None:
    """Into the cache; where nothing can be written, it is made again the next time."""
    try:
        files.replace(path, tensors, store.facts_as_metadata({"kind": kind}))
    except (OSError, ValueError) as error:
        log.warning("%s could not be kept: %s", path.name, error)


CALIBRATION = "calibration of references"


def recalled(name: str) -> Tensor | None:
    """Best matches of references among themselves, if they were remembered; a damaged file is made anew."""
    path = _calibration(name)
    if not os.path.isfile(path):
        return None
    try:
        return store.read(path, CALIBRATION)[0].get("best")
    except ValueError:
        return None


def remember(name: str, best: Tensor) -> None:
    """The same, for the next time."""
    _kept(_calibration(name), {"best": best}, CALIBRATION)


def _calibration(name: str) -> Path:
    return store.user_folder(CACHE) / "calibrations" / f"{name}{files.SUFFIX}"


def _path(digest: str, detector: str) -> Path:
    return store.user_folder(CACHE) / digest[:2] / f"{digest}-{detector}{files.SUFFIX}"


def _is_cached(digest: str) -> bool:
    return any(store.user_folder(CACHE).joinpath(digest[:2]).glob(f"{digest}-*{files.SUFFIX}"))


def _cached(digest: str, detector: str) -> Tensor | None:
    """A damaged file of the cache is made anew."""
    path = _path(digest, detector)
    if not os.path.isfile(path):
        return None
    try:
        tensors, _ = store.read(path, KIND)
    except ValueError:
        return None
    return tensors.get("features")
