"""What is read from a run folder is what the run wrote there."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_folders import (
    STEPS,
    make_mixed_run,
    make_run,
    make_run_without_sharp,
    records_without_sharp,
    validation_images,
    write_fidelity,
    write_records,
)

from distill.reporting.curves import curves
from distill.reporting.reading import Closeness, gains, read_run, shares
from distill.scoring.evaluation import Score


@pytest.fixture
def unsharp(tmp_path: Path) -> Path:
    make_run_without_sharp(tmp_path / "unsharp", validation_images(tmp_path / "blurry", ["a", "b"]))
    return tmp_path / "unsharp"


def test_images_without_sharp_ones_have_scores_against_the_teacher(unsharp: Path) -> None:
    write_fidelity(unsharp, {"a": 0.9, "b": -0.25, "same": None})
    run = read_run(unsharp)
    assert run.images == {}
    scores = {"blurry to teacher": Score(28.0, 0.9), "student to teacher": Score(32.0, 0.95)}
    assert run.fidelity == {name: Closeness(scores, share) for name, share in (("a", 0.9), ("b", -0.25), ("same", None))}
    assert shares(run.fidelity) == {"a": 0.9, "b": -0.25}


def test_the_last_validation_counts_and_evaluation_csv_only_without_one(unsharp: Path) -> None:
    run = read_run(unsharp)
    scores = {"blurry to teacher": Score(28.0, 0.9), "student to teacher": Score(32.0, 0.95)}
    assert run.scores() == {}
    assert (run.to_teacher(), run.scored_step) == (Closeness(scores, 0.8), STEPS)
    write_records(unsharp, [record for record in records_without_sharp() if record["kind"] != "val"])
    run = read_run(unsharp)
    assert (run.to_teacher(), run.scored_step) == (Closeness(scores, None), None)


def test_a_run_without_sharp_images_is_complete_with_its_evaluation(unsharp: Path) -> None:
    totals = [{k: v for k, v in record.items() if k != "total_steps"} for record in records_without_sharp()]
    write_records(unsharp, totals)
    assert read_run(unsharp).complete
    (unsharp / "evaluation.csv").unlink()
    assert not read_run(unsharp).complete


def test_a_run_is_complete_once_its_last_step_is_validated(unsharp: Path) -> None:
    """Whatever it says of an earlier step, or evaluation.csv of an earlier end."""
    assert read_run(unsharp).complete
    write_records(unsharp, [record for record in records_without_sharp() if (record["kind"], record["step"]) != ("val", STEPS)])
    assert not read_run(unsharp).complete


def test_a_run_of_both_kinds_keeps_them_apart(tmp_path: Path) -> None:
    sharp, blurry = (validation_images(tmp_path / name, ["a", "b"]) for name in ("sharp", "blurry"))
    make_mixed_run(tmp_path / "mixed", sharp, blurry)
    run, other = read_run(tmp_path / "mixed"), tmp_path / "ordinary"
    make_run(other, sharp)
    assert gains(run.images) == {f"0/{name}": gain for name, gain in gains(read_run(other).images).items()}
    assert shares(run.fidelity) == {"1/a": 0.9, "1/b": 0.8}
    assert run.scores() == read_run(other).scores()
    assert run.to_teacher() is not None
    assert read_run(other).to_teacher() is None


def test_what_is_reproduced_has_a_curve_and_a_missing_l1_leaves_a_gap(tmp_path: Path) -> None:
    sharp, blurry = (validation_images(tmp_path / name, ["a"]) for name in ("sharp", "blurry"))
    make_mixed_run(tmp_path / "mixed", sharp, blurry)
    run = read_run(tmp_path / "mixed")
    del next(record for record in run.records if record["kind"] == "train")["l1"]
    drawn = curves(run)
    assert drawn["val"]["values"]["reproduced"] == [0.2, 0.4, 0.6, 0.8]
    assert drawn["val"]["values"]["student_to_teacher_psnr"] == [29.0, 30.0, 31.0, 32.0]
    assert [value is None for value in drawn["train"]["values"]["l1"]] == [True] + 19 * [False]
