"""A run from its first line to its table: what it leaves, how it stops, and that it goes on as if it had not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from distill import evaluate as evaluate_command
from distill import train as train_command
from distill.cache import build_cache
from distill.command import Interrupted, SignalGate
from distill.config import Config, ConfigError, load_config
from distill.data.files import WriteError, locked
from distill.engine.plan import Plan
from distill.engine.student import load_student
from distill.train import train

ROOT = Path(__file__).parents[1]


class StopAt(SignalGate):
    """A gate through which a signal comes at the n-th look."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks  # after each step, and before each validation image

    def check(self, agree: Callable[[int | None], int | None] = lambda signum: signum) -> None:
        self.looks -= 1
        if self.looks < 0:
            raise Interrupted(signal.SIGTERM, between_steps=True)


def checkpoint(config: Config) -> dict[str, Any]:
    return torch.load(Path(config.run.dir) / "student_checkpoint.pth", weights_only=True)


def tensors(tree: Any, prefix: str = "") -> dict[str, Tensor]:
    if isinstance(tree, Tensor):
        return {prefix: tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else []
    return {name: value for key, inner in items for name, value in tensors(inner, f"{prefix}/{key}").items()}


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
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "train"] == [2, 4, 6, 8]
    assert [r["stage"] for r in records if r["kind"] == "train"] == ["v1", "v1", "v2", "v2"]
    assert ["vgg" in r for r in records if r["kind"] == "train"] == [False, False, True, True]
    assert [r["step"] for r in records if r["kind"] == "val"] == [4, 8]
    # the teacher is in no file
    assert not any("network" in name or "attn" in name for name in tensors(checkpoint(config)))
    kept = load_student(folder / "student_model_v2.pth").state_dict()
    assert all(torch.equal(kept[key], value) for key, value in checkpoint(config)["student"].items())


@pytest.mark.parametrize("looks", [1, 3, 5, 7])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_stopped_run_goes_on_bit_for_bit(tiny_tree: dict[str, Any], tmp_path: Path, looks: int, workers: int) -> None:
    tiny_tree["optimizer"] |= {"ema": 0.9, "schedule": "cosine", "warmup_steps": 2}
    tiny_tree["data"]["workers"] = workers
    straight = Config.model_validate(tiny_tree)
    train(straight)
    tiny_tree["run"] = tiny_tree["run"] | {"dir": str(tmp_path / "stopped")}
    stopped = Config.model_validate(tiny_tree)
    with pytest.raises(Interrupted):
        train(stopped, gate=StopAt(looks))
    assert 0 < checkpoint(stopped)["step"] < 8
    train(stopped)
    expected, found = tensors(checkpoint(straight)), tensors(checkpoint(stopped))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    logs = []
    for config in (straight, stopped):
        lines = (Path(config.run.dir) / "metrics.jsonl").read_text().splitlines()
        logs.append([{k: v for k, v in json.loads(line).items() if k != "images_per_s"} for line in lines])
    assert [r for r in logs[1] if r["kind"] == "val"] == [r for r in logs[0] if r["kind"] == "val"]


