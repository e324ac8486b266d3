"""Methods as hooks on a MODEL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

OURS = "unmemorize_hook"
"""Attribute of the functions made here."""


def as_function(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method as a plain function, for a MODEL's options and wrappers.

    Every further clone of the MODEL deep-copies its options. Functions stay what they are; of a bound method the object is copied too,
    and what it notes would never reach whoever waits for it.
    """

    def call(*arguments: Any, **more: Any) -> Any:
        return method(*arguments, **more)

    setattr(call, OURS, True)
    return call


def is_ours(function: Any) -> bool:
    """Was it made by `as_function`?"""
    return getattr(function, OURS, False) is True
