"""Where epochs and stages end, and that a step of another size loses no sample."""

from __future__ import annotations

import pytest

from distill.config import StageConfig
from distill.training.plan import Plan

STAGES = [StageConfig(name="a", epochs=2), StageConfig(name="b", epochs=1)]


def test_the_plan_of_two_stages() -> None:
    plan = Plan(STAGES, steps_per_epoch=10, batch=8)
    assert plan.total_steps == 30
    assert [plan.stage_at(step).name for step in (0, 19, 20, 29)] == ["a", "a", "b", "b"]
    assert [step for step in range(1, 31) if plan.ends_stage(step)] == [20, 30]
    assert [step for step in range(1, 31) if plan.validates(step, every_epochs=2)] == [20, 30]


@pytest.mark.parametrize(("step", "ends"), [(10, [15, 20]), (5, [7, 12, 17]), (19, [20, 25]), (30, [])])
def test_twice_the_batch_takes_half_the_steps_for_what_is_left(step: int, ends: list[int]) -> None:
    """Half an epoch is 2.5 steps, rounded to even; the last step of an epoch stays one, however small."""
    before = Plan(STAGES, steps_per_epoch=10, batch=8)
    plan = before.changed(step, steps_per_epoch=5, batch=16)
    assert [s for s in range(step + 1, plan.total_steps + 1) if plan.ends_epoch(s)] == ends
    assert plan.epoch_at(step) == before.epoch_at(step)
    assert plan.position_at(step) == before.position_at(step) == 8 * step
    assert plan.position_at(step + 3) == 8 * step + 48


def test_a_plan_that_changes_twice_goes_on_from_the_second_change() -> None:
    plan = Plan(STAGES, 10, 8).changed(5, 20, 4).changed(9, 5, 16)
    assert plan.position_at(9) == 5 * 8 + 4 * 4
    assert plan.epoch_at(9) == 0
    assert [s for s in range(10, plan.total_steps + 1) if plan.ends_stage(s)] == [16, 21]  # 24 of 80 images are left of the epoch


def test_the_same_sizes_are_the_same_plan() -> None:
    plan = Plan(STAGES, 10, 8)
    assert plan.changed(7, 10, 8) is plan
    assert Plan(stages=STAGES, **plan.as_dict()) == plan
