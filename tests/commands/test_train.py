"""A run from its first line to its table: what it leaves, and what it says of wrong input."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from running import checkpoint, records, tensors

from distill import evaluate as evaluate_command
from distill import train as train_command
from distill.config import Config, ConfigError, UNetConfig, load_config
from distill.networks.student_files import load_student, save_student
from distill.train import train
from unet.model import UNet


def test_a_run_leaves_what_the_readme_says(tiny_config: Callable[..., Config]) -> None:
    stages = [{"name": "v1", "epochs": 1}, {"name": "v2", "epochs": 1, "vgg": 0.1}]
    config = tiny_config(stages=stages, vgg={"weights": "random"})
    evaluation = train(config)
    folder = Path(config.run.dir)
    assert [row for row in ("blurry", "teacher", "student") if evaluation.mean(row)] == ["blurry", "teacher", "student"]
    names = {path.name for path in folder.iterdir()}
    assert names == {
        ".lock",
        "config.yaml",
        "student_checkpoint.pth",
        "student_checkpoint.previous.pth",
        "student_best.pth",
        "student_model_v1.pth",
        "student_model_v2.pth",
        "metrics.jsonl",
        "tensorboard",
        "samples",
        "evaluation.csv",
    }
    assert load_config(folder / "config.yaml") == config
    assert [path.name for path in sorted((folder / "samples").iterdir())] == ["step_0000004.png", "step_0000008.png"]
    lines = records(folder, "train")
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert [line["stage"] for line in lines] == ["v1", "v1", "v2", "v2"]
    assert ["vgg" in line for line in lines] == [False, False, True, True]
    assert [line["step"] for line in records(folder, "val")] == [4, 8]
    # the teacher is in no file
    assert not any("network" in name or "attn" in name for name in tensors(checkpoint(config)))
    kept = load_student(folder / "student_model_v2.pth").state_dict()
    assert all(torch.equal(kept[key], value) for key, value in checkpoint(config)["student"].items())


def original_layout(source: Path, blurry: Path, root: Path) -> dict[str, Any]:
    """The original project's folders with its JPEG teacher images, and the overrides that lead there."""
    for kind, folder in (("sharp", source), ("blurry", blurry), ("teacher", source)):
        target = root / ("outputs/teacher_output" if kind == "teacher" else f"data/{kind}")
        for part in ("train/train", "train/test", "benchmark"):
            (target / part).mkdir(parents=True)
            for path in folder.glob("*.png"):
                Image.open(path).save(target / part / f"{path.stem}.jpg", quality=75)
    data = {"sharp": f"{root}/data/sharp/train/train", "blurry": f"{root}/data/blurry/train/train"}
    data["val"] = {kind: f"{root}/data/{kind}/train/test" for kind in ("sharp", "blurry")}  # type: ignore[assignment]
    return {"data": data, "teacher": {"cache": f"{root}/outputs/teacher_output/train/train"}}


