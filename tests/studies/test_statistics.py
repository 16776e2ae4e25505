"""Paired differences and their intervals equal values worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distill.reporting.reading import read_evaluation
from distill.scoring.evaluation import Score
from distill.studies import statistics
from distill.studies.result import verdict
from distill.studies.statistics import Difference, difference, interval


def table(path: Path, psnr: dict[str, float]) -> dict[str, dict[str, Score]]:
    """The scores as a study reads them: from a CSV file."""
    path.write_text("Image,SSIM (Student),PSNR (Student)\n" + "".join(f"{name},0.9,{value}\n" for name, value in psnr.items()))
    return read_evaluation(path)


def test_the_difference_is_paired_by_seed_and_image(tmp_path: Path) -> None:
    """Each score minus that of the same image with the same seed; another order of the images changes nothing."""
    first = {0: table(tmp_path / "a", {"x": 20.0, "y": 30.0}), 1: table(tmp_path / "b", {"x": 21.0, "y": 31.0})}
    other = {0: table(tmp_path / "c", {"y": 30.5, "x": 20.1}), 1: table(tmp_path / "d", {"x": 21.3, "y": 31.1})}
    found = difference(other, first)
    assert found is not None
    assert found.by_seed == {0: pytest.approx(0.3), 1: pytest.approx(0.2)}  # (0.1 + 0.5) / 2 and (0.3 + 0.1) / 2
    assert found.mean == pytest.approx(0.25)
    assert found.low < 0.25 < found.high


def test_only_what_both_have_is_compared(tmp_path: Path) -> None:
    """Not a seed that one has alone, nor an image, nor one whose PSNR is infinite."""
    first = {0: table(tmp_path / "a", {"x": 20.0, "y": 30.0, "blank": np.inf}), 1: table(tmp_path / "b", {"x": 50.0})}
    other = {0: table(tmp_path / "c", {"x": 20.5, "z": 99.0, "blank": 40.0})}
    found = difference(other, first)
    assert found is not None
    assert found.by_seed == {0: pytest.approx(0.5)}
    assert difference(other, {2: first[0]}) is None


def test_the_same_scores_differ_by_exactly_nothing(tmp_path: Path) -> None:
    scores = {seed: table(tmp_path / str(seed), {"x": 20.0 + seed, "y": 25.0}) for seed in range(3)}
    found = difference(scores, scores)
    assert found == Difference(0.0, 0.0, 0.0, {0: 0.0, 1: 0.0, 2: 0.0}, images=2)
    assert "are the same" in verdict(found)


def test_two_seeds_of_one_image_have_the_interval_of_students_t() -> None:
    """0.1 and 0.3: the mean 0.2, its standard error 0.1. Both seeds are the lower one in a quarter of all
    draws, so the ends of the interval are the widened deviations: 12.706 / 1.960 * sqrt(2) times 0.1."""
    wider = 12.706 / 1.960 * 2**0.5
    low, high = interval(np.array([[0.1], [0.3]]))
    assert (low, high) == (pytest.approx(0.2 - 0.1 * wider, abs=1e-3), pytest.approx(0.2 + 0.1 * wider, abs=1e-3))


def test_seeds_that_agree_do_not_narrow_what_images_leave_open() -> None:
    """All seeds share the images: three equal rows know no more than one."""
    row = np.random.default_rng(3).normal(0, 0.1, (1, 50))
    one, three = interval(row), interval(np.repeat(row, 3, axis=0))
    assert three == (pytest.approx(one[0], abs=2e-3), pytest.approx(one[1], abs=2e-3))


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_equals_are_seldom_told_apart(seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No true difference, with spread of seeds, images and both: 5 % of the intervals may leave out 0. Of 200, 10 % are 20."""
    monkeypatch.setattr(statistics, "RESAMPLES", 400)
    rng, wrong = np.random.default_rng(4), 0
    for _ in range(200):
        parts = rng.normal(0, 0.05, (seeds, 1)), rng.normal(0, 0.1, (1, 24)), rng.normal(0, 0.02, (seeds, 24))
        low, high = interval(sum(parts))
        wrong += low > 0 or high < 0
    assert wrong <= 20


def test_the_interval_of_many_images_is_that_of_their_mean() -> None:
    """With one seed it is about images alone: 1.96 standard errors to either side, within the noise of drawing."""
    values = np.random.default_rng(1).normal(0.5, 0.2, (1, 400))
    low, high = interval(values)
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_seeds_that_scatter_widen_the_interval() -> None:
    images = np.random.default_rng(2).normal(0, 0.1, (3, 100))
    close, apart = interval(images), interval(images + np.array([[-0.3], [0.0], [0.3]]))
    assert apart[1] - apart[0] > 3 * (close[1] - close[0])


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (Difference(0.2, 0.1, 0.3, {0: 0.1, 1: 0.3}), "Better by 0.20 dB (0.10 to 0.30)."),
        (Difference(-0.2, -0.3, -0.1, {0: -0.1, 1: -0.3}), "Worse by 0.20 dB (0.10 to 0.30)."),
        (Difference(0.2, 0.1, 0.3, {0: -0.1, 1: 0.5}), "Better by 0.20 dB (0.10 to 0.30). Not every seed agrees."),
        (
            Difference(0.02, -0.06, 0.1, {0: 0.0, 1: 0.04}),
            "No difference could be shown: it may be 0.06 dB worse or 0.10 dB better.",
        ),
        (None, "Nothing to compare: no seed is finished in both."),
    ],
    ids=str,
)
def test_the_verdict_says_what_follows_and_what_does_not(found: Difference | None, words: str) -> None:
    assert verdict(found) == words


def test_few_images_and_one_seed_are_said_to_be_that() -> None:
    assert verdict(Difference(0.2, 0.1, 0.3, {0: 0.1, 1: 0.3}, images=2)).startswith("2 images cannot stand for others. ")
    assert "cannot stand" not in verdict(Difference(0.2, 0.1, 0.3, {0: 0.1, 1: 0.3}, images=24))
    assert "One seed says nothing of another training run" in verdict(Difference(0.2, 0.1, 0.3, {0: 0.2}))
