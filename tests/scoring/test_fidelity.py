"""Validation without sharp images: how closely the student follows its teacher, and what that decides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distill.config import Config
from distill.networks.teacher import Teacher
from distill.scoring.evaluation import Evaluation, Fidelity, Score, reproduced
from distill.scoring.metrics import psnr
from distill.scoring.teacher_check import check_teacher
from distill.scoring.validation import Validation, to_pixels

CPU = torch.device("cpu")


class Brighter(nn.Module):
    """Adds a number of 8-bit levels; counts its calls."""

    def __init__(self, levels: float) -> None:
        super().__init__()
        self.levels, self.calls = nn.Parameter(torch.tensor(levels)), 0

    def forward(self, image: Tensor) -> Tensor:
        self.calls += 1
        return 0.2 + 0.5 * image + self.levels / 255  # nothing is clipped


@pytest.fixture
def blurry_only(tiny_config: Callable[..., Config], sharp_folder: Path) -> Config:
    return tiny_config(data={"val": {"sharp": None, "blurry": str(sharp_folder)}}, eval={"samples": 2})


def fidelity(blurry_error: float, student_error: float, level: float = 30.0) -> Fidelity:
    return Fidelity(Score(level, 0.8), Score(level + 5, 0.9), blurry_error, student_error)


def test_the_share_is_one_minus_a_ratio_of_sums() -> None:
    """By hand: 1 - (10 + 30) / (40 + 160). The mean of the images' own shares, 0.75 and 0.8125, is another number."""
    assert reproduced([fidelity(40, 10), fidelity(160, 30)]) == pytest.approx(0.8)
    assert reproduced([fidelity(40, 50)]) == pytest.approx(-0.25)
    assert reproduced([fidelity(0, 50)]) is None
    assert reproduced([]) is None


def test_each_kind_of_image_has_its_measure_and_its_table() -> None:
    alone = Evaluation(fidelity={"a": fidelity(40, 10)})
    assert alone.ranking("reproduced") == 0.75
    assert alone.ranking("psnr") is None
    both = Evaluation({"s": {"blurry": Score(25.0, 0.7), "student": Score(28.0, 0.8)}}, fidelity=alone.fidelity)
    assert both.ranking("psnr") == 28.0
    assert both.table().splitlines()[0] == "1 validation images"
    assert both.table().splitlines()[-1] == "the student reproduces 75.0% of the teacher's correction"


def test_where_the_teacher_changes_nothing_the_student_that_changes_least_is_the_best() -> None:
    still, moved = (Evaluation(fidelity={"a": fidelity(0, error)}) for error in (1.0, 2.0))
    assert still.ranking("reproduced") > moved.ranking("reproduced")  # type: ignore[operator]
    assert "the teacher changes nothing" in still.table()


def test_student_and_blurry_input_are_compared_with_the_teachers_image(blurry_only: Config) -> None:
    teacher, student = Teacher(Brighter(10.0)), Brighter(8.0)
    validation = Validation(blurry_only, teacher, CPU)
    evaluation = validation.evaluate(student)
    assert evaluation.images == {}
    assert list(evaluation.fidelity) == ["0", "1", "2", "3", "4", "sub/5"]
    name, blurry, sharp = next(iter(validation.pairs()))
    assert sharp is None
    one = evaluation.fidelity[name]
    pixels, by_teacher, by_student = (to_pixels(image) for image in (blurry, teacher(blurry), student(blurry)))
    assert one.blurry.psnr == pytest.approx(psnr(pixels, by_teacher))
    assert one.student.psnr == pytest.approx(psnr(by_student, by_teacher))
    assert one.student_error == pytest.approx(float(((by_student.astype(float) - by_teacher) ** 2).sum()))
    share = evaluation.reproduced
    assert share is not None
    assert 0.9 < share < 1
    assert evaluation.summary()["reproduced"] == share
    assert evaluation.picture is not None
    assert evaluation.picture.shape == (2 * 256, 3 * 256 + 2 * 4, 3)  # no column of sharp images
    assert np.array_equal(evaluation.picture, validation.first_picture(student))


