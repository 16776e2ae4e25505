"""The figures that a run prints: PSNR and SSIM by their definitions, each image once, every row on the same pixels."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data
from torch import Tensor, nn

from distill.config import Config
from distill.data.image_files import ImageError
from distill.networks.teacher import Teacher
from distill.scoring.evaluation import Evaluation, Score
from distill.scoring.metrics import psnr, ssim
from distill.scoring.validation import Validation, to_pixels

CPU = torch.device("cpu")


def test_psnr_is_over_all_pixels_and_channels() -> None:
    reference = np.full((10, 10, 3), 100, np.uint8)
    image = reference.copy()
    image[0, 0, 0] = 130  # 900 / 300 = 3
    assert psnr(image, reference) == pytest.approx(10 * np.log10(255**2 / 3))
    assert psnr(reference, reference) == float("inf")


def test_ssim_is_on_luma_without_the_border() -> None:
    photo = data.astronaut()[:80, 100:200]
    assert ssim(photo, photo) == pytest.approx(1)
    border = photo.copy()
    border[:4] = 0
    border[:, -4:] = 0
    assert ssim(border, photo) == pytest.approx(1)
    # the definition, written out: mean over 7x7 windows of uniform weight, sample covariance, Y from BT.601
    noisy = (photo + np.random.default_rng(0).integers(0, 40, photo.shape)).clip(0, 255).astype(np.uint8)
    luma = [16 + (p.astype(float) @ [65.481, 128.553, 24.966]) / 255 for p in (noisy, photo)]
    windows = [np.lib.stride_tricks.sliding_window_view(y[4:-4, 4:-4], (7, 7)).reshape(66, 86, 49) for y in luma]
    mean = [w.mean(-1) for w in windows]
    var = [w.var(-1, ddof=1) for w in windows]
    covariance = ((windows[0] - mean[0][..., None]) * (windows[1] - mean[1][..., None])).sum(-1) / 48
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    expected = (2 * mean[0] * mean[1] + c1) * (2 * covariance + c2)
    expected /= (mean[0] ** 2 + mean[1] ** 2 + c1) * (var[0] + var[1] + c2)
    assert ssim(noisy, photo) == pytest.approx(expected.mean(), abs=1e-6)


def test_pixels_are_clamped_and_rounded() -> None:
    image = torch.tensor([-0.2, 0.5 / 255 + 1e-4, 1.3]).view(1, 3, 1, 1)
    assert to_pixels(image).tolist() == [[[0, 1, 255]]]


class Shifts(nn.Module):
    """Adds a constant; counts its calls."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift, self.calls = nn.Parameter(torch.tensor(shift)), 0

    def forward(self, image: Tensor) -> Tensor:
        self.calls += 1
        return image + self.shift


def test_rows_are_scored_on_the_same_images_and_the_teacher_once(tiny_config: Callable[..., Config]) -> None:
    network = Shifts(0.0)
    validation = Validation(tiny_config(eval={"samples": 2}), Teacher(network), CPU, distance=True)
    student = Shifts(26 / 255).train()
    first, second = validation.evaluate(student), validation.evaluate(student)
    assert network.calls == 6
    assert student.training
    assert student.shift.requires_grad
    for evaluation in (first, second):
        assert set(evaluation.images) == {"0", "1", "2", "3", "4", "sub/5"}
        assert evaluation.mean("teacher") == evaluation.mean("blurry")
        assert evaluation.mean("student").psnr < evaluation.mean("blurry").psnr  # type: ignore[union-attr]
    distance = first.mean("student to teacher")  # the teacher returns its input
    assert distance is not None
    assert distance.psnr == pytest.approx(20 * np.log10(255 / 26), abs=0.1)
    assert second.mean("student to teacher") is None  # it was not asked again
    assert first.picture is not None
    assert first.picture.shape == (2 * 256, 4 * 256 + 3 * 4, 3)
    blurry, student_column = first.picture[:256, :256], first.picture[:256, 260:516]
    assert np.array_equal(student_column, (blurry.astype(int) + 26).clip(0, 255))
    assert np.array_equal(first.picture[:256, 520:776], blurry)


def test_the_teacher_row_is_absent_without_a_teacher(tiny_config: Callable[..., Config]) -> None:
    evaluation = Validation(tiny_config(), None, CPU).evaluate(Shifts(0.0))
    assert evaluation.mean("teacher") is None
    assert "teacher" not in evaluation.table()


def test_an_image_that_takes_anothers_place_in_the_picture_does_not_end_the_run(
    tiny_config: Callable[..., Config], sharp_folder: Path, tmp_path: Path
) -> None:
    """A network folder may come and go: the image's row has no teacher's picture, which is kept of the first images alone."""
    shutil.copytree(sharp_folder, tmp_path / "val")
    config = tiny_config(data={"val": {"sharp": str(tmp_path / "val")}}, eval={"samples": 2})
    validation = Validation(config, Teacher(Shifts(0.0)), CPU)
    validation.evaluate(Shifts(0.0))
    (tmp_path / "val" / "0.png").unlink()
    evaluation = validation.evaluate(Shifts(0.0))
    assert len(evaluation.images) == 5
    assert evaluation.picture is not None
    assert evaluation.picture.shape == (256, 4 * 256 + 3 * 4, 3)
    (tmp_path / "val" / "1.png").unlink()
    assert validation.evaluate(Shifts(0.0)).picture is None


def test_a_blank_page_has_no_say_in_the_mean_of_psnr() -> None:
    """Blur leaves it as it is, and its PSNR is infinite."""
    blank = {"blurry": Score(float("inf"), 1.0), "student": Score(60.0, 1.0)}
    evaluation = Evaluation({"a": {"blurry": Score(20.0, 0.5), "student": Score(25.0, 0.7)}, "blank": blank})
    assert evaluation.mean("blurry") == Score(20.0, 0.75)
    assert evaluation.mean("student") == Score(25.0, 0.85)
    assert Evaluation({"blank": blank}).mean("student") == Score(float("inf"), 1.0)


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


def test_a_bad_image_is_left_out_and_named(tiny_config: Callable[..., Config], sharp_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(sharp_folder, tmp_path / "val")
    (tmp_path / "val" / "0.png").write_bytes(b"")
    validation = Validation(tiny_config(data={"val": {"sharp": str(tmp_path / "val")}}), None, CPU)
    assert len(validation.evaluate(Shifts(0.0)).images) == 5
    assert list(validation.skipped) == [str(tmp_path / "val" / "0.png")]


def test_bad_images_alone_are_an_error(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "0.png").write_bytes(b"")
    validation = Validation(tiny_config(data={"val": {"sharp": str(tmp_path / "val")}}), None, CPU)
    with pytest.raises(ImageError, match="none of its 1 images can be used"):
        validation.evaluate(Shifts(0.0))
