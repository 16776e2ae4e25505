"""Scores as means, a table and CSV."""

from __future__ import annotations

import csv
from pathlib import Path

from distill.reporting.reading import Closeness, read_evaluation, read_fidelity
from distill.scoring.evaluation import Evaluation, Fidelity, Score


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


FURTHER = {"psnr_y": 31.0, "ssim_rgb_matlab": 0.91234}


def test_further_scores_have_columns_of_their_own() -> None:
    """A line above names the columns. An image with an infinite score in dB is left out of that score's mean alone."""
    scores = {
        "blurry": Score(20.0, 0.5, {"psnr_y": 22.0, "lpips_vgg": 0.3}),
        "student": Score(25.0, 0.7, {"psnr_y": 27.0, "lpips_vgg": 0.1}),
    }
    blank = {row: Score(30.0, 0.9, {"psnr_y": float("inf"), "lpips_vgg": 0.2}) for row in scores}
    table = Evaluation({"a": scores, "blank": blank}).table()
    assert table.splitlines()[1:] == [
        "          PSNR    SSIM  psnr_y  lpips_vgg",
        "blurry   25.00  0.7000   22.00     0.2500",
        "student  27.50  0.8000   27.00     0.1500",
    ]
    assert Evaluation({"a": scores}).summary()["student_psnr_y"] == 27.0


def test_a_csv_with_further_scores_is_read_as_it_was_written(tmp_path: Path) -> None:
    scores = {row: Score(20.0, 0.5, FURTHER | {"psnr_y": psnr}) for row, psnr in (("blurry", 22.0), ("student", float("inf")))}
    fidelity = Fidelity(Score(21.0, 0.6, FURTHER), Score(22.0, 0.7, FURTHER), 4.0, 1.0)
    Evaluation({"a": scores}, fidelity={"b": fidelity}).write_csv(tmp_path / "e.csv", digits=4)
    header = (tmp_path / "e.csv").read_text().splitlines()[0]
    assert "psnr_y (Blurry),psnr_y (Student),psnr_y (Blurry To Teacher)" in header
    assert read_evaluation(tmp_path / "e.csv") == {"a": scores}
    assert read_fidelity(tmp_path / "e.csv") == {"b": Closeness(fidelity.rows, 0.75)}


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
