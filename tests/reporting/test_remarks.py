"""A run in words: right for every value that a configuration can have."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import make_mixed_run, make_run, make_run_without_sharp, records_without_sharp, validation_images, write_records

from distill.reporting import remarks
from distill.reporting.facts import facts
from distill.reporting.formatting import duration
from distill.reporting.reading import read_run
from distill.reporting.remarks import lead


@pytest.fixture
def run(tmp_path: Path) -> Path:
    make_run(tmp_path / "run", validation_images(tmp_path / "sharp", ["a"]))
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59, "59 s"), (59.7, "1 min 0 s"), (97, "1 min 37 s"), (3600, "1 h 0 min"), (200_000, "2 d 7 h")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(999, "999"), (1000, "1 thousand"), (999_499, "999 thousand"), (999_600, "1 million"), (26_126_644, "26.1 million")],
)
def test_numbers_of_parameters_have_three_digits(run: Path, monkeypatch: pytest.MonkeyPatch, count: int, text: str) -> None:
    monkeypatch.setattr(remarks, "parameters", lambda student: count)
    assert f"a U-Net with {text} parameters)" in lead(read_run(run))


def test_every_degradation_is_told(tmp_path: Path) -> None:
    recipe = [
        {"kind": "gaussian_blur", "sigma": [1, 1]},
        {"kind": "defocus", "radius": [1, 4]},
        {"kind": "motion_blur", "length": [3, 13]},
        {"kind": "rescale", "factor": [2, 4]},
        {"kind": "noise", "sigma": [0, 5], "probability": 0.5},
        {"kind": "jpeg", "quality": [30, 95]},
    ]
    make_run(tmp_path / "run", validation_images(tmp_path / "sharp", ["a"]), degrade=recipe)
    assert dict(facts(read_run(tmp_path / "run"), None))["Blur"] == (
        "Made from the sharp images while training: Gaussian blur of 1 pixels (sigma), then defocus of 1 to 4 pixels (radius of a"
        " disc), then motion blur of 3 to 13 pixels in any direction, then reduction by a factor of 2 to 4 and enlargement again,"
        " then noise of 0 to 5 of 255 levels, for 50% of the images, then JPEG compression of quality 30 to 95."
    )


def test_a_teacher_that_no_loss_asks_for_taught_nothing(tmp_path: Path) -> None:
    stages = [{"name": "v1", "epochs": 1, "kd": 0.0}]
    make_run(tmp_path / "run", validation_images(tmp_path / "sharp", ["a"]), stages=stages)
    run = read_run(tmp_path / "run")
    assert "from sharp originals alone" in lead(run)
    assert dict(facts(run, None))["Teacher"].endswith("only compared with: no loss asked for its images.")
    assert remarks.teacher_check(run) is None


def test_the_steps_that_share_a_teachers_image_are_said(tmp_path: Path) -> None:
    make_run(tmp_path / "run", validation_images(tmp_path / "sharp", ["a"]), teacher={"mode": "online", "reuse": 4})
    told = dict(facts(read_run(tmp_path / "run"), None))["Teacher"]
    assert told.endswith("frozen, it restored one batch for every 4 steps inside the training loop.")


@pytest.fixture
def unsharp(tmp_path: Path) -> Path:
    """A run of which nobody has sharp images."""
    make_run_without_sharp(tmp_path / "unsharp", validation_images(tmp_path / "blurry", ["a", "b"]))
    return tmp_path / "unsharp"


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    sharp, blurry = (validation_images(tmp_path / name, ["a", "b"]) for name in ("sharp", "blurry"))
    make_mixed_run(tmp_path / "mixed", sharp, blurry, vgg={"weights": "random"}, stages=[{"name": "v1", "epochs": 4, "vgg": 0.5}])
    return tmp_path / "mixed"


def test_without_sharp_images_nothing_is_claimed_of_quality(unsharp: Path) -> None:
    run = read_run(unsharp)
    said = dict(facts(run, None))
    assert "Nobody has sharp originals of these photographs: the student learned from the teacher's images alone." in lead(run)
    assert lead(run).endswith("how closely the student follows the teacher, and not whether a picture became better.")
    assert said["Training images"].startswith(f"Blurry photographs in {run.config.data.blurry}, of which nobody has sharp ones;")
    assert said["Goal"] == "Stage v1, 4 epochs: be close to the teacher's image (weight 1), in mean absolute difference."
    assert said["Validation"].endswith("80 pixels. The student is compared with the teacher.")
    check = remarks.teacher_check(run)
    assert check is not None
    assert check[0] == "unknown"
    assert "Numbers cannot say whether the teacher makes the validation photographs better" in check[1]
    assert remarks.warnings(run) == []


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (-0.25, "it reproduces -25.0% of the teacher's correction"),
        (-0.0001, "it reproduces 0.0% of the teacher's correction"),
        (None, "The teacher changes nothing on the validation images"),
    ],
)
def test_a_student_that_does_not_follow_is_a_warning(unsharp: Path, share: float | None, said: str) -> None:
    known = [record for record in records_without_sharp() if "reproduced" not in record]
    last = {key: value for key, value in records_without_sharp()[-1].items() if key != "reproduced"}
    write_records(unsharp, [*known, last if share is None else last | {"reproduced": share}])
    (warning,) = remarks.warnings(read_run(unsharp))
    assert said in warning


def test_a_run_of_both_kinds_tells_them_apart(mixed: Path) -> None:
    run = read_run(mixed)
    said = dict(facts(run, None))
    assert "Nobody has sharp originals of some photographs" in lead(run)
    assert "(1 of every 4 crops), and blurry photographs" in said["Training images"]
    assert "(3 of every 4 crops); random crops" in said["Training images"]
    assert said["Blur"].startswith("Made from the sharp images while training (where there are no blurry files): ")
    assert said["Goal"] == (
        "Stage v1, 4 epochs: be close to the sharp image where there is one (weight 1) and to the teacher's image (weight 1) and"
        " to the sharp image as VGG16 sees it where there is one (weight 0.5), in mean absolute difference."
    )
    assert said["Validation"].endswith("Where there is no sharp photograph, the student is compared with the teacher.")
    check = remarks.teacher_check(run)
    assert check is not None
    assert check[0] == "good"
    assert check[1].startswith("The teacher improves the validation images that have sharp originals, by 4.00 dB")
    assert "Numbers cannot say whether it improves the others." in check[1]


def test_a_student_of_blurry_photographs_alone_may_be_validated_on_sharp_ones(tmp_path: Path) -> None:
    sharp, blurry = (validation_images(tmp_path / name, ["a"]) for name in ("sharp", "blurry"))
    data = {"sharp": None, "blurry": str(blurry), "val": {"sharp": str(sharp)}}
    make_run(tmp_path / "run", sharp, data=data)
    run = read_run(tmp_path / "run")
    assert "the student learned from the teacher's images alone" in lead(run)
    assert "whether a picture became better" not in lead(run)
    check = remarks.teacher_check(run)
    assert check is not None
    assert check[0] == "good"
