"""Rewrites the generated tables of README.md: `nox -s readme`.

A table stands between `<!-- generated: NAME -->` and `<!-- end -->`; everything else is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from . import measured, tested

README = Path(__file__).resolve().parents[1] / "README.md"
TABLES: dict[str, Callable[[], str]] = {
    "results": measured.measured,
    "models": tested.models,
    "samplers": tested.samplers,
    "adapters": tested.adapters,
    "spellings": tested.spellings,
}
REGION = re.compile(r"(<!-- generated: (\w+) -->\n)(.*?)(<!-- end -->)", re.S)


def regions(text: str) -> dict[str, str]:
    """What stands in each generated region."""
    return {name: body for _, name, body, _ in REGION.findall(text)}


def rewritten(text: str) -> str:
    """The README with every generated region made anew; LookupError where a region is missing or unknown."""
    if sorted(regions(text)) != sorted(TABLES):
        raise LookupError(f"README.md has the regions {sorted(regions(text))}, there are tables for {sorted(TABLES)}")
    return REGION.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n\n{found[4]}", text)


def main() -> None:
    """`nox -s readme`."""
    README.write_text(rewritten(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