@pytest.mark.parametrize("on_missing", ["error", "compute"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_stopped_cached_run_goes_on_bit_for_bit(
    pairs_tree: dict[str, Any], tmp_path: Path, on_missing: str, workers: int
) -> None:
    """Whether the cache was there or is filled by the run, half of it before it was stopped."""
    pairs_tree["data"]["workers"] = workers
    results = []
    for name in ("straight", "stopped"):
        pairs_tree["run"] = pairs_tree["run"] | {"dir": str(tmp_path / name)}
        cache = str(tmp_path / f"cache of {name}")
        pairs_tree["teacher"] = pairs_tree["teacher"] | {"cache": cache, "on_missing": on_missing}
        config = Config.model_validate(pairs_tree)
        if on_missing == "error":
            build_cache(config)
        if name == "stopped":
            with pytest.raises(Interrupted):
                train(config, gate=StopAt(0))
            assert checkpoint(config)["step"] == 1
        train(config)
        results.append(tensors(checkpoint(config)))
    assert results[0].keys() == results[1].keys()
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


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


def test_lines_after_the_checkpoint_are_cut(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config()
    with pytest.raises(Interrupted):
        train(config, gate=StopAt(4))
    log = Path(config.run.dir) / "metrics.jsonl"
    with log.open("a") as file:
        file.write('{"kind": "train", "step": 7, "loss": 9.0}\n{"kind": "tr')  # written after the checkpoint, and torn
    train(config)
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [r["step"] for r in records if r["kind"] == "train"] == sorted({r["step"] for r in records if r["kind"] == "train"})
    assert not any(r.get("loss") == 9.0 for r in records)


def test_a_finished_run_prints_its_table_again(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config()
    assert train(config).images == train(config).images
    assert checkpoint(config)["step"] == 8


def test_fresh_starts_over_and_leaves_foreign_files_alone(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config()
    train(config)
    (Path(config.run.dir) / "notes.txt").write_text("mine")
    with pytest.raises(Interrupted):
        train(config, fresh=True, gate=StopAt(2))
    assert checkpoint(config)["step"] == 3
    assert not (Path(config.run.dir) / "student_model_v1.pth").exists()
    assert (Path(config.run.dir) / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("wrong", [{"teacher": {"weights": "none.pth"}}, {"data": {"sharp": "nowhere"}}])
def test_fresh_with_a_mistake_keeps_the_run_that_is_there(tiny_config: Callable[..., Config], wrong: dict[str, Any]) -> None:
    config = tiny_config()
    train(config)
    before = sorted(Path(config.run.dir).iterdir())
    with pytest.raises(FileNotFoundError):
        train(tiny_config(**wrong), fresh=True)
    assert sorted(Path(config.run.dir).iterdir()) == before


def test_a_second_signal_in_the_middle_of_a_step_saves_nothing(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What such a step has changed, and what not yet, is unknown."""
    config, gate = tiny_config(), SignalGate()
    gate.install()

    def interrupted_twice(*_: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)  # the first only leaves a note
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    monkeypatch.setattr(train_command, "training_step", interrupted_twice)
    with pytest.raises(Interrupted) as stop:
        train(config, gate=gate)
    assert not stop.value.between_steps
    assert not (Path(config.run.dir) / "student_checkpoint.pth").exists()


def test_one_run_at_a_time_writes_a_folder(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config()
    with locked(Path(config.run.dir)), pytest.raises(WriteError, match="another process is writing there"):
        train(config)
    assert [path.name for path in Path(config.run.dir).iterdir()] == [".lock"]
    train(config)


def test_a_checkpoint_beyond_the_last_stage_is_refused(tiny_config: Callable[..., Config]) -> None:
    train(tiny_config())
    with pytest.raises(ConfigError, match=r"checkpoint of step 8, but stages now end at 4"):
        train(tiny_config(stages=[{"name": "v1", "epochs": 1}]))


def test_another_students_checkpoint_is_refused(tiny_config: Callable[..., Config]) -> None:
    train(tiny_config())
    with pytest.raises(ConfigError, match=r"student\.width: 4 is now 8.*--fresh"):
        train(tiny_config(student={"width": 8}))


def test_the_student_is_compiled_in_place_and_compiling_may_change_on_resume(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    with pytest.raises(Interrupted):
        train(tiny_config(), gate=StopAt(4))
    assert not compiled
    train(tiny_config(student={"compile": True}))
    assert [type(module).__name__ for module in compiled] == ["UNet"]


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


def test_the_plan_of_two_stages() -> None:
    config = load_config(ROOT / "configs" / "quickstart.yaml", ["stages=[{name: a, epochs: 2}, {name: b, epochs: 1}]"])
    plan = Plan(config.stages, steps_per_epoch=10, batch=8)
    assert plan.total_steps == 30
    assert [plan.stage_at(step).name for step in (0, 19, 20, 29)] == ["a", "a", "b", "b"]
    assert [step for step in range(1, 31) if plan.ends_stage(step)] == [20, 30]
    assert [step for step in range(1, 31) if plan.validates(step, every_epochs=2)] == [20, 30]


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
            torch.save({"student": 1}, folder / "w.pth")
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
        ("student.init of another width", "w.pth"),
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
    assert capsys.readouterr().out == table
    assert csv.read_text() == (tmp_path / "run" / "evaluation.csv").read_text()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends_with_its_status_and_the_run_goes_on(config_file: Path, tmp_path: Path, signum: int) -> None:
    """As from a shell: the signal goes to the whole process group, workers included."""
    command = [sys.executable, "-m", "distill.train", "--config", str(config_file)]
    command += ["--set", "data.workers=1", "run.log_steps=1", "stages.0.epochs=500"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signum
    assert "Traceback" not in errors
    assert "the same command goes on from there" in errors
    step = torch.load(tmp_path / "run" / "student_checkpoint.pth", weights_only=True)["step"]
    assert step >= 3
    config = load_config(config_file, ["run.log_steps=1", f"stages.0.epochs={step // 4 + 1}"])
    train(config)
    assert checkpoint(config)["step"] == (step // 4 + 1) * 4
