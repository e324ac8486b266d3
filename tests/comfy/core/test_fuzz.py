"""A small share of `nox -s fuzz`, in other cases each time the seed is raised: every damaged file is taken, or refused in words."""

from __future__ import annotations

COUNT, SEED = 250, 1


def test_damaged_files_are_taken_or_refused_in_words(nodes):
    from unmemorize_pack.tests.fuzz.run import outcomes

    found = list(outcomes(nodes, COUNT, SEED))
    assert [o for o in found if o.found not in ("taken", "refused")] == []
    assert len({(o.kind, o.found) for o in found}) == 8, "of each kind, some were taken and some refused"
