"""Runs of equal training time: what a pilot measured decides how long each variant's epochs are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import write_pilot

from distill.config import Config, StudyConfig
from distill.reporting.reading import RunFolder
from distill.studies.matching import Pilot, match_times, measure, pilot_config, scaled, step_seconds, trained_s, without_teacher

TWO = {"dir": "study", "base": "base.yaml", "variants": [{"name": "slow"}, {"name": "fast"}]}


def study(**keys: Any) -> StudyConfig:
    return StudyConfig.model_validate(TWO | keys)


def test_variants_train_as_long_as_the_first_one(tiny_config: Callable[..., Config]) -> None:
    """2 epochs of 4 steps at 3 s are 24 s; at 1 s they are 24 steps, 12 in each epoch."""
    config = tiny_config(optimizer={"warmup_steps": 2})
    matched = match_times(study(), {"slow": config, "fast": config}, {"slow": Pilot({"v1": 3.0}), "fast": Pilot({"v1": 1.0})})
    assert matched["slow"] == config
    assert matched["fast"].data.images_per_epoch == 12 * config.data.batch
    assert matched["fast"].optimizer.warmup_steps == 6
    assert matched["fast"].stages == config.stages


def test_minutes_say_how_long(tiny_config: Callable[..., Config]) -> None:
    """2 epochs in 1 minute at 0.5 s a step: 60 steps in each."""
    matched = match_times(study(minutes=1.0), {"slow": tiny_config()}, {"slow": Pilot({"v1": 0.5})})
    assert matched["slow"].data.images_per_epoch == 60 * tiny_config().data.batch


def test_each_stage_counts_with_its_own_step(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config(stages=[{"name": "a", "epochs": 2}, {"name": "b", "epochs": 1}])
    assert Pilot({"a": 1.0, "b": 10.0}).training_s(config, steps_per_epoch=4) == 2 * 4 * 1 + 4 * 10
    assert Pilot({"a": 1.0, "b": 10.0}, {"a": 0.5, "b": 5.0}).teacher_share(config) == 0.5


def test_an_epoch_has_at_least_one_step(tiny_config: Callable[..., Config]) -> None:
    assert scaled(tiny_config(), 4, 0.01).data.images_per_epoch == tiny_config().data.batch


def run_of(config: Config, rates: list[tuple[str, float]]) -> RunFolder:
    """A run that logged these samples a second, every 5 steps."""
    records = [
        {"kind": "train", "step": 5 * (n + 1), "stage": stage, "images_per_s": rate} for n, (stage, rate) in enumerate(rates)
    ]
    return RunFolder(Path("run"), "run", config, records, 0)


def test_a_step_is_the_median_without_the_first_record_of_a_stage(tiny_config: Callable[..., Config]) -> None:
    run = run_of(tiny_config(), [("a", 1.0), ("a", 8.0), ("a", 16.0), ("a", 2.0), ("b", 0.5), ("b", 4.0)])
    assert step_seconds(run) == {"a": 4 / 8, "b": 4 / 4}  # batches of 4


def test_training_time_leaves_out_what_is_between_the_records(tiny_config: Callable[..., Config]) -> None:
    run = run_of(tiny_config(), [("a", 4.0), ("a", 2.0)])
    run.records.insert(1, {"kind": "val", "step": 5})
    assert trained_s(run) == 5 * 1 + 5 * 2


def test_steps_that_an_interruption_left_unrecorded_count(tiny_config: Callable[..., Config]) -> None:
    """Steps 1 to 5 at 1 s each; stopped at 9, which no record tells of, and resumed; steps 10 to 15 at 1 s each."""
    run = run_of(tiny_config(), [("v1", 4.0), ("v1", 4.0)])
    run.records[1]["step"] = 15
    run.records.insert(1, {"kind": "start", "step": 9})
    assert trained_s(run) == pytest.approx(15)


def test_a_stage_with_a_batch_of_its_own_is_measured_by_it(tiny_config: Callable[..., Config]) -> None:
    """4 steps of 4 samples at 1 s, and 8 of 2 at half a second; twice as long are 8 and 16."""
    stages = [{"name": "a", "epochs": 1}, {"name": "b", "epochs": 1, "batch": 2}]
    optimizer = {"schedule": "multistep", "milestones": [3, 10]}
    config, pilot = tiny_config(stages=stages, optimizer=optimizer), Pilot({"a": 1.0, "b": 0.5}, {"a": 0.5, "b": 0.25})
    run = run_of(config, [("a", 4.0), ("b", 4.0)])
    assert step_seconds(run) == pilot.step_s
    assert trained_s(run) == 5 * 1 + 5 * 0.5
    assert pilot.training_s(config, steps_per_epoch=4) == 4 * 1 + 8 * 0.5
    assert pilot.teacher_share(config) == 0.5
    longer = scaled(config, 4, 2.0)
    assert pilot.training_s(longer, steps_per_epoch=8) == 16
    assert longer.optimizer.milestones == [6, 20]


def test_a_pilot_is_short_and_is_measured_once(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    config, trained = tiny_config(), []

    def train(title: str, pilot: Config) -> None:
        trained.append((title, pilot.teacher.mode))
        write_pilot(pilot, images_per_s=8.0 if pilot.teacher.mode == "none" else 2.0)

    found = measure("online", config, tmp_path, train)
    assert found == Pilot({"v1": 2.0}, {"v1": 0.5})
    assert found.teacher_share(config) == 0.75
    assert trained == [("variant online, pilot", "online"), ("variant online, pilot", "none")]
    assert measure("online", config, tmp_path, train) == found
    assert len(trained) == 2
    measure("online", tiny_config(data={"patch": 48}), tmp_path, train)  # another configuration is measured anew
    assert len(trained) == 4
    assert pilot_config(config, tmp_path).data.images_per_epoch == 30 * config.data.batch


def test_a_run_without_a_teacher_in_the_loop_has_no_share(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config(teacher={"mode": "none"}, stages=[{"name": "v1", "epochs": 1, "kd": 0.0}])
    assert without_teacher(config) is None
    assert Pilot({"v1": 1.0}).teacher_share(config) is None


@pytest.mark.parametrize("kd_alone", [True, False])
def test_without_its_teacher_a_run_learns_from_sharp_images(tiny_config: Callable[..., Config], kd_alone: bool) -> None:
    """So that its step has the same loss but for the teacher's part."""
    config = tiny_config(teacher={"reuse": 2}, stages=[{"name": "v1", "epochs": 1, "l1": 0.0 if kd_alone else 0.5}])
    alone = without_teacher(config)
    assert alone is not None
    assert Config.model_validate(alone.model_dump(mode="json")).stages[0].l1 == (1.0 if kd_alone else 0.5)
