"""Timings are compared round by round."""

from __future__ import annotations

import math

from distill.engine.probe import Timing


def test_a_slow_round_slows_both_and_changes_no_ratio() -> None:
    first, second = Timing(rounds=[4.0, 40.0, 5.0]), Timing(rounds=[2.0, 20.0, 2.0])
    assert first.seconds == 5.0
    assert second.seconds == 2.0
    assert second.times_as_fast_as(first) == 2.0  # 2, 2, 2.5; the medians' ratio is 2.5


def test_what_failed_has_no_time() -> None:
    failed = Timing(failure="killed")
    assert math.isnan(failed.seconds)
    assert math.isnan(failed.times_as_fast_as(Timing(rounds=[1.0])))
