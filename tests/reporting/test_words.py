"""A run in words: right for every value that a configuration can have."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import make_run, validation_images

from distill.reporting import words
from distill.reporting.reading import read_run
from distill.reporting.words import duration, facts, lead


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
    monkeypatch.setattr(words, "parameters", lambda student: count)
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
    assert words.teacher_check(run) is None
