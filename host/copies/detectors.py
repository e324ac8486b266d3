"""Copy detectors behind one interface: what is kept of a picture, how much two are alike, and where."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Protocol

import comfy.model_management
import torch
import torch.nn.functional as F
from torch import Tensor

from ...unmemorize.copies import matching

CLOSER = 16
"""Best references of a picture that are looked at closely."""
AT_ONCE = 16
"""References that are searched together."""
GROUP = 8
"""Pictures that are searched in together."""
UNLIKE = 0.5
"""Cosine of patches that have nothing in common, where features say where."""
TOGETHER = 8
"""Pictures that a network sees at once."""


class Detector(Protocol):
    """Compares pictures. `name` tells apart what is kept; pictures as alike as `same` are copies of each other for sure, those less alike
    than `least` may be different ones, whatever honest pictures they are compared with."""

    @property
    def name(self) -> str: ...

    @property
    def same(self) -> float: ...

    @property
    def least(self) -> float: ...

    def prepare(self, pictures: Tensor) -> Tensor:
        """What is kept of pictures [n, 3, h, w] in [0, 1], on the CPU, [n, ...]."""

    def compare(self, pictures: Tensor, references: Tensor, tick: Callable[[], None]) -> Tensor:
        """How much each of [n, ...] is like each of [m, ...], both prepared, [n, m]; `tick` is called often, to cancel."""

    def locate(self, picture: Tensor, reference: Tensor) -> Tensor:
        """Which part of a picture [3, h, w] is in a reference [3, H, W], [rows, columns] in [0, 1]."""


class BuiltIn:
    """Patches over scales, shifts and mirror (`unmemorize.copies.matching`): no download, and it says where."""

    name, same = "built-in-2", 0.75
    least = 0.7
    """Of 29,340 pairs of different photographs, one of them edited, the most alike have .63 (`nox -s benchmark -- copies`), of others
    .69."""

    def prepare(self, pictures: Tensor) -> Tensor:
        """Small pictures, uint8 [n, 3, FINE, FINE]."""
        small = F.interpolate(pictures, size=(matching.FINE, matching.FINE), mode="bilinear", antialias=True)
        return (small.clamp(0, 1) * 255).round().to(torch.uint8).cpu()

    def compare(self, pictures: Tensor, references: Tensor, tick: Callable[[], None]) -> Tensor:
        """Roughly with every reference, closely with the best; the others are -inf, not looked at."""
        try:
            rough, places = self._searched(pictures, references, tick, _device())
        except torch.OutOfMemoryError:
            rough, places = self._searched(pictures, references, tick, torch.device("cpu"))
        n, m = rough.shape
        scores = torch.full((n, m), -torch.inf)
        for i in range(n):
            for j in rough[i].topk(min(CLOSER, m)).indices.tolist():
                tick()
                scores[i, j] = self._copy(pictures[i], references[j], places[:, i, j]).score
        return scores

    @staticmethod
    def _searched(pictures: Tensor, references: Tensor, tick: Callable[[], None], device: torch.device) -> tuple[Tensor, Tensor]:
        """How much each is roughly like each, [n, m], and the best place (scale, mirrored, top, left), [4, n, m]."""
        n, m = len(pictures), len(references)
        rough, places = torch.zeros(n, m), torch.zeros(4, n, m)
        for start in range(0, n, GROUP):
            group = [matching.searched(p) for p in _numbers(pictures[start : start + GROUP]).to(device)]
            for at in range(0, m, AT_ONCE):
                refs = matching.references(_numbers(references[at : at + AT_ONCE]).to(device))
                for i, searched in enumerate(group):
                    tick()
                    found = matching.match(searched, refs)
                    rough[start + i, at : at + AT_ONCE] = found.score
                    rows = torch.stack([found.scale, found.mirrored.float(), found.top.float(), found.left.float()])
                    places[:, start + i, at : at + AT_ONCE] = rows
        return rough, places

    def locate(self, picture: Tensor, reference: Tensor) -> Tensor:
        ours, theirs = self.prepare(picture[None])[0], self.prepare(reference[None])[0]
        found = matching.match(matching.searched(_numbers(ours)), matching.references(_numbers(theirs)[None]))
        place = torch.stack([found.scale, found.mirrored.float(), found.top.float(), found.left.float()])[:, 0]
        return self._copy(ours, theirs, place).in_picture

    @staticmethod
    def _copy(picture: Tensor, ref: Tensor, place: Tensor) -> matching.Copy:
        scale, mirrored, top, left = place.tolist()
        return matching.looked_at(_numbers(picture), _numbers(ref), scale, bool(mirrored), int(top), int(left))


def _device() -> torch.device:
    """Where all references are searched: on the GPU where there is one. The closer look is many small steps, and stays on the CPU."""
    found = comfy.model_management.get_torch_device()
    return found if found.type == "cuda" else torch.device("cpu")


def _numbers(small: Tensor) -> Tensor:
    return small.float() / 255


class Features:
    """A network's features, compared by cosine; of a reference the mirror image too."""

    least = -1.0
    """Nothing is known of networks in general."""

    def __init__(self, name: str, same: float, encode: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        """`encode`: pictures [n, 3, h, w] -> features [n, d] and those of their patches [n, rows, columns, d]."""
        self.name, self.same, self._encode = name, same, encode

    def prepare(self, pictures: Tensor) -> Tensor:
        """Of each picture and of its mirror image, unit length, [n, 2, d]."""
        return torch.cat([
            torch.stack([F.normalize(self._encode(p)[0].float(), dim=-1).cpu() for p in (part, part.flip(-1))], 1)
            for part in pictures.split(TOGETHER)
        ])  # fmt: skip

    def compare(self, pictures: Tensor, references: Tensor, tick: Callable[[], None]) -> Tensor:
        tick()
        found = torch.maximum(pictures[:, 0] @ references[:, 0].T, pictures[:, 0] @ references[:, 1].T)
        return found.masked_fill((references.flatten(1) == 0).all(1)[None], -1.0)  # one that could not be taken

    def locate(self, picture: Tensor, reference: Tensor) -> Tensor:
        """Patches that some patch of the reference, or of its mirror image, is like."""
        ours = F.normalize(self._encode(picture[None])[1][0].float(), dim=-1)
        theirs = F.normalize(
            torch.cat([self._encode(r[None])[1][0].flatten(0, 1) for r in (reference, reference.flip(-1))]).float(), dim=-1
        )
        best = (ours.flatten(0, 1) @ theirs.T).max(1).values
        return ((best - UNLIKE) / (1 - UNLIKE)).clamp(0, 1).view(ours.shape[:2])


def of_clip_vision(model: Any) -> Features:
    """Any CLIP_VISION of ComfyUI's: the picture's embedding, and the last layer's patches."""

    def encode(pictures: Tensor) -> tuple[Tensor, Tensor]:
        out = model.encode_image(pictures.movedim(1, -1), crop=False)
        tokens = out["last_hidden_state"]
        embeds = out["image_embeds"]
        side = int(tokens.shape[1] ** 0.5)
        patches = tokens[:, -side * side :].reshape(len(tokens), side, side, -1)
        return (tokens.mean(1) if embeds is None else embeds.flatten(1)), patches

    state = model.model.state_dict()
    digest = hashlib.sha256()
    for key in sorted(state)[:: max(1, len(state) // 32)]:
        digest.update(key.encode() + state[key].detach().flatten()[:8].float().cpu().numpy().tobytes())
    return Features(f"clip-vision-{digest.hexdigest()[:16]}", 0.97, encode)