def test_the_original_projects_folders_train_with_one_warning(
    pairs_tree: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layout = original_layout(Path(pairs_tree["data"]["sharp"]), Path(pairs_tree["data"]["blurry"]), tmp_path / "old")
    pairs_tree["data"] |= layout["data"]
    pairs_tree["teacher"] |= layout["teacher"]
    pairs_tree["degrade"] = []  # both pairs of folders are there
    evaluation = train(Config.model_validate(pairs_tree))
    assert len(evaluation.images) == 5
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "outputs/teacher_output/train/train: no manifest" in warnings[0]


def test_a_bad_image_is_skipped_and_named_at_the_end(
    tiny_config: Callable[..., Config], sharp_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(sharp_folder, tmp_path / "photos")
    (tmp_path / "photos" / "2.png").write_bytes(b"")
    train(tiny_config(data={"sharp": str(tmp_path / "photos")}))
    assert "could not be used and were skipped: 1" in caplog.text
    assert "2.png: an empty file" in caplog.text


def test_a_useless_teacher_warns_or_stops(tiny_config: Callable[..., Config], caplog: pytest.LogCaptureFixture) -> None:
    """Noise is not what the embedded teacher was trained for: it sharpens it."""
    noisy = [{"kind": "noise", "sigma": [20, 20]}]
    with pytest.raises(ConfigError, match=r"teacher\.check: the teacher makes the validation images worse"):
        train(tiny_config(degrade=noisy, teacher={"check": "error"}))
    train(tiny_config(degrade=noisy, teacher={"check": "warn"}))
    assert "WARNING: the teacher makes the validation images worse" in caplog.text


def test_a_useless_teacher_that_no_loss_asks_for_is_nobodys_concern(
    tiny_config: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    noisy = [{"kind": "noise", "sigma": [20, 20]}]
    train(tiny_config(degrade=noisy, teacher={"check": "error"}, stages=[{"name": "v1", "epochs": 1, "kd": 0.0}]))
    assert "worse" not in caplog.text


# The command line: exit status and the one line on stderr.


@pytest.fixture
def config_file(tiny_tree: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_tree))
    return path


def make_bad_input(kind: str, folder: Path, sharp_folder: Path) -> list[str]:  # noqa: C901 (a flat list of cases)
    """Prepares one kind of wrong input; returns the overrides that lead to it."""
    folder.mkdir()
    match kind:
        case "unknown key":
            return ["data.pach=3"]
        case "missing folder":
            return [f"data.sharp={folder}/nowhere"]
        case "missing validation folder":
            return [f"data.val.sharp={folder}/nowhere"]
        case "empty folder":
            return [f"data.sharp={folder}"]
        case "unmatched pairs":
            shutil.copy(sharp_folder / "0.png", folder)
            return [f"data.blurry={folder}"]
        case "pairs of different size":
            shutil.copy(sharp_folder / "0.png", folder / "a.png")
            (folder / "blurry").mkdir()
            shutil.copy(sharp_folder / "1.png", folder / "blurry" / "a.png")
            (folder / "sharp").mkdir()
            shutil.copy(sharp_folder / "0.png", folder / "sharp" / "a.png")
            return [f"data.sharp={folder}/sharp", f"data.blurry={folder}/blurry"]
        case "text named png":
            (folder / "a.png").write_text("text")
            return [f"data.sharp={folder}"]
        case "zero bytes":
            (folder / "a.png").touch()
            return [f"data.val.sharp={folder}"]
        case "missing weights":
            return [f"teacher.weights={folder}/none.pth"]
        case "weights of another network":
            torch.save({"conv.weight": torch.zeros(3)}, folder / "w.pth")
            return [f"teacher.weights={folder}/w.pth"]
        case "student.init of another width":
            save_student(folder / "w.pth", UNet(width=8, depth=2), UNetConfig(width=8, depth=2))
            return [f"student.init={folder}/w.pth"]
        case "student.init without residual":
            plain = UNetConfig(width=4, depth=2, residual=False, norm="batch")
            save_student(folder / "w.pth", UNet(width=4, depth=2, residual=False, norm="batch"), plain)
            return [f"student.init={folder}/w.pth"]
        case "vgg weights of another network":
            torch.save({"conv.weight": torch.zeros(3)}, folder / "w.pth")
            return [f"vgg.weights={folder}/w.pth", "stages.0.vgg=0.1"]
        case "missing device":
            return ["run.device=cuda:99"]
    raise AssertionError(kind)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("unknown key", "did you mean data.patch?"),
        ("missing folder", "nowhere: no such folder"),
        ("missing validation folder", "nowhere: no such folder"),
        ("empty folder", "no images"),
        ("unmatched pairs", "no image of the same name"),
        ("pairs of different size", "but its sharp image"),
        ("text named png", "none of its 1 images can be used"),
        ("zero bytes", "an empty file"),
        ("missing weights", "none.pth: no such weights"),
        ("weights of another network", "not the weights of a Restormer"),
        ("student.init of another width", "is of another network than student describes"),
        ("student.init without residual", "is of a network with residual: False"),
        ("vgg weights of another network", "not torchvision's vgg16"),
        ("missing device", "cuda:99 is not available"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_wrong_input_ends_with_one_line_and_status_2(
    config_file: Path,
    sharp_folder: Path,
    tmp_path: Path,
    call: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
    kind: str,
    words: str,
    workers: int,
) -> None:
    overrides = make_bad_input(kind, tmp_path / "bad", sharp_folder)
    if any(override.startswith("data.blurry=") for override in overrides):
        overrides.append("data.val.sharp=samples")
    status = call(train_command.main, "--config", config_file, "--set", *overrides, f"data.workers={workers}")
    lines = [line for line in capfd.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("command: ")]
    assert status == 2
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in lines[0]


def test_evaluate_scores_what_train_wrote(
    config_file: Path, tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(evaluate_command.main, "--config", config_file) == 2
    assert "no such student" in capsys.readouterr().err
    assert call(train_command.main, "--config", config_file) == 0
    table = capsys.readouterr().out
    assert [line.split()[0] for line in table.splitlines()[-3:]] == ["blurry", "teacher", "student"]
    csv = tmp_path / "scores.csv"
    assert call(evaluate_command.main, "--config", config_file, "--csv", csv) == 0
    again = capsys.readouterr().out.splitlines()
    assert again[:-1] == table.splitlines()
    assert again[-1].startswith("student to teacher")
    assert csv.read_text() == (tmp_path / "run" / "evaluation.csv").read_text()
