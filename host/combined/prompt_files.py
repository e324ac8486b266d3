"""Lists of prompts as people have them: a prompt a line, CSV or JSON Lines with a column of captions."""

from __future__ import annotations

import codecs
import csv
import io
import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import folder_paths

from ..core.files import beneath
from ..core.prompts import prompt_list

KINDS = (".txt", ".csv", ".tsv", ".jsonl", ".json")
COLUMNS = ("caption", "prompt", "text", "captions", "prompts")
"""Of a column with prompts, in this order; upper and lower case alike."""
MOST = 100_000
LONGEST = 4000
"""Letters of a prompt."""
WINDOWS = "cp1252"
SET = "\u2018\u2019\u201c\u201d\u201e\u2026\u2013\u2014\u2022\u2039\u203a\u2122\xa0«»°®©"
"""What word processors set: quotes, dashes, dots; the same in every code page of Latin letters."""
ALIKE = "äöüßéóÄÖÜÉÓ"
"""Letters of which that holds, too."""
WESTERN = "àáâãåæçèêëìíîïñòôõøùúûÿœÀÁÂÃÅÆÇÈÊËÌÍÎÏÑÒÔÕØÙÚÛŒ"
"""Letters that are others in the code pages of the East. Those left out stand there for the commonest Turkish, Czech and Polish ones."""
SELDOM = 20
"""Of so many letters at most one may be such a letter."""

log = logging.getLogger("unmemorize")


def names() -> list[str]:
    """Files of ComfyUI's input folder that may hold prompts."""
    home = Path(folder_paths.get_input_directory())
    found, _ = beneath(home)
    # os.path says no where Path raises: of a file in a folder of somebody else's
    return sorted(p.relative_to(home).as_posix() for p in found if p.suffix.lower() in KINDS and os.path.isfile(p))


def read(name: str) -> list[str]:
    """Prompts of a file inside the input folder, each once, in order; ValueError in plain words if there are none."""
    path = _inside(name)
    if path is None:
        raise ValueError(f"There is no file {name!r} in ComfyUI's input folder.")
    return read_at(path)


def with_those_of(name: str, text: str) -> list[str]:
    """Prompts of a text, one a line, and those of a file; comments alone are no error where the file has prompts."""
    written = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return list(dict.fromkeys([*prompt_list(written), *read(name)]))


def stamp(name: str) -> str:
    """Changes when the file does."""
    path = _inside(name)
    return "missing" if path is None else f"{path.stat().st_mtime_ns}/{path.stat().st_size}"


def _inside(name: str) -> Path | None:
    home = Path(folder_paths.get_input_directory()).resolve()
    try:
        path = (home / name).resolve()
        path.stat()
    except (OSError, RuntimeError, ValueError):  # too long, a loop of links, no name at all
        return None
    return path if path.is_relative_to(home) and path.is_file() else None


def read_at(path: Path) -> list[str]:
    """The same of any file."""
    try:
        text = _decoded(path.read_bytes(), path.name)
    except OSError as error:
        raise ValueError(f"{path.name!r} cannot be read ({error.strerror}).") from error
    found = _prompts(text, path.suffix.lower(), path.name)
    kept = list(dict.fromkeys(p.strip() for p in found if p.strip()))
    longest = max(kept, key=len, default="")
    if len(longest) > LONGEST:
        raise ValueError(f"{path.name!r} holds a prompt of {len(longest)} letters ({longest[:40]!r} ...); at most {LONGEST} are possible.")
    if not kept:
        raise ValueError(f"{path.name!r} holds no prompt. Write one a line, or a table with a column `caption`.")
    if len(kept) > MOST:
        raise ValueError(f"{path.name!r} holds {len(kept)} prompts; at most {MOST} are audited at a time.")
    return kept


def _decoded(found: bytes, name: str) -> str:
    """UTF-8, UTF-16 with its mark, or what Windows programs of the West write, where that is sure; ValueError if it is none of these."""
    encodings = ("utf-16",) if found.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ("utf-8-sig", WINDOWS)
    for encoding in encodings:
        try:
            text = found.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text or (encoding == WINDOWS and not _surely_western(text)):
            break
        if encoding == WINDOWS:
            log.warning("%r is not UTF-8: it was read in the code page of Western Windows. If letters look wrong, save it as UTF-8.", name)
        return text.replace("\r\n", "\n").replace("\r", "\n")
    raise ValueError(
        f"{name!r} is not UTF-8 text, and what else it is cannot be told for sure: its prompts might come out as other letters. "
        'Save it as UTF-8; in Excel that is "CSV UTF-8".'
    )


def _surely_western(text: str) -> bool:
    """Of any bytes that were read in the Western code page: Chinese, Korean and Cyrillic come out as accented letters side by side, Czech
    and Polish as too many of them, or as such that the West has not."""
    odd = [letter for letter in text if not letter.isascii()]
    crowded = re.search(f"[{ALIKE}{WESTERN}]{{2}}", text) is not None
    doubtful = sum(letter in WESTERN for letter in odd)
    return set(odd) <= {*SET, *ALIKE, *WESTERN} and not crowded and doubtful * SELDOM <= sum(letter.isalpha() for letter in text)


def _prompts(text: str, kind: str, name: str) -> list[str]:
    if kind in (".txt", ""):
        return [line for line in text.split("\n") if not line.lstrip().startswith("#")]
    if kind in (".csv", ".tsv"):
        return _of_table(text, "\t" if kind == ".tsv" else _delimiter(text), name)
    try:
        rows = json.loads(text) if kind == ".json" else [json.loads(line) for line in text.split("\n") if line.strip()]
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{name!r} is no {'JSON' if kind == '.json' else 'JSON Lines'}: {error}.") from error
    if not isinstance(rows, list):
        raise ValueError(f"{name!r} is no list of prompts.")
    if all(isinstance(row, str) for row in rows):
        return [str(row) for row in rows]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{name!r} mixes prompts and tables.")
    return [prompt for row in rows if row for prompt in _of_cell(row[_column(list(row), name)], name)]


def _of_cell(value: Any, name: str) -> list[str]:
    """A cell holds a prompt, several, or none."""
    several = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(one, str) for one in several):
        raise ValueError(f"{name!r} has a cell that is no text: {str(value)[:60]}.")
    return several


def _delimiter(text: str) -> str:
    """Of a CSV: what splits its first line into most columns; spreadsheets of many languages write semicolons."""
    head = text.lstrip("\r\n").split("\n", 1)[0][:LONGEST]
    return max(",;\t", key=lambda d: len(next(csv.reader([head], delimiter=d), [])))


def _of_table(text: str, delimiter: str, name: str) -> list[str]:
    try:
        rows = list(csv.DictReader(io.StringIO(text.lstrip("\n"), newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise ValueError(f"{name!r} is no table: {error}. A quote that is never closed?") from error
    odd = next((i for i, row in enumerate(rows, 2) if None in row), None)
    if odd is not None:
        raise ValueError(f"Row {odd} of {name!r} has more cells than the table has columns: put prompts with commas into quotes.")
    return [row[_column(list(rows[0]), name)] or "" for row in rows]


def _column(names: list[str], file: str) -> str:
    by_name = {str(n).strip().lower(): n for n in names}
    found = next((by_name[c] for c in COLUMNS if c in by_name), None)
    if found is None:
        raise ValueError(f"{file!r} has no column of prompts (one of {', '.join(COLUMNS)}); it has {', '.join(map(repr, names[:8]))}.")
    return str(found)
