"""Facts out of files: nothing is taken for what it says it is until it was looked at.

A file may come from anybody. What is missing, of another kind, out of range or no number is refused with the file's and the fact's name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

LONGEST = 60
"""Of a value in a message."""


@dataclass(frozen=True)
class Fact:
    """What a value must be."""

    words: str
    holds: Callable[[Any], bool]


def whole(low: int, high: int) -> Fact:
    """A whole number in a range."""
    return Fact(f"a whole number from {low} to {high}", lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high)


def number(low: float, high: float) -> Fact:
    """A finite number in a range."""

    def holds(v: Any) -> bool:
        return isinstance(v, int | float) and not isinstance(v, bool) and low <= v <= high

    return Fact(f"a number from {low:g} to {high:g}", holds)


def text(longest: int = 400) -> Fact:
    """Text that can be written down: no halves of characters."""

    def holds(v: Any) -> bool:
        return isinstance(v, str) and len(v) <= longest and not any("\ud800" <= c <= "\udfff" for c in v)

    return Fact(f"text of at most {longest} letters", holds)


def one_of(options: Collection[str]) -> Fact:
    """One of some words."""
    return Fact("one of " + ", ".join(options), lambda v: isinstance(v, str) and v in options)


def flag() -> Fact:
    """true or false."""
    return Fact("true or false", lambda v: isinstance(v, bool))


def several(each: Fact, least: int, most: int) -> Fact:
    """A list of so many."""
    return Fact(
        f"a list of {least} to {most}, each {each.words}",
        lambda v: isinstance(v, list) and least <= len(v) <= most and all(each.holds(x) for x in v),
    )


def table(each: Fact, most: int = 100_000, needed: tuple[str, ...] = ()) -> Fact:
    """Names and values, at least one, the needed names among them."""
    name = text()

    def holds(v: Any) -> bool:
        return (
            isinstance(v, dict)
            and 0 < len(v) <= most
            and v.keys() >= {*needed}
            and all(name.holds(k) and each.holds(x) for k, x in v.items())
        )

    among = f", with {', '.join(needed)}" if needed else ""
    return Fact(f"names and values{among}, each {each.words}", holds)


SEED = whole(0, 2**64 - 1)
COUNT = whole(1, 10**9)
IDENTITY = table(text(10_000_000), 20, ("architecture", "prediction", "weights", "patches"))
"""Of a model, with what every version noted; compared by `identity.differences`."""
SAMPLING = {"steps": whole(1, 10_000), "cfg": number(-1000, 1000), "sampler_name": text(), "scheduler": text()}


REMEDY = " Get it anew, or measure it anew and save it."


def damaged(file: str, what: str) -> NoReturn:
    """The one error for all of it."""
    raise ValueError(f"{file!r} is damaged: {what}.{REMEDY}")


def checked(file: str, found: dict[str, Any], wanted: dict[str, Fact]) -> dict[str, Any]:
    """The wanted facts of a file, others left out; ValueError that names the file and the fact."""
    for name, fact in wanted.items():
        if name not in found:
            damaged(file, f"the fact {name!r} is missing")
        if not fact.holds(found[name]):
            damaged(file, f"its fact {name!r} is {shortened(found[name])}, not {fact.words}")
    return {name: found[name] for name in wanted}


def shortened(value: Any) -> str:
    """A value as messages show it: what cannot be printed escaped, and not too long."""
    written = repr(value)
    return written if len(written) <= LONGEST else written[: LONGEST - 3] + "..."


def parsed(file: str, written: str) -> Any:
    """JSON of a file; ValueError if it is none, nests too deep, or holds what no number is."""

    def no_number(word: str) -> NoReturn:
        raise ValueError(f"{word} is no number")

    try:
        return json.loads(written, parse_constant=no_number)
    except RecursionError:
        damaged(file, "its facts nest too deep")
    except ValueError as error:
        damaged(file, f"its facts cannot be read ({error})")


FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def tensor(
    file: str, tensors: dict[str, Tensor], name: str, shape: tuple[int | None, ...], dtypes: Collection[torch.dtype] = FLOATS,
    low: float = -math.inf, high: float = math.inf,
) -> Tensor:  # fmt: skip
    """A tensor of a file; None in `shape` is any size but 0. ValueError unless shape, type and range (numbers only) are right."""
    if name not in tensors:
        damaged(file, f"the tensor {name!r} is missing")
    found = tensors[name]
    fits = found.ndim == len(shape) and all(n > 0 if want is None else n == want for n, want in zip(found.shape, shape, strict=True))
    if not fits:
        wanted = " x ".join("any" if want is None else str(want) for want in shape)
        damaged(file, f"its tensor {name!r} has the shape {list(found.shape)}, not {wanted}")
    if found.dtype not in dtypes:
        damaged(file, f"its tensor {name!r} holds {str(found.dtype).removeprefix('torch.')}")
    if found.is_floating_point() and not (torch.isfinite(found).all() and (found >= low).all() and (found <= high).all()):
        between = "" if math.isinf(low) and math.isinf(high) else f" from {low:g} to {high:g}"
        damaged(file, f"its tensor {name!r} holds values that are not numbers{between}")
    return found
