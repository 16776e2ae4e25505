"""Timings are compared round by round, and what fails costs no other."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import torch

from distill.benchmark.timing import Timing, time_in_turn
from distill.benchmark.workloads import student_forward
from distill.config import Config


def test_a_slow_round_slows_both_and_changes_no_ratio() -> None:
    first, second = Timing(rounds=[4.0, 40.0, 5.0]), Timing(rounds=[2.0, 20.0, 2.0])
    assert first.seconds == 5.0
    assert second.seconds == 2.0
    assert second.times_as_fast_as(first) == 2.0  # 2, 2, 2.5; the medians' ratio is 2.5


def test_what_failed_has_no_time() -> None:
    failed = Timing(failure="killed")
    assert math.isnan(failed.seconds)
    assert math.isnan(failed.times_as_fast_as(Timing(rounds=[1.0])))


def test_a_process_that_dies_is_named_and_left_out(tiny_config: Callable[..., Config]) -> None:
    cpu = torch.device("cpu")
    alive = (student_forward, (tiny_config().student, None, True, False, [1, 32, 32], cpu))
    timings = time_in_turn({"dies": (os._exit, (1,)), "lives": alive}, cpu, rounds=2)  # type: ignore[dict-item]
    assert timings["dies"].failure == "its process was killed; out of memory?"
    lives = timings["lives"]
    assert lives.failure is None
    assert len(lives.rounds) == 2
    assert lives.output is not None
    assert lives.output.shape == (1, 3, 32, 32)
