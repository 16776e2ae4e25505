"""A run's log is not worth the run: what cannot be written is named, and training goes on."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import records

from distill.runtime import files
from distill.runtime.ranks import Ranks
from distill.scoring.evaluation import Evaluation, Score
from distill.training import log as log_module
from distill.training.log import RunLog


def step(loss: float) -> dict[str, torch.Tensor]:
    return {"loss": torch.tensor(loss), "finite": torch.tensor(1.0)}


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def evaluation() -> Evaluation:
    return Evaluation({"a": {"student": Score(30.0, 0.9)}}, np.zeros((16, 16, 3), np.uint8))


def test_a_line_that_does_not_fit_is_left_out_whole_and_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:

    class Short:
        """An unbuffered file on a disk with room for ten bytes."""

        def __init__(self, path: Path) -> None:
            self.file = open(path, "ab", buffering=0)  # noqa: SIM115

        def __enter__(self) -> Short:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            return self.file.write(data[:10])

        def tell(self) -> int:
            return self.file.tell()

        def truncate(self, size: int) -> None:
            self.file.truncate(size)

    with RunLog(tmp_path, 0, Ranks()) as log:
        for number, room in enumerate([True, False, False, True], start=1):
            log.add(step(float(number)), images=1, names=["a"])
            with monkeypatch.context() as patch:
                if not room:
                    patch.setattr(Path, "open", lambda path, *_, **__: Short(path))
                log.flush(number)
    assert [line["step"] for line in records(tmp_path, "train")] == [1, 4]
    assert caplog.text.count("cannot be written, and the run goes on without") == 1
    assert "No space left on device" in caplog.text


def test_a_picture_that_cannot_be_written_is_named_once(
    tmp_path: Path, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files.os, "replace", full)
    with RunLog(tmp_path, 0, Ranks()) as log:
        for number in (1, 2):
            log.validation(number, evaluation)
    assert [line["step"] for line in records(tmp_path, "val")] == [1, 2]
    assert caplog.text.count("samples: cannot be written") == 1
    assert list((tmp_path / "samples").iterdir()) == []


def test_without_tensorboard_the_lines_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(log_module.SummaryWriter, "add_scalar", full)
    with RunLog(tmp_path, 0, Ranks()) as log:
        for number in (1, 2):
            log.add(step(1.0), images=1, names=["a"])
            log.flush(number)
    assert [line["step"] for line in records(tmp_path, "train")] == [1, 2]
    assert caplog.text.count("tensorboard: cannot be written") == 1


def test_only_the_first_rank_writes(tmp_path: Path, evaluation: Evaluation) -> None:
    with RunLog(tmp_path / "run", 0, Ranks(rank=1, count=2)) as log:
        log.add(step(1.0), images=1, names=["a"])
        assert log.flush(1)["loss"] == 1.0
        log.validation(1, evaluation)
    assert not (tmp_path / "run").exists()


def test_the_longest_row_of_rejected_updates_goes_across_flushes(tmp_path: Path) -> None:
    rows = []
    with RunLog(tmp_path, 0, Ranks()) as log:
        for number, finite in enumerate([[1, 0], [0, 0, 1, 0], [1, 1], [0]]):
            for good in finite:
                log.add({"loss": torch.tensor(1.0), "finite": torch.tensor(float(good))}, images=1, names=["a"])
            log.flush(number)
            rows.append(log.rejected_in_a_row)
    assert rows == [1, 3, 0, 1]