def test_the_teacher_is_asked_once_and_gives_the_same_result_if_it_is_asked_again(
    blurry_only: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, student = Brighter(10.0), Brighter(7.0)
    kept = Validation(blurry_only, Teacher(network), CPU)
    results = [kept.evaluate(student).fidelity, kept.evaluate(student).fidelity]
    assert network.calls == 6
    monkeypatch.setattr("distill.scoring.validation.KEPT_BYTES", 0)
    results.append(Validation(blurry_only, Teacher(network), CPU).evaluate(student).fidelity)
    assert results[0] == results[1] == results[2]


def test_images_with_and_without_sharp_ones_have_tables_of_their_own(
    tiny_config: Callable[..., Config], sharp_folder: Path, tmp_path: Path
) -> None:
    sources = [{"blurry": str(sharp_folder)}, {"sharp": str(sharp_folder)}]
    config = tiny_config(data={"val": {"sharp": None, "sources": sources}}, eval={"samples": 3})
    evaluation = Validation(config, Teacher(Brighter(10.0)), CPU).evaluate(Brighter(9.0))
    assert {name[0] for name in evaluation.images} == {"1"}
    assert {name[0] for name in evaluation.fidelity} == {"0"}
    assert evaluation.picture is not None
    assert evaluation.picture.shape == (3 * 256, 4 * 256 + 3 * 4, 3)  # of images with a sharp one alone
    evaluation.write_csv(tmp_path / "scores.csv")
    head, *lines = (tmp_path / "scores.csv").read_text().splitlines()
    cells = [dict(zip(head.split(","), line.split(","), strict=True)) for line in lines]
    assert len(cells) == 12
    for cell in cells:
        with_sharp = cell["Image"].startswith("1/")
        assert (cell["PSNR (Student)"] != "") == with_sharp
        assert (cell["Reproduced"] == "") == (cell["PSNR (Student To Teacher)"] == "") == with_sharp


def test_the_check_of_a_teacher_says_what_nobody_can_know() -> None:
    blurry = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    result = check_teacher(Teacher(Brighter(3.0)), [(blurry, None)])
    assert (result.blurry_psnr, result.teacher_psnr) == (None, None)
    assert result.complaint() is None
    assert "nobody can know whether that is better: look at first.png" in result.in_words(Path("first.png"))


def test_a_student_that_is_better_on_every_image_ranks_higher() -> None:
    """Also if it is perfect on one of them, whose PSNR is infinite then."""
    images = [{"a": 28.0, "b": 60.0}, {"a": 30.0, "b": float("inf")}]
    worse, better = (
        Evaluation({name: {"blurry": Score(20.0, 0.5), "student": Score(psnr, 0.9)} for name, psnr in image.items()})
        for image in images
    )
    assert better.ranking("psnr") > worse.ranking("psnr")  # type: ignore[operator]


def test_a_distance_to_the_teacher_of_nothing_leaves_the_other_rows_as_they_are() -> None:
    row = {"blurry": Score(20.0, 0.5), "teacher": Score(30.0, 0.9), "student": Score(30.0, 0.9)}
    images = {"a": row | {"student to teacher": Score(float("inf"), 1.0)}, "b": row | {"student": Score(26.0, 0.8)}}
    assert Evaluation(images).mean("student") == Score(28.0, pytest.approx(0.85))


def test_a_teacher_that_leaves_half_precision_is_asked_again(blurry_only: Config) -> None:
    network = Brighter(10.0)
    teacher, student = Teacher(network, torch.bfloat16), Brighter(7.0)
    validation = Validation(blurry_only, teacher, CPU)
    validation.evaluate(student)
    teacher.use_precision("fp32")
    after = validation.evaluate(student)
    assert network.calls == 12
    assert after.fidelity == Validation(blurry_only, teacher, CPU).evaluate(student).fidelity


def test_an_image_of_which_the_teacher_makes_nothing_finite_is_skipped_and_named(blurry_only: Config) -> None:
    class Fails(Brighter):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image) * (torch.nan if self.calls == 2 else 1)

    validation = Validation(blurry_only, Teacher(Fails(10.0)), CPU)
    evaluation = validation.evaluate(Brighter(7.0))
    assert list(evaluation.fidelity) == ["0", "2", "3", "4", "sub/5"]
    ((path, skipped),) = validation.skipped.items()
    assert path.endswith("1.png")
    assert "not finite" in skipped.reason


@pytest.mark.parametrize(("add", "complaint"), [(float("nan"), "not finite"), (0.0, "changes nothing")])
def test_the_check_of_a_teacher_finds_without_sharp_images(add: float, complaint: str) -> None:
    class Adds(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image + add

    blurry = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0)) / 255
    found = check_teacher(Teacher(Adds()), [(blurry, None)]).complaint()
    assert found is not None
    assert complaint in found


def test_a_blank_page_has_no_say_in_the_check_of_a_teacher() -> None:
    page, noisy = torch.ones(1, 3, 32, 32), torch.full((1, 3, 32, 32), 0.5)
    result = check_teacher(Teacher(nn.Identity()), [(page, page), (noisy, noisy + 0.1)])
    assert result.blurry_psnr == pytest.approx(20.0)
