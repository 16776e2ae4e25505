"""Where epochs and stages end, that a step of another size loses no sample, and the learning rate of each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LRScheduler, MultiStepLR

from distill.config import Config, ConfigError, OptimizerConfig
from distill.training.plan import Load, Plan, Stretch, learning_rate

STAGES = [{"name": "a", "epochs": 2}, {"name": "b", "epochs": 1}]


@pytest.fixture
def planned(tiny_config: Callable[..., Config]) -> Callable[..., Plan]:
    """`planned(80, 16)`: of two stages with 80 samples an epoch, 16 a step."""

    def make(
        images: int,
        batch: int,
        before: Stretch | None = None,
        step: int = 0,
        stages: list[dict[str, Any]] | None = None,
        reuse: int = 1,
    ) -> Plan:
        config = tiny_config(data={"batch": batch}, stages=stages or STAGES, teacher={"reuse": reuse})
        return Plan.of(config, images, before, step)

    return make


def ends_of(plan: Plan, kind: Callable[[int], bool], first: int = 0) -> list[int]:
    return [step for step in range(first + 1, plan.total_steps + 1) if kind(step)]


def test_the_plan_of_two_stages(planned: Callable[..., Plan]) -> None:
    plan = planned(80, 8)
    assert plan.total_steps == 30
    assert [plan.stage_at(step).name for step in (0, 19, 20, 29)] == ["a", "a", "b", "b"]
    assert ends_of(plan, plan.ends_stage) == [20, 30]
    assert ends_of(plan, lambda step: plan.validates(step, every_epochs=2)) == [20, 30]


@pytest.mark.parametrize(("step", "ends"), [(10, [15, 20]), (5, [7, 12, 17]), (19, [20, 25]), (30, [])])
def test_twice_the_batch_takes_half_the_steps_for_what_is_left(planned: Callable[..., Plan], step: int, ends: list[int]) -> None:
    """Half an epoch is 2.5 steps, rounded to even; the last step of an epoch stays one, however small."""
    before = planned(80, 8)
    plan = planned(80, 16, before.at(step), step)
    assert ends_of(plan, plan.ends_epoch, step) == ends
    assert plan.epoch_at(step) == before.epoch_at(step)
    if ends:
        assert plan.at(step).position_at(step) == 8 * step
        assert plan.at(step).position_at(step + 3) == 8 * step + 48


def test_a_plan_that_changes_twice_goes_on_from_the_second_change(planned: Callable[..., Plan]) -> None:
    second = planned(80, 4, planned(80, 8).at(5), 5)
    plan = planned(80, 16, second.at(9), 9)
    assert plan.at(9).position_at(9) == 5 * 8 + 4 * 4
    assert plan.epoch_at(9) == 0
    assert ends_of(plan, plan.ends_stage, 9) == [16, 21]  # 24 of 80 images are left of the epoch


@pytest.mark.parametrize("step", [0, 7, 20, 30])
def test_the_same_sizes_are_the_same_plan(planned: Callable[..., Plan], step: int) -> None:
    plan = planned(80, 8)
    assert planned(80, 8, Stretch(**asdict(plan.at(step))), step) == plan


# A stage with a patch and a batch of its own


PROGRESSIVE = [
    {"name": "small", "epochs": 2},
    {"name": "same", "epochs": 1},
    {"name": "large", "epochs": 2, "patch": 64, "batch": 4},
    {"name": "larger", "epochs": 1, "patch": 128, "batch": 4},
]


def test_each_stage_has_steps_of_its_size(planned: Callable[..., Plan]) -> None:
    """80 samples are 10 steps of 8, and 20 of 4. Each begins in the stream where the last ended."""
    plan = planned(80, 8, stages=PROGRESSIVE)
    assert ends_of(plan, plan.ends_stage) == [20, 30, 70, 90]
    assert [plan.stage_at(step).name for step in (29, 30, 69, 70)] == ["same", "large", "large", "larger"]
    assert plan.loads_from(0) == [Load(0, 30, 8, 32), Load(240, 40, 4, 64), Load(400, 20, 4, 128)]
    assert plan.loads_from(69) == [Load(396, 1, 4, 64), Load(400, 20, 4, 128)]
    assert plan.loads_from(90) == []


@pytest.mark.parametrize("step", [0, 5, 20, 29, 30, 31, 69, 70, 90])
@pytest.mark.parametrize("reuse", [1, 3])
def test_a_resumed_plan_is_the_rest_of_the_whole(planned: Callable[..., Plan], step: int, reuse: int) -> None:
    whole = planned(80, 8, stages=PROGRESSIVE, reuse=reuse)
    rest = planned(80, 8, whole.at(step), step, PROGRESSIVE, reuse)
    assert rest.total_steps == whole.total_steps
    for later in range(step, whole.total_steps):
        assert rest.at(later) == whole.at(later)
        assert rest.repeats_from(later) == whole.repeats_from(later)
    assert rest.loads_from(step) == whole.loads_from(step)


def test_a_group_ends_where_patches_change(planned: Callable[..., Plan]) -> None:
    """Groups of 7 steps. The third, 14 to 20, goes on in the next stage, whose steps are of the same size. The fifth begins at
    step 28 and ends at 30, where patches change. Its samples do not come again."""
    plan = planned(80, 8, stages=PROGRESSIVE, reuse=7)
    assert [list(plan.repeats_from(step)) for step in (19, 28, 30)] == [[5, 6], [0, 1], [0, 1, 2, 3, 4, 5, 6]]
    assert plan.loads_from(0)[:2] == [Load(0, 5, 8, 32), Load(40, 6, 4, 64)]


# The learning rate


def rates_of(scheduler: Callable[[torch.optim.Optimizer], LRScheduler], steps: int) -> list[float]:
    """Those that torch gives."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=3e-4)
    schedule, rates = scheduler(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_milestones_are_torchs() -> None:
    expected = rates_of(lambda optimizer: MultiStepLR(optimizer, [3, 4, 20], gamma=0.3), 30)
    config = OptimizerConfig(lr=3e-4, schedule="multistep", milestones=[3, 4, 20], gamma=0.3)
    # torch multiplies step by step, and rounds each time
    assert [learning_rate(config, step, 30) for step in range(30)] == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0, 5])
