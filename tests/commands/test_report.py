"""A report says what its run folder holds, whatever state that is in, and nothing in it becomes markup."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from run_folders import (
    BEGAN,
    SECONDS_PER_STEP,
    STEPS,
    make_mixed_run,
    make_run,
    make_run_without_sharp,
    training_records,
    validation_images,
    write_evaluation,
    write_records,
)
from running import StopAt, records

from distill import report as report_command
from distill.command import Interrupted
from distill.config import Config, ConfigError, parse_config
from distill.data.image_files import read_image
from distill.data.pixels import centre_crop, side_by_side
from distill.networks.student_files import load_student
from distill.networks.teacher import build_teacher
from distill.report import report
from distill.reporting import pictures
from distill.reporting.choice import choose
from distill.reporting.curves import Clock, curves
from distill.reporting.pictures import SHOWN_SIDE, gallery
from distill.reporting.reading import read_run, read_runs
from distill.reporting.remarks import notes, status, teacher_check, warnings
from distill.scoring import metrics
from distill.scoring.evaluation import ROWS
from distill.scoring.validation import COLUMN_SIDE, Validation
from distill.train import train

HOSTILE = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked=1">&lt;b&gt;'
NAMES = ["a", "b", "c"]
CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def sharp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return validation_images(tmp_path_factory.mktemp("report") / "sharp", NAMES)


@pytest.fixture
def run(tmp_path: Path, sharp: Path) -> Path:
    make_run(tmp_path / "run", sharp)
    return tmp_path / "run"


def content(page: Path) -> dict[str, Any]:
    """The JSON in a report."""
    found = re.search(r'<script id="content" type="application/json">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def test_a_report_is_one_file_in_the_run_folder_and_nothing_else_changes(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.iterdir()}
    assert report([run], images=3) == run / "report.html"
    assert {path: path.read_bytes() for path in run.iterdir() if path.name != "report.html"} == before


def test_a_report_holds_no_address_to_fetch_from(run: Path) -> None:
    page = report([run]).read_text()
    assert set(re.findall(r"https?://[^\"'\s]*", page)) == {"http://www.w3.org/2000/svg"}  # a name, which nothing fetches
    assert "default-src 'none'" in page


def test_names_from_files_do_not_become_markup(tmp_path: Path, sharp: Path) -> None:
    folder = tmp_path / "<b onclick=x>run&amp;"
    make_run(folder, sharp)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("init: null", f"init: {json.dumps(HOSTILE)}"))
    write_evaluation(folder, {HOSTILE: (25.0, 29.0, 24.0)})
    write_records(folder, [*training_records(), {"kind": "skipped", "step": STEPS, "path": HOSTILE, "reason": HOSTILE}])
    page = report([folder])
    text = page.read_text()
    assert len(re.findall("<script", text)) == len(re.findall("</script", text)) == 2
    assert "<img" not in text
    assert "<b onclick" not in text
    shown = content(page)["runs"][0]
    assert shown["images"][0]["name"] == HOSTILE
    assert shown["label"] == folder.name


def test_a_half_written_last_line_is_left_out_and_an_unreadable_one_is_counted(run: Path) -> None:
    log = run / "metrics.jsonl"
    log.write_text("rubbish\n[1]\n" + log.read_text() + '{"kind": "train", "step": 42, "lo')
    read = read_run(run)
    assert (read.unreadable_lines, read.last_step) == (2, STEPS)
    assert "2 lines of metrics.jsonl could not be read and were left out." in notes(read)


@pytest.mark.parametrize("value", ["NaN", "Infinity", '"12"', "null", "[1]", "true"])
def test_a_value_that_is_no_number_is_missing_from_its_curve(run: Path, value: str) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(f'{{"kind": "train", "step": {STEPS + 1}, "loss": {value}}}\n')
    assert curves(read_run(run))["train"]["values"]["loss"][-1] is None
    report([run], images=0)


def test_a_run_that_is_not_over_says_so(run: Path) -> None:
    write_records(run, training_records()[:10])
    (run / "evaluation.csv").unlink()
    kind, sentence = status(read_run(run))
    assert kind == "unfinished"
    assert f"of {STEPS}" in sentence
    assert status(read_run(run))[1] != status_of_all(run)


def status_of_all(run: Path) -> str:
    write_records(run, training_records())
    kind, sentence = status(read_run(run))
    assert kind == "complete"
    return sentence


def test_a_run_of_a_configuration_alone_has_a_report(run: Path) -> None:
    for path in run.iterdir():
        if path.name != "config.yaml":
            path.unlink()
    shown = content(report([run]))
    assert shown["runs"][0]["status"]["kind"] == "empty"
    assert shown["pictures"] == []
    assert "no student has been saved there yet" in shown["pictureNotes"][0]


def test_a_run_without_a_teacher_has_a_report_without_one(tmp_path: Path, sharp: Path) -> None:
    folder = tmp_path / "alone"
    make_run(folder, sharp, teacher={"mode": "none"}, stages=[{"name": "v1", "epochs": 4, "kd": 0.0}])
    shown = content(report([folder], images=1))
    assert shown["runs"][0]["teacherCheck"] is None
    assert "teacher" not in shown["runs"][0]["scores"]
    assert [layer["role"] for layer in shown["pictures"][0]["layers"]] == ["blurry", "student", "sharp"]


def test_a_teacher_that_does_not_help_is_a_warning_that_names_its_images(run: Path) -> None:
    good = teacher_check(read_run(run))
    assert good is not None
    assert good[0] == "good"
    worse = [record | ({"teacher_psnr": 24.9} if record["kind"] == "val" else {}) for record in training_records()]
    write_records(run, worse)
    write_evaluation(run, {"a": (25.0, 24.0, 25.1), "b": (25.0, 25.8, 25.1)})
    check = teacher_check(read_run(run))
    assert check is not None
    assert check[0] == "warning"
    assert "-0.10 dB" in check[1]
    assert check[1].endswith("It makes 1 of 2 worse: a.")


def test_what_was_skipped_is_said(run: Path) -> None:
    odd = {"rejected_updates": 3, "rejected_images": ["night"], "images_without_kd": 2}
    skipped = {"kind": "skipped", "step": 2, "path": "broken.png", "reason": "an empty file"}
    write_records(run, [*training_records()[:-2], training_records()[-2] | odd, training_records()[-1], skipped, skipped])
    text = " ".join(warnings(read_run(run)))
    assert "3 updates had a loss or gradient that was not finite" in text
    assert "night" in text
    assert "images of 2 patches were not finite" in text
    assert "1 image file could not be used and were left out: broken.png (an empty file)" in text


def test_pauses_between_sessions_are_no_training_time(run: Path) -> None:
    whole = training_records()
    pause = 86_400.0
    first = [record for record in whole if record["step"] <= 20]
    later = [record | ({"time": record["time"] + pause} if "time" in record else {}) for record in whole if record["step"] > 20]
    going_on = {"kind": "start", "step": 20, "time": BEGAN + 20 * SECONDS_PER_STEP + pause, "total_steps": STEPS}
    write_records(run, [*first, going_on, *later])
    read = read_run(run)
    assert Clock(read).total == pytest.approx(STEPS * SECONDS_PER_STEP)
    assert Clock(read).at(30) == pytest.approx(30 * SECONDS_PER_STEP)
    assert "The run was stopped and continued once, from step 20." in notes(read)


def test_without_recorded_times_the_speed_tells_them_and_it_is_said(run: Path) -> None:
    untimed = [{key: value for key, value in record.items() if key != "time"} for record in training_records()]
    write_records(run, [record for record in untimed if record["kind"] != "start"])
    read = read_run(run)
    assert Clock(read).total == pytest.approx(STEPS * SECONDS_PER_STEP)
    assert any(note.startswith("Times are estimated") for note in notes(read))
    assert not any(note.startswith("Times are estimated") for note in notes_of_timed(run))


def notes_of_timed(run: Path) -> list[str]:
    write_records(run, training_records())
    return notes(read_run(run))


@given(gains=st.lists(st.floats(-9, 9), min_size=1, max_size=40), count=st.integers(0, 50))
@settings(derandomize=True, deadline=None, database=None)
def test_the_images_shown_are_the_worst_the_best_and_the_median_first(gains: list[float], count: int) -> None:
    gain_of = {str(index): gain for index, gain in enumerate(gains)}
    chosen = choose(gain_of, count)
    assert len(chosen) == min(count, len(gains))
    values = [gain_of[name] for name in chosen]
    assert values == sorted(values)
    if count >= 3 and len(gains) >= 3:
        named = {rank: gain_of[name] for name, rank in chosen.items() if rank is not None}
        assert named == {"worst": min(gains), "best": max(gains), "median": sorted(gains)[(len(gains) - 1) // 2]}


def test_pictures_and_their_scores_are_those_of_the_validation(run: Path) -> None:
    read = read_run(run)
    student, teacher = load_student(run / "student_model_v1.pth"), build_teacher(read.config.teacher, CPU)
    validation = Validation(read.config, teacher, CPU)
    expected = validation.evaluate(student).images
    shown = gallery([read], 3, CPU).pictures
    assert [picture.name for picture in shown] == NAMES
    for picture in shown:
        assert {x.role: x.psnr for x in picture.layers if x.role != "sharp"} == pytest.approx(
            {row: expected[picture.name][row].psnr for row in ROWS}, abs=1e-6
        )
        original = centre_crop(read_image(Path(str(read.config.data.val.sharp)) / f"{picture.name}.png"), 80)
        assert np.array_equal(picture.layers[-1].pixels, centre_crop(original, SHOWN_SIDE))


def test_where_the_images_are_gone_the_last_sample_picture_is_cut_up(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    sharp = validation_images(tmp_path / "sharp", NAMES)
    make_run(folder, sharp)
    for path in sharp.iterdir():
        path.unlink()
    (folder / "samples").mkdir()
    columns = np.random.default_rng(0).integers(0, 256, (2, 4, COLUMN_SIDE, COLUMN_SIDE, 3), np.uint8)
    gap = np.full((COLUMN_SIDE, 4, 3), 255, np.uint8)
    rows = [np.concatenate([part for column in row for part in (column, gap)][:-1], axis=1) for row in columns]
    Image.fromarray(np.concatenate(rows)).save(folder / "samples" / "step_0000040.png")
    (folder / "samples" / "step_0000050.png").write_bytes(b"half a picture")
    shown = gallery([read_run(folder)], 6, CPU)
    assert [picture.name for picture in shown.pictures] == ["a", "b"]
    for picture, row in zip(shown.pictures, columns, strict=True):
        assert [layer.role for layer in picture.layers] == ["blurry", "student", "teacher", "sharp"]
        assert all(np.array_equal(layer.pixels, column) for layer, column in zip(picture.layers, row, strict=True))
    assert "cut from the run's last validation picture" in shown.notes[0]


@pytest.fixture
def unsharp(tmp_path: Path) -> Path:
    """A run of which nobody has sharp images."""
    make_run_without_sharp(tmp_path / "unsharp", validation_images(tmp_path / "blurry", NAMES))
    return tmp_path / "unsharp"


def test_without_sharp_images_pictures_are_scored_against_the_teacher(unsharp: Path) -> None:
    read = read_run(unsharp)
    student, teacher = load_student(unsharp / "student_model_v1.pth"), build_teacher(read.config.teacher, CPU)
    expected = Validation(read.config, teacher, CPU).evaluate(student).fidelity
    shown = gallery([read], 3, CPU).pictures
    assert [(picture.name, picture.rank) for picture in shown] == [("c", "least"), ("b", "median"), ("a", "most")]
    assert [picture.reproduced for picture in shown] == [0.7, 0.8, 0.9]
    for picture in shown:
        scores = expected[picture.name]
        assert [layer.role for layer in picture.layers] == ["blurry", "student", "teacher"]
        assert [layer.psnr for layer in picture.layers] == [
            pytest.approx(scores.blurry.psnr, abs=1e-6),
            pytest.approx(scores.student.psnr, abs=1e-6),
            None,
        ]
        assert {layer.against for layer in picture.layers} == {"teacher"}


def test_a_page_without_sharp_images_has_no_gain_and_no_sharp_picture(unsharp: Path) -> None:
    shown = content(report([unsharp], images=2))
    (run,), pictures = shown["runs"], shown["pictures"]
    assert (run["scores"], run["images"]) == ({}, [])
    assert run["toTeacher"]["reproduced"] == 0.8
    assert [image["name"] for image in run["followed"]] == ["c", "b", "a"]
    assert [(picture["gain"], picture["hasSharp"]) for picture in pictures] == 2 * [(None, False)]


def test_of_both_kinds_half_of_the_pictures_each(tmp_path: Path, sharp: Path) -> None:
    make_mixed_run(tmp_path / "mixed", sharp, validation_images(tmp_path / "blurry", NAMES))
    shown = gallery([read_run(tmp_path / "mixed")], 4, CPU).pictures
    assert [(picture.name, picture.rank) for picture in shown] == [
        ("0/a", "worst"),
        ("0/c", "best"),
        ("1/c", "least"),
        ("1/a", "most"),
    ]
    assert [picture.has_sharp for picture in shown] == [True, True, False, False]


def test_of_runs_without_sharp_images_the_same_image_is_one_picture(unsharp: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    make_run_without_sharp(other, tmp_path / "blurry", optimizer={"lr": 0.5})
    shown = gallery(read_runs([unsharp, other]), 2, CPU).pictures
    assert [[layer.label for layer in picture.layers] for picture in shown] == 2 * [
        ["blurry", "student of unsharp", "student of other", "teacher"]
    ]
    assert {picture.ranked_by for picture in shown} == {"unsharp"}


def test_a_run_with_sharp_images_and_one_without_keep_their_pictures(unsharp: Path, run: Path) -> None:
    """Both have images of the same names."""
    shown = gallery(read_runs([run, unsharp]), 2, CPU).pictures
    assert [(picture.name, picture.ranked_by, picture.has_sharp) for picture in shown] == [
        ("a", "run", True),
        ("c", "unsharp", False),
    ]
    report([run, unsharp], images=0)


def test_before_the_first_student_the_first_sample_picture_is_shown_and_it_is_said(unsharp: Path, tmp_path: Path) -> None:
    (unsharp / "student_model_v1.pth").unlink()
    (unsharp / "evaluation.csv").unlink()
    (unsharp / "samples").mkdir()
    columns = np.random.default_rng(0).integers(0, 256, (3, COLUMN_SIDE, COLUMN_SIDE, 3), np.uint8)
    Image.fromarray(side_by_side(list(columns))).save(unsharp / "samples" / "step_0000000.png")
    shown = gallery([read_run(unsharp)], 6, CPU)
    (picture,) = shown.pictures
    assert [layer.role for layer in picture.layers] == ["blurry", "student", "teacher"]
    assert all(np.array_equal(layer.pixels, column) for layer, column in zip(picture.layers, columns, strict=True))
    assert "before the first step" in shown.notes[1]


def test_too_little_memory_for_the_pictures_costs_no_page(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise error

    monkeypatch.setattr(pictures, "_recompute", refuse)
    error: Exception = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
    shown = content(report([run]))
    assert shown["pictureNotes"] == ["There are no pictures to show: there is not enough memory for them"]
    notes = gallery([read_run(run)], 1, torch.device("cuda", 0)).notes
    assert notes[0].endswith("there is not enough memory for them; --device cpu needs none of the GPU's")
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        report([run])


@pytest.mark.parametrize("weights", ["gone.pth", "motion_deblurring"])
def test_a_teacher_that_is_not_here_is_left_out_and_not_downloaded(
    run: Path, weights: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def download(*_: Any, **__: Any) -> None:
        raise AssertionError("a report must not download")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("weights: embedded", f"weights: {weights}"))
    shown = gallery([read_run(run)], 1, CPU)
    assert [layer.role for layer in shown.pictures[0].layers] == ["blurry", "student", "sharp"]
    assert "The teacher's pictures are missing" in shown.notes[0]
    assert weights in shown.notes[0]


def test_of_several_runs_the_same_image_is_one_picture_with_a_student_of_each(run: Path, tmp_path: Path, sharp: Path) -> None:
    other = tmp_path / "other"
    make_run(other, sharp, optimizer={"lr": 0.5})
    shown = gallery(read_runs([run, other]), 2, CPU).pictures
    assert [[layer.label for layer in picture.layers] for picture in shown] == 2 * [
        ["blurry", "student of run", "student of other", "teacher", "sharp"]
    ]
    page = content(report([run, other], images=1))
    assert page["differences"] == [{"key": "optimizer.lr", "values": ["0.0001", "0.5"]}]


def test_another_blur_is_another_picture(run: Path, tmp_path: Path, sharp: Path) -> None:
    other = tmp_path / "other"
    make_run(other, sharp, degrade=[{"kind": "gaussian_blur", "sigma": [3.0, 3.0]}])
    assert [picture.name for picture in gallery(read_runs([run, other]), 2, CPU).pictures] == ["a", "a", "c", "c"]


def test_runs_with_one_name_are_told_apart_by_their_paths(run: Path, tmp_path: Path, sharp: Path) -> None:
    other = tmp_path / "other" / "run"
    make_run(other, sharp)
    assert [read.label for read in read_runs([run, other])] == [str(run), str(other)]


@pytest.mark.parametrize("kind", ["missing", "empty", "broken"])
def test_what_is_no_run_is_one_line_and_status_2(
    tmp_path: Path, kind: str, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    if kind != "missing":
        folder.mkdir()
    if kind == "broken":
        (folder / "config.yaml").write_text("stages: [")
    assert call(report_command.main, folder) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert str(folder) in said
    assert not (folder / "report.html").exists()


def test_the_command_takes_its_options(run: Path, tmp_path: Path, call: Callable[..., int]) -> None:
    out = tmp_path / "elsewhere" / "page.html"
    assert call(report_command.main, run, "--out", out, "--images", 2, "--device", CPU) == 0
    assert len(content(out)["pictures"]) == 2
    assert not (run / "report.html").exists()


def test_a_page_that_cannot_be_written_is_refused_before_its_pictures_are_made(
    run: Path, tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_command, "gallery", None)
    before = {path: path.read_bytes() for path in run.iterdir()}
    (tmp_path / "folder").mkdir()
    for out in (run / "config.yaml" / "page.html", tmp_path / "folder"):
        assert call(report_command.main, run, "--out", out) == 2
        assert f"{out}: cannot be written: " in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_here_is_refused(run: Path, device: str) -> None:
    with pytest.raises(ConfigError, match="device"):
        report([run], device=device)
    assert not (run / "report.html").exists()


def test_a_folder_given_twice_is_refused(run: Path) -> None:
    with pytest.raises(ConfigError, match="given twice"):
        report([run, run / ".." / run.name])


def test_training_records_its_continuation_and_what_it_left_out(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    images = validation_images(tmp_path / "images", NAMES)
    broken = images / "broken.png"
    broken.write_bytes(b"no picture")
    config = tiny_config(data={"sharp": str(images)}, teacher={"mode": "none"}, stages=[{"name": "v1", "epochs": 2, "kd": 0.0}])
    with pytest.raises(Interrupted):
        train(config, gate=StopAt(2))
    train(config)
    read = read_run(Path(config.run.dir))
    assert [(record["step"], record["total_steps"]) for record in records(config.run.dir, "start")] == [(0, 8), (3, 8)]
    assert status(read)[0] == "complete"
    assert "The run was stopped and continued once, from step 3." in notes(read)
    assert len({record["path"] for record in read.of("skipped")}) == 1
    assert str(broken) in " ".join(warnings(read))
    assert not Clock(read).estimated


def test_further_scores_are_in_records_csv_and_report(tiny_tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run that measures them. The report of a machine that lacks what they need shows what was measured."""
    names = ["psnr_y", "ssim_rgb_matlab"]
    tiny_tree["eval"] |= {"metrics": names, "images": 2}
    tiny_tree["stages"][0]["epochs"] = 1
    config = parse_config(tiny_tree)
    evaluation = train(config)
    (record,) = records(config.run.dir, "val")
    student = evaluation.mean("student")
    assert student is not None
    assert list(student.more) == names
    assert {name: record[f"student_{name}"] for name in names} == student.more
    monkeypatch.setattr(metrics, "OURS", {})
    shown = content(report([Path(config.run.dir)], images=1))["runs"][0]
    assert shown["scores"]["student"] == student.measures
    assert shown["curves"]["val"]["values"]["student_psnr_y"] == [pytest.approx(student.more["psnr_y"], rel=1e-5)]
    for image in shown["images"]:
        assert image["scores"]["student"]["psnr_y"] == pytest.approx(
            evaluation.images[image["name"]]["student"].more["psnr_y"], abs=0.005
        )
    assert shown["images"]
