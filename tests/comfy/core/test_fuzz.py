"""A small share of `nox -s fuzz`, in other cases each time the seed is raised: every damaged file is taken, or refused in words."""

from __future__ import annotations

import time
from pathlib import Path

COUNT, SEED = 250, 1


def test_damaged_files_are_taken_or_refused_in_words(nodes):
    from unmemorize_pack.tests.fuzz.run import outcomes

    found = list(outcomes(nodes, COUNT, SEED))
    assert [o for o in found if o.found not in ("taken", "refused")] == []
    assert len({(o.kind, o.found) for o in found}) == 8, "of each kind, some were taken and some refused"


def test_a_case_that_never_ends_is_told_from_a_busy_machine(nodes, monkeypatch):
    from unmemorize_pack.tests.fuzz import run

    def spin() -> None:
        end = time.process_time() + 5  # much longer than its patience, so that a lost alarm is seen
        while time.process_time() < end:
            pass

    monkeypatch.setattr(run, "PATIENCE", 0.2)
    assert run.attempt(spin, Path("/nowhere"))[0] == "hang"
    assert run.attempt(lambda: time.sleep(0.5), Path("/nowhere"))[0] == "taken"
    monkeypatch.setattr(run, "LONG_PATIENCE", 1)
    assert run.attempt(lambda: time.sleep(30), Path("/nowhere"))[0] == "hang"
