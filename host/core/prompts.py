"""Prompts as text, and as the core's CONDITIONING."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor


def prompt_list(text: str) -> list[str]:
    """One prompt a line, each once; empty lines and lines that begin with # are skipped. ValueError if there is text, but no prompt."""
    lines = [line.strip() for line in text.splitlines()]
    found = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if any(lines) and not found:
        raise ValueError("All lines of the prompts begin with #: they are comments, and no prompt is left. Write prompts, one a line.")
    return found


def encoded(clip: Any, texts: list[str]) -> list[Any]:
    """A CONDITIONING for each text, as CLIPTextEncode makes it."""
    return [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts]


def guidance_of(conditioning: Any) -> float | None:
    """The distilled guidance that FluxGuidance has put into a CONDITIONING."""
    return next((facts["guidance"] for _, facts in conditioning if facts.get("guidance") is not None), None)


def told_as(conditioning: Any, other: Any) -> Any:
    """A CONDITIONING with the distilled guidance of another, where that has one of its own."""
    guidance = guidance_of(other)
    return conditioning if guidance is None else [[words, {"guidance": guidance, **facts}] for words, facts in conditioning]


def digest_of(conditioning: Any) -> str:
    """Of a CONDITIONING: its embeddings, tensors and numbers beside them (a strength, a range of steps, an area); the same words through
    another text encoder have another."""
    digest = hashlib.sha256()
    for embedding, facts in conditioning:
        for name, value in [("", embedding), *sorted(facts.items(), key=lambda item: str(item[0]))]:
            if isinstance(value, Tensor):
                digest.update(f"{name}{tuple(value.shape)}".encode() + value.detach().float().cpu().contiguous().numpy().tobytes())
            elif isinstance(value, bool | int | float | str | tuple):
                digest.update(f"{name}={value!r}".encode())
    return digest.hexdigest()[:16]
