"""The figures that a run prints: PSNR and SSIM by their definitions, each image once, every row on the same pixels."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distill.config import Config
from distill.data.image_files import ImageError
from distill.networks.teacher import Teacher
from distill.scoring.metrics import psnr
from distill.scoring.validation import Validation, to_pixels

CPU = torch.device("cpu")


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
    inputs = [blurry for _, blurry, _ in validation.pairs()]
    by_hand = [psnr(to_pixels(blurry + 26 / 255), to_pixels(blurry)) for blurry in inputs]
    assert distance.psnr == pytest.approx(np.mean(by_hand))
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
    for name in ("0", "1"):
        shutil.copy(sharp_folder / f"{name}.png", tmp_path / "val")
    for name in ("2", "3", "4", "sub/5"):
        (tmp_path / "val" / f"{name}.png").unlink()
    assert set(validation.evaluate(Shifts(0.0)).images) == {"0", "1"}  # although each was missing once
    assert len(validation.skipped) == 4


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
