"""Writes what CHANGELOG.md says of the version in pyproject.toml to standard output; exit 1 in words if it says nothing of it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def section(changelog: str, version: str) -> str:
    """The text under a version's heading, which may say more behind it, such as a date; "" if there is none."""
    found = re.search(rf"^## {re.escape(version)}(?![\w.])[^\n]*\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    return found.group(1).strip() if found else ""


if __name__ == "__main__":
    number = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[0]
    text = section((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), number)
    if not text:
        sys.exit(f"CHANGELOG.md says nothing of version {number}: add a heading '## {number}' with what is new.")
    sys.stdout.write(text + "\n")
