"""Raw rows of a sweep, one JSON line a trial, kept as they come: a sweep that was stopped carries on."""

from __future__ import annotations

import json
from typing import Any

from .common import ROOT


class Rows:
    """benchmarks/results/sweeps/NAME.jsonl"""

    def __init__(self, sweep: str, name: str | None) -> None:
        self.path = ROOT / "benchmarks" / "results" / "sweeps" / f"{name or sweep}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self._done = {json.loads(line)["trial"] for line in lines}
        self.last: dict[str, Any] = {}

    def has(self, trial: str) -> bool:
        """Was this trial made already?"""
        return trial in self._done

    def all(self) -> dict[str, dict[str, Any]]:
        """Every trial made so far, by name."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        return {facts.pop("trial"): facts for facts in map(json.loads, lines)}

    def add(self, trial: str, facts: dict[str, Any]) -> None:
        """Keep a trial."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"trial": trial, **facts}) + "\n")
        self._done.add(trial)
        self.last = facts
