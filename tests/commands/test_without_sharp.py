"""Somebody's own blurry photographs and nothing else: every command, one after the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from running import StopAt, checkpoint, records, same_bits, write_config
from safetensors.torch import save_file

from distill import evaluate, export, report, restore
from distill.command import Interrupted
from distill.config import ConfigError, load_config, parse_config
from distill.data.image_files import read_image
from distill.networks.student_files import read_student
from distill.train import train
from distill.training.checkpoint import save_checkpoint
from restormer.published import locate_weights
from restormer.weight_files import read_weights


@pytest.fixture
def tree(tiny_tree: dict[str, Any], sharp_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """The tiny configuration with four JPEGs as all its images."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(4):
        image = Image.open(sharp_folder / f"{number}.png")
        image.resize((40, 40)).resize(image.size).save(photos / f"IMG_{number}.JPG", quality=85)
    tiny_tree["data"] |= {"sharp": None, "blurry": str(photos), "val": {"blurry": str(photos)}}
    tiny_tree["teacher"]["check"] = "warn"
    return tiny_tree | {"degrade": []}


def test_from_blurry_photographs_alone_to_a_deployed_student(
    tree: dict[str, Any],
    tmp_path: Path,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    straight = parse_config(tree)
    with caplog.at_level("INFO"):
        evaluation = train(straight)
    assert "without sharp images nobody can know whether that is better: look at" in caplog.text
    assert "WARNING" not in caplog.text
    assert evaluation.images == {}
    assert len(evaluation.fidelity) == 4
    folder = Path(straight.run.dir)
    assert (folder / "samples" / "step_0000000.png").exists()
    assert (folder / "student_best.pth").exists()
    assert read_student(folder / "student_best.pth")[1]["validation_reproduced"] == pytest.approx(checkpoint(straight)["best"][1])

    stopped = parse_config(tree | {"run": tree["run"] | {"dir": str(tmp_path / "stopped")}})
    with pytest.raises(Interrupted):
        train(stopped, gate=StopAt(5))
    train(stopped)
    assert same_bits(checkpoint(straight), checkpoint(stopped))
    assert records(folder, "val") == records(stopped.run.dir, "val")
    assert set(records(folder, "val")[-1]) >= {"reproduced", "blurry_to_teacher_psnr", "student_to_teacher_ssim"}
    assert all("l1" not in line for line in records(folder, "train"))

    config = write_config(tree, tmp_path / "own.yaml")
    capsys.readouterr()
    assert call(evaluate.main, "--config", config) == 0
    table = capsys.readouterr().out.strip()
    assert table == evaluation.table()
    assert "of the teacher's correction" in table
    assert call(report.main, folder, "--out", tmp_path / "report.html") == 0
    page = (tmp_path / "report.html").read_text()
    assert "the student learned from the teacher's images alone" in page
    assert "from sharp originals" not in page
    out, student = tmp_path / "restored", folder / "student_best.pth"
    assert call(restore.main, tmp_path / "photos", "--weights", student, "--out", out) == 0
    assert sorted(path.name for path in out.glob("*.JPG")) == [f"IMG_{number}.JPG" for number in range(4)]
    assert call(export.main, "--weights", student, "--out", tmp_path / "student.onnx") == 0
    assert (tmp_path / "student.onnx").stat().st_size > 1000


def test_the_general_student_is_specialised(tree: dict[str, Any], tmp_path: Path, call: Callable[..., int]) -> None:
    tree |= {"student": {"init": "general"}, "teacher": tree["teacher"] | {"weights": "general", "reuse": 2}}
    straight = parse_config(tree)
    assert train(straight).fidelity
    stopped = parse_config(tree | {"run": tree["run"] | {"dir": str(tmp_path / "stopped")}})
    with pytest.raises(Interrupted):
        train(stopped, gate=StopAt(5))
    train(load_config(Path(stopped.run.dir) / "config.yaml"))
    assert same_bits(checkpoint(straight), checkpoint(stopped))
    assert call(report.main, straight.run.dir, "--out", tmp_path / "report.html") == 0
    page = (tmp_path / "report.html").read_text()
    assert "starting from the network that comes with this project, general" in page
    assert "the small Restormer that comes with this project, general" in page.replace("The small", "the small")


def test_another_teacher_begins_the_best_anew(tree: dict[str, Any], tmp_path: Path) -> None:
    """How close a student came to one teacher says nothing about another one, not even if it has the same file name."""
    weights = read_weights(locate_weights("embedded"))
    save_file(dict(weights), tmp_path / "teacher.safetensors")
    tree["teacher"]["weights"] = str(tmp_path / "teacher.safetensors")
    config = parse_config(tree)
    train(config)
    longer = tree | {"stages": [tree["stages"][0] | {"epochs": 3}]}
    save_checkpoint(Path(config.run.dir), checkpoint(config) | {"best": ["reproduced", 0.999]})
    best = Path(config.run.dir) / "student_best.pth"
    best.unlink()
    train(parse_config(longer))
    assert not best.exists()  # the same teacher: nothing is better
    save_file({name: value * 1.01 for name, value in weights.items()}, tmp_path / "teacher.safetensors")
    longer["stages"][0]["epochs"] = 4
    train(parse_config(longer))
    assert best.exists()


def test_a_folder_given_as_its_own_sharp_images_is_refused(tree: dict[str, Any]) -> None:
    blurry = tree["data"]["blurry"]
    with pytest.raises(ConfigError, match="is its own sharp image, from which a student learns to change nothing"):
        train(parse_config(tree | {"data": tree["data"] | {"sharp": blurry}}))


def test_images_that_the_teacher_does_not_change_still_rank_students(tree: dict[str, Any], tmp_path: Path) -> None:
    """Blank pages, which are equal to their teacher's images at first: an infinite PSNR, and no correction to reproduce."""
    pages = tmp_path / "pages"
    pages.mkdir()
    for number in range(2):
        Image.fromarray(np.full((64, 64, 3), 255, np.uint8)).save(pages / f"{number}.png")
    tree["data"]["val"] = {"blurry": str(pages)}
    config = parse_config(tree)
    evaluation = train(config)
    assert evaluation.table().count("inf") == 0
    assert (Path(config.run.dir) / "student_best.pth").exists()
    text = (Path(config.run.dir) / "metrics.jsonl").read_text()
    assert all(json.loads(line) for line in text.splitlines())
    assert "Infinity" not in text
    assert read_image(pages / "0.png").min() == 255
