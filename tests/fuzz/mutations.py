"""Ways in which a safetensors file goes wrong: tensors, facts, header, bytes. Everything follows from a `random.Random`."""

from __future__ import annotations

import copy
import json
import math
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WIDTHS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F4": 0.5, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "C64": 8,
}  # fmt: skip
SPECIAL = {"F32": "<f", "F64": "<d", "F16": "<e"}
NUMBERS = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-45, 3e38, -3e38, 65504.0, 1.0, -1.0]
SIDES = [0, 1, 2, 3, 7, 64, 4096, 2**31, 2**63 - 1, 2**64 - 1]
VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 1.5, 1e308, 10**400, math.nan, math.inf, "", "x", "7", "NaN", "\u202e", "\ud800",
    "<img src=x onerror=alert(1)>", [], {}, [1], [[]], {"a": 1}, "x" * 100_000, "../../evil", "a\x00b",
]  # fmt: skip
NAMES = [
    "",
    ".",
    "..",
    "../../evil",
    "a\nb",
    "\u202egnp",
    "x" * 3000,
    "\x00",
    "a.alpha",
    "\ud800",
    "__metadata__",
    "lora_unet_.lora_up.weight",
]
ENDS = [
    "lora_up.weight", "lora_down.weight", "lora_mid.weight", "alpha", "dora_scale", "diff", "diff_b", "hada_w1_a", "hada_w2_b", "lokr_w1",
    "lokr_w2_a", "reshape_weight", "w_norm", "b_norm", "set_weight", "oft_blocks", "lora_A.weight", "lora_B.weight",
]  # fmt: skip


@dataclass
class Part:
    """A tensor of a file: as its header describes it, and its bytes."""

    name: str
    dtype: str
    shape: list[int]
    data: bytes

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass
class File:
    """A safetensors file in pieces."""

    metadata: dict[str, Any] | None
    parts: list[Part]


def parsed(raw: bytes) -> File:
    """The pieces of a good file."""
    (length,) = struct.unpack("<Q", raw[:8])
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    metadata = header.pop("__metadata__", None)
    parts = [Part(k, v["dtype"], list(v["shape"]), data[v["data_offsets"][0] : v["data_offsets"][1]]) for k, v in header.items()]
    return File(metadata, parts)


def built(file: File) -> bytes:
    """The file of these pieces, whether they fit together or not; names may occur twice."""
    items, at = [], 0
    if file.metadata is not None:
        items.append('"__metadata__":' + json.dumps(file.metadata))
    for part in file.parts:
        described = {"dtype": part.dtype, "shape": part.shape, "data_offsets": [at, at + len(part.data)]}
        items.append(json.dumps(part.name) + ":" + json.dumps(described))
        at += len(part.data)
    header = ("{" + ",".join(items) + "}").encode("utf-8", "surrogatepass")
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + b"".join(p.data for p in file.parts)


def numbers(dice: random.Random, dtype: str, count: int) -> bytes:
    """Bytes of a tensor: one special number everywhere, or noise."""
    count = min(count, 1 << 16)
    pattern = SPECIAL.get(dtype)
    if pattern is None or dice.random() < 0.4:
        return dice.randbytes(math.ceil(count * WIDTHS.get(dtype, 1)))
    value = dice.choice(NUMBERS)
    try:
        return struct.pack(pattern, value) * count
    except OverflowError:
        return struct.pack(pattern, math.inf) * count


def change_tensors(file: File, dice: random.Random) -> str:
    """One to three changes of tensors, names, types, shapes, numbers."""
    done = []
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        if not file.parts:
            break
        name, change = dice.choice(list(TENSOR_CHANGES.items()))
        change(file, dice.choice(file.parts), dice)
        done.append(name)
    return "+".join(done)


def _type(file: File, part: Part, dice: random.Random) -> None:
    part.dtype = dice.choice([*WIDTHS, "XX", ""])


def _converted(file: File, part: Part, dice: random.Random) -> None:
    dtype = dice.choice(list(WIDTHS))
    for each in file.parts if dice.random() < 0.3 else [part]:
        each.dtype, each.data = dtype, numbers(dice, dtype, each.count)


def _sides(file: File, part: Part, dice: random.Random) -> None:
    part.shape = [dice.choice(SIDES) for _ in range(dice.randrange(5))]


def _side(file: File, part: Part, dice: random.Random) -> None:
    if part.shape:
        part.shape[dice.randrange(len(part.shape))] += dice.choice((-1, 1, 3))
        part.shape = [max(s, 0) for s in part.shape]
        part.data = numbers(dice, part.dtype, part.count)


def _dims(file: File, part: Part, dice: random.Random) -> None:
    part.shape = dice.choice(([*part.shape, 1, 1], [1, *part.shape], part.shape[::-1], [part.count], []))
    part.data = part.data if part.shape else part.data[: int(WIDTHS.get(part.dtype, 1))]


def _empty(file: File, part: Part, dice: random.Random) -> None:
    part.shape, part.data = [0, *part.shape[1:]], b""


