"""Prompts as text, and as the core's CONDITIONING."""

from __future__ import annotations

from typing import Any


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
