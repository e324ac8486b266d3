"""Schema hints that only newer ComfyUI versions know, dropped where unknown. Imports nothing from ComfyUI."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


@functools.cache
def _known(target: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(target).parameters)


def hints(target: Callable[..., Any], **wanted: Any) -> dict[str, Any]:
    """Those of the wanted keyword arguments that the running ComfyUI's `target` accepts.

    Only for hints (search aliases, `advanced`): never for anything that changes behaviour.
    """
    return {k: v for k, v in wanted.items() if k in _known(target)}