def _values(file: File, part: Part, dice: random.Random) -> None:
    part.data = numbers(dice, part.dtype, part.count)


def _few_values(file: File, part: Part, dice: random.Random) -> None:
    data = bytearray(part.data)
    if len(data) >= 2:
        at = dice.randrange(len(data) // 2) * 2
        data[at : at + 2] = dice.choice((b"\x00\x7c", b"\x00\x7e", b"\xff\x7b", b"\xff\xff"))
    part.data = bytes(data)


def _rename(file: File, part: Part, dice: random.Random) -> None:
    stem = dice.choice(file.parts).name.rsplit(".", 2)[0]
    part.name = dice.choice((f"{stem}.{dice.choice(ENDS)}", dice.choice(NAMES), f"{dice.choice(NAMES)}.{dice.choice(ENDS)}"))


def _swap(file: File, part: Part, dice: random.Random) -> None:
    other = dice.choice(file.parts)
    part.name, other.name = other.name, part.name


def _alpha(file: File, part: Part, dice: random.Random) -> None:
    value = dice.choice(([], [3], [1, 1], [0]))
    file.parts.append(Part(part.name.split(".")[0] + ".alpha", "F32", value, numbers(dice, "F32", math.prod(value))))


TENSOR_CHANGES: dict[str, Callable[[File, Part, random.Random], None]] = {
    "drop": lambda file, part, dice: file.parts.remove(part),
    "twice": lambda file, part, dice: file.parts.append(copy.copy(part)),
    "type": _type, "converted": _converted, "sides": _sides, "side": _side, "dims": _dims, "empty": _empty, "values": _values,
    "few values": _few_values, "rename": _rename, "swap": _swap, "alpha": _alpha,
}  # fmt: skip


def changed_json(value: Any, dice: random.Random) -> Any:
    """A value of JSON with one place changed."""
    if isinstance(value, dict) and value:
        key = dice.choice(list(value))
        if dice.random() < 0.25:
            return {k: v for k, v in value.items() if k != key}
        deeper = isinstance(value[key], dict | list) and dice.random() < 0.6
        return {**value, key: changed_json(value[key], dice) if deeper else dice.choice(VALUES)}
    if isinstance(value, list) and value:
        at, how = dice.randrange(len(value)), dice.random()
        if how < 0.3:
            return value[:at] + value[at + 1 :]
        if how < 0.6:
            return [*value, dice.choice(VALUES)]
        return [*value[:at], changed_json(value[at], dice), *value[at + 1 :]]
    return dice.choice(VALUES)


def change_facts(file: File, dice: random.Random) -> str:
    """The JSON of ours among the metadata: a place changed, or all of it replaced."""
    metadata = file.metadata = dict(file.metadata or {})
    key = dice.choice([k for k in metadata if k.startswith("unmemorize")] or ["unmemorize_baf"])
    text = metadata.get(key, "{}")
    if dice.random() < 0.3:
        metadata[key] = dice.choice(
            ("", "null", "[]", "{", "[" * 60_000, '{"a":' * 30_000 + "1" + "}" * 30_000, text + "x", text.replace(":", ": NaN,", 1))
        )
        return "facts: text"
    found = json.loads(text)
    for _ in range(dice.choice((1, 1, 2, 4))):
        found = changed_json(found, dice)
    metadata[key] = json.dumps(found)
    return "facts"


def change_bytes(raw: bytes, dice: random.Random) -> tuple[bytes, str]:
    """The file cut off, or bytes of its header or data changed, or its length wrong."""
    data = bytearray(raw)
    (length,) = struct.unpack("<Q", raw[:8])
    how = dice.choice(("cut", "header", "data", "length", "more"))
    if how == "cut":
        return raw[: dice.choice((0, 1, 7, 8, 9, 8 + length - 1, 8 + length, len(raw) - 1, dice.randrange(len(raw))))], how
    if how == "length":
        data[:8] = struct.pack("<Q", dice.choice((0, 1, 2**63, 2**64 - 1, 10**8, length - 1, length + 1, 2 * len(raw))))
    elif how == "more":
        data += dice.randbytes(100)
    else:
        for _ in range(dice.choice((1, 2, 5))):
            at = 8 + dice.randrange(length) if how == "header" else dice.randrange(len(data))
            data[at] = dice.choice((dice.randrange(256), dice.choice(b'0123456789"{}[],:')))
    return bytes(data), how


def mutated(good: bytes, dice: random.Random, most: int = 24) -> tuple[bytes, str]:
    """A damaged copy of a good file, and what was done to it; of many tensors a few are kept, for speed."""
    file = parsed(good)
    if len(file.parts) > most and dice.random() < 0.9:
        stems = sorted({p.name.split(".")[0] for p in file.parts})
        kept = set(dice.sample(stems, min(len(stems), dice.choice((1, 2, 4)))))
        file.parts = [p for p in file.parts if p.name.split(".")[0] in kept]
    how = dice.random()
    if how < 0.5:
        what = change_tensors(file, dice)
        return built(file), what
    if how < 0.8:
        what = change_facts(file, dice)
        return built(file), what
    return change_bytes(built(file), dice)
