"""Progress bar and cancel for work that takes longer than a second."""

from __future__ import annotations

import time

import comfy.model_management
import comfy.utils

UPDATE_SECONDS = 0.1
"""At most ten messages a second: ComfyUI 0.3.75 sends every update over the websocket."""


class Progress:
    """Counts finished units; every `advance` also raises ComfyUI's interrupt when the user pressed Cancel."""

    def __init__(self, total: int) -> None:
        self._bar = comfy.utils.ProgressBar(total)
        self._total = total
        self._done = 0
        self._shown = 0.0

    def check(self) -> None:
        """Raise ComfyUI's interrupt when the user pressed Cancel; for work that is not counted."""
        comfy.model_management.throw_exception_if_processing_interrupted()

    def advance(self, units: int = 1) -> None:
        """Call once per model evaluation or matrix."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._done += units
        now = time.monotonic()
        if now - self._shown >= UPDATE_SECONDS or self._done >= self._total:
            self._bar.update_absolute(self._done)
            self._shown = now
