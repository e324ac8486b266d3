"""What tests of verdicts share: a prompt, a short run, and why there is no verdict."""

from __future__ import annotations

from typing import Any

import torch

PROMPT = "a small red ring on a gray background"
STEPS = 10
EMPTY = torch.zeros(1, 8, 8, 8)


def why(record: Any) -> str:
    """The reason why the one picture of a run has no verdict, "" if it has one; score and flag must agree with it."""
    (reason,) = record.facts["not_judged"]
    assert (reason != "") == (record.facts["scores"] == [None]) and (not reason or record.facts["memorized"] == [False])
    return reason
