"""Prompts as text, and as the core's CONDITIONING."""

from __future__ import annotations

from typing import Any


def prompt_list(text: str) -> list[str]:
    """One prompt a line, each once; empty lines and lines that begin with # are skipped."""
    lines = [line.strip() for line in text.splitlines()]
    return list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


def encoded(clip: Any, texts: list[str]) -> list[Any]:
    """A CONDITIONING for each text, as CLIPTextEncode makes it."""
    return [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts]
