"""Scores as means, a table and CSV."""

from __future__ import annotations

import csv
from pathlib import Path

from distill.scoring.evaluation import Evaluation, Score


def test_a_blank_page_has_no_say_in_the_mean_of_psnr() -> None:
    """Blur leaves it as it is, and its PSNR is infinite."""
    blank = {"blurry": Score(float("inf"), 1.0), "student": Score(60.0, 1.0)}
    evaluation = Evaluation({"a": {"blurry": Score(20.0, 0.5), "student": Score(25.0, 0.7)}, "blank": blank})
    assert evaluation.mean("blurry") == Score(20.0, 0.75)
    assert evaluation.mean("student") == Score(25.0, 0.85)
    alone = Evaluation({"blank": blank})
    assert (alone.mean("blurry"), alone.mean("student")) == (Score(120.0, 1.0), Score(60.0, 1.0))
    assert alone.ranking("psnr") == 60.0  # finite: a later student can be better


def test_the_table_has_two_and_four_places() -> None:
    scores = {"blurry": Score(20.0, 0.5), "student": Score(25.129, 0.70006)}
    table = Evaluation({"a": scores, "b": {"blurry": Score(21.0, 0.7), "student": Score(25.129, 0.70006)}}).table()
    assert table.splitlines()[1:] == ["blurry   20.50  0.6000", "student  25.13  0.7001"]


def test_the_csv_has_one_row_per_image(tmp_path: Path) -> None:
    row = {"blurry": Score(20.0, 0.5), "teacher": Score(30.0, 0.9), "student": Score(25.0, 0.7)}
    Evaluation({"a/1": row, "b": row}).write_csv(tmp_path / "e.csv")
    with (tmp_path / "e.csv").open() as file:
        lines = list(csv.reader(file))
    assert lines[0] == [
        "Image",
        *("SSIM (Blurry)", "SSIM (Teacher)", "SSIM (Student)"),
        *("PSNR (Blurry)", "PSNR (Teacher)", "PSNR (Student)"),
    ]
    assert lines[1] == ["a/1", "0.5000", "0.9000", "0.7000", "20.00", "30.00", "25.00"]
    assert len(lines) == 3
