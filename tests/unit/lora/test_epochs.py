"""Which epoch is suggested: closed forms."""

from __future__ import annotations

import math

from unmemorize_pack.unmemorize.lora.epochs import Epoch, in_words, suggestion

LIMIT = 0.5


def epoch(name, agreements, common, **more):
    return Epoch(name, 1.0, agreements, common, **more)


def test_the_one_that_has_learnt_most_and_leaks_nothing():
    early, middle, late = epoch("1", [0.9, 0.8], 0.3), epoch("2", [0.8, 0.6], 0.7), epoch("3", [0.7, 0.1], 1.0)
    assert suggestion([early, middle, late], LIMIT) is middle
    assert "'2'" in in_words([early, middle, late], LIMIT) and "1 of 3 leak" in in_words([early, middle, late], LIMIT)
    assert suggestion([late], LIMIT) is None and "Every one of them leaks" in in_words([late], LIMIT)


def test_references_have_the_last_word():
    copying, clean = epoch("a", [0.9], 0.9, copies=1), epoch("b", [0.1], 0.5, copies=0)
    assert copying.leaks(LIMIT) and not clean.leaks(LIMIT) and suggestion([copying, clean], LIMIT) is clean


def test_what_references_cannot_tell_is_not_judged():
    """It may be a copy: not suggested, whatever its captions say. One that is surely copied leaks."""
    unclear, clean = epoch("a", [0.9], 0.9, copies=0, unclear=1), epoch("b", [0.9], 0.5, copies=0)
    assert unclear.leaks(LIMIT) is None and epoch("c", [0.9], 0.9, copies=1, unclear=1).leaks(LIMIT) is True
    assert suggestion([unclear, clean], LIMIT) is clean and suggestion([unclear], LIMIT) is None
    assert "no more than different pictures may be" in in_words([unclear], LIMIT)


def test_a_group_of_a_probe_is_a_leak_where_no_references_say_otherwise():
    probed, quiet, known = epoch("a", [0.9], 0.9, groups=1), epoch("b", [0.9], 0.5, groups=0), epoch("c", [0.9], 0.7, groups=2, copies=0)
    assert probed.leaks(LIMIT) and quiet.leaks(LIMIT) is False and known.leaks(LIMIT) is False
    assert epoch("d", [math.nan], 0.0, groups=0).leaks(LIMIT) is None and epoch("e", [0.1], 0.5, groups=0).leaks(LIMIT)


def test_an_epoch_that_changes_nothing_is_not_suggested():
    nothing = epoch("0", [math.nan, math.nan], 0.0)
    assert math.isnan(nothing.least) and nothing.leaks(LIMIT) is None and suggestion([nothing], LIMIT) is None
    assert "change nothing" in in_words([nothing], LIMIT) and "leaks. Train" not in in_words([nothing, epoch("1", [0.1], 0.5)], LIMIT)
