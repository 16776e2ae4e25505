"""Scores of a student, and which file of the run folder they go to."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from run_folders import make_run, validation_images

from distill import evaluate as command
from distill.config import load_config
from distill.evaluate import evaluate

Call = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    make_run(tmp_path / "run", validation_images(tmp_path / "sharp", ["a", "b"]))
    shutil.copy(tmp_path / "run" / "student_model_v1.pth", tmp_path / "run" / "student_best.pth")
    return tmp_path / "run"


def test_scores_of_another_student_leave_the_runs_own_alone(run: Path, tmp_path: Path, call: Call) -> None:
    (run / "evaluation.csv").write_text("the run's own\n")
    options = ["--config", run / "config.yaml", "--weights", run / "student_best.pth"]
    assert call(command.main, *options) == 0
    assert (run / "evaluation.csv").read_text() == "the run's own\n"
    assert (run / "evaluation_student_best.csv").read_text().startswith("Image,")
    assert call(command.main, *options, "--csv", tmp_path / "scores.csv") == 0
    assert (tmp_path / "scores.csv").read_bytes() == (run / "evaluation_student_best.csv").read_bytes()
    assert call(command.main, "--config", run / "config.yaml") == 0
    assert (run / "evaluation.csv").read_bytes() == (run / "evaluation_student_best.csv").read_bytes()


def test_the_function_writes_where_the_command_does(run: Path) -> None:
    config = load_config(run / "config.yaml")
    (run / "evaluation.csv").unlink()
    evaluate(config, run / "student_best.pth")
    assert not (run / "evaluation.csv").exists()
    evaluate(config)
    assert (run / "evaluation.csv").read_bytes() == (run / "evaluation_student_best.csv").read_bytes()


def test_a_file_that_cannot_be_written_does_not_cost_the_scores(
    run: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert call(command.main, "--config", run / "config.yaml", "--csv", tmp_path / "file" / "scores.csv") == 2
    said = capsys.readouterr()
    assert [line.split()[0] for line in said.out.splitlines()] == ["2", "blurry", "teacher", "student", "student"]
    assert "scores.csv: cannot be written" in said.err
