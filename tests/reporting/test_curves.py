"""What is drawn is what was recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import make_run, validation_images, write_records

from distill.reporting.curves import MAX_POINTS, curves
from distill.reporting.reading import read_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    make_run(tmp_path / "run", validation_images(tmp_path / "sharp", ["a"]))
    return tmp_path / "run"


def test_long_runs_are_averaged_and_end_where_they_ended(run: Path) -> None:
    count = 3 * MAX_POINTS - 1
    write_records(run, [{"kind": "train", "step": step, "loss": float(step)} for step in range(1, count + 1)])
    table = curves(read_run(run))["train"]
    assert len(table["step"]) <= MAX_POINTS
    assert table["step"][-1] == count
    assert table["values"]["loss"][:2] == [2.0, 5.0]


def test_validations_are_shown_one_by_one_however_many_there_are(run: Path) -> None:
    count = 2 * MAX_POINTS + 1
    write_records(run, [{"kind": "val", "step": step, "student_psnr": float(step)} for step in range(1, count + 1)])
    table = curves(read_run(run))["val"]
    assert table["averaged"] == 1
    assert table["values"]["student_psnr"] == [float(step) for step in range(1, count + 1)]
