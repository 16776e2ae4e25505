"""Numbers that go wrong in a run, by hooks on its networks: what is skipped, named and mended, and when the run gives up."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from running import StopAt, checkpoint, records, same_bits
from torch import nn

from distill import train as train_command
from distill.command import Interrupted
from distill.config import Config
from distill.networks.teacher import Teacher
from distill.train import train
from distill.training import build as run_building
from distill.training.update import DivergedError

BATCH = 4


@pytest.fixture
def student_fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[int]], list[list[str]]]:
    """`student_fails({3, 4})` makes the student's third and fourth training images NaN; returns the names of the batches, as they
    come."""

    def install(calls: set[int]) -> list[list[str]]:
        build, prepare = run_building.build_student, train_command.make_images
        count, batches = itertools.count(1), []

        def fail(student: nn.Module, _: Any, image: torch.Tensor) -> torch.Tensor | None:
            return image * math.nan if student.training and next(count) in calls else None

        def hooked(*arguments: Any) -> nn.Module:
            student = build(*arguments)
            student.register_forward_hook(fail)
            return student

        def watched(batch: Any, *rest: Any) -> Any:
            batches.append(batch.names)
            return prepare(batch, *rest)

        monkeypatch.setattr(run_building, "build_student", hooked)
        monkeypatch.setattr(train_command, "make_images", watched)
        return batches

    return install


def test_a_bad_update_is_rejected_counted_and_its_images_named(
    tiny_config: Callable[..., Config], student_fails: Callable[[set[int]], list[list[str]]], capfd: pytest.CaptureFixture[str]
) -> None:
    batches = student_fails({3, 6})
    config = tiny_config(run={"log_steps": 4})
    train(config)
    lines = records(config.run.dir, "train")
    assert [line["rejected_updates"] for line in lines] == [1, 1]
    assert [line["rejected_images"] for line in lines] == [batches[2], batches[5]]
    assert all(math.isfinite(line[name]) for line in lines for name in ("l1", "kd", "loss", "gradient_norm"))
    assert f"step 4: 1 updates were not finite and changed nothing; images: {', '.join(batches[2])}" in capfd.readouterr().err
    assert all(value.isfinite().all() for value in checkpoint(config)["student"].values())


@pytest.mark.parametrize("limit", [2, 3])
def test_too_many_in_a_row_stop_the_run_with_its_last_good_weights(
    tiny_config: Callable[..., Config], student_fails: Callable[[set[int]], list[list[str]]], limit: int
) -> None:
    """Updates 3, 4 and 5 fail: one epoch ends between them, and logging steps do too."""
    student_fails({3, 4, 5})
    config = tiny_config(run={"log_steps": 1}, optimizer={"max_skipped": limit})
    if limit == 3:
        train(config)
        assert checkpoint(config)["step"] == 8
        return
    with pytest.raises(DivergedError, match=r"step 5: 3 updates in a row were not finite \(optimizer.max_skipped: 2\)"):
        train(config)
    kept = checkpoint(config)
    assert kept["step"] == 5
    assert all(value.isfinite().all() for value in kept["student"].values())
    assert {float(slot["step"]) for slot in kept["optimizer"]["state"].values()} == {2.0}  # as after the second update


class Overflows:
    """A hook on a teacher: in half precision its second patch of one call is beyond the largest number."""

    def __init__(self, teacher: Teacher, call: int) -> None:
        self.teacher, self.call, self.calls = teacher, call, 0
        teacher.network.register_forward_hook(self)

    def __call__(self, _: nn.Module, __: Any, image: torch.Tensor) -> torch.Tensor:
        self.calls += len(image) == BATCH  # a validation image comes alone
        if len(image) == BATCH and self.calls == self.call and self.teacher.dtype != torch.float32:
            image = image.clone()
            image[1] = math.inf
        return image


def test_a_teacher_that_overflows_goes_on_in_full_precision_and_so_does_a_resumed_run(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """bf16 stands in for fp16, which is slower on a CPU."""
    build = run_building.build_teacher
    hooks: list[Overflows] = []

    def hooked(*arguments: Any) -> Teacher:
        teacher = build(*arguments)
        assert teacher is not None
        hooks.append(Overflows(teacher, 3))
        return teacher

    monkeypatch.setattr(run_building, "build_teacher", hooked)
    results = []
    for name, looks in (("straight", None), ("stopped before it is noticed", 2), ("stopped after", 4)):
        config = tiny_config(run={"log_steps": 4, "dir": str(tmp_path / name)}, teacher={"precision": "bf16"})
        if looks is not None:
            with pytest.raises(Interrupted):
                train(config, gate=StopAt(looks))
        train(config)
        results.append(checkpoint(config))
        assert hooks[-1].teacher.dtype == torch.float32
    assert caplog.text.count("the teacher leaves the range of bfloat16") == len(results)
    assert [line.get("images_without_kd") for line in records(tmp_path / "straight", "train")] == [1, None]
    assert all(result["teacher_in_full_precision"] and result["teacher_failed"] == 0.25 for result in results)
    assert same_bits(results[0], results[1])
    assert same_bits(results[0], results[2])


def test_another_precision_is_taken_when_a_run_goes_on_after_an_overflow(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    build, built = run_building.build_teacher, []

    def hooked(*arguments: Any) -> Teacher:
        teacher = build(*arguments)
        assert teacher is not None
        Overflows(teacher, 1 if not built else 10**9)
        built.append(teacher)
        return teacher

    monkeypatch.setattr(run_building, "build_teacher", hooked)
    with pytest.raises(Interrupted):
        train(tiny_config(teacher={"precision": "bf16"}), gate=StopAt(4))
    assert built[-1].dtype == torch.float32
    config = tiny_config(teacher={"precision": "fp16"})
    train(config)
    assert built[-1].dtype == torch.float16
    assert checkpoint(config)["teacher_failed"] == 0