def test_warm_restarts_are_torchs(factor: int, warmup: int) -> None:
    expected = rates_of(lambda optimizer: CosineAnnealingWarmRestarts(optimizer, 7, factor, eta_min=1e-6), 100)
    keys = {"restart_steps": 7, "restart_factor": factor, "lr_min": 1e-6, "warmup_steps": warmup}
    config = OptimizerConfig(lr=3e-4, schedule="cosine_restarts", **keys)
    found = [learning_rate(config, step, 10**6) for step in range(100 + warmup)]
    assert found[warmup:] == pytest.approx(expected, rel=1e-12)
    assert found[:warmup] == pytest.approx([3e-4 * (step + 1) / 5 for step in range(warmup)])


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_stage_brings_its_own_rate_to_the_schedule(schedule: Any) -> None:
    config, other = (OptimizerConfig(lr=lr, schedule=schedule, warmup_steps=4) for lr in (1e-4, 3e-5))
    for step in (0, 2, 4, 50, 99):
        assert learning_rate(config, step, 100, 3e-5) == learning_rate(other, step, 100)


def test_a_cosine_ends_at_the_lowest_rate() -> None:
    config = OptimizerConfig(lr=1.0, schedule="cosine", lr_min=0.2)
    assert [learning_rate(config, step, 100) for step in (0, 50, 100)] == pytest.approx([1.0, 0.6, 0.2])


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"schedule": "multistep"}, "schedule: multistep needs milestones"),
        ({"schedule": "cosine_restarts"}, "schedule: cosine_restarts needs restart_steps"),
        ({"lr_min": 1e-5}, "lr_min: 1e-05 does nothing with schedule: constant"),
        ({"milestones": [5]}, "milestones: .* does nothing with schedule: constant"),
        ({"schedule": "cosine", "gamma": 0.5}, "gamma: 0.5 does nothing with schedule: cosine; give schedule: multistep"),
        ({"restart_factor": 2}, "restart_factor: 2 does nothing with schedule: constant; give schedule: cosine_restarts"),
        ({"schedule": "multistep", "milestones": [5, 3]}, "not in ascending order"),
        ({"schedule": "cosine", "lr_min": 1.0}, "optimizer.lr_min: 1 is above optimizer.lr: 0.001"),
        ({"schedule": "cosine", "lr_min": 5e-5}, "optimizer.lr_min: 5e-05 is above stages.1.lr: 1e-05"),
        ({"accumulate": 4}, "accumulate: 4 does not divide stages.1.batch: 2"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    tiny_config: Callable[..., Config], optimizer: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(optimizer=optimizer, stages=[STAGES[0], STAGES[1] | {"lr": 1e-5, "batch": 2}])
