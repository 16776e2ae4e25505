"""What the pages tell a reader to do works, on images and networks that are small."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import write_config

from distill import evaluate, export, restore, train

ROOT = Path(__file__).parents[2]
SOURCE = ("distill", "restormer", "unet", "configs", "tests/test_architecture.py", "setup.cfg")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture
def project(tiny_tree: dict[str, Any], sharp_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder as the examples expect it, whose quickstart takes seconds."""
    (tmp_path / "configs").mkdir()
    tiny_tree["run"]["dir"] = "runs/quickstart"
    write_config(tiny_tree, tmp_path / "configs" / "quickstart.yaml")
    shutil.copytree(sharp_folder, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_program_of_the_api_page_runs(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    # Signatures stand in blocks of the same kind, and are no program.
    parts = [block for block in blocks("api.md", "python") if not block.startswith("def ")]
    assert len(parts) == 6
    exec("\n".join(parts), {})
    said = capsys.readouterr().out
    assert all(word in said for word in ("validation images", "student", "largest difference from torch"))
    assert "not restored" not in said
    assert (project / "scores.csv").is_file()
    assert (project / "student.onnx").is_file()
    assert len(list((project / "restored").rglob("*.png"))) == 6


def test_the_run_folder_holds_what_the_first_page_lists(project: Path, call: Callable[..., int]) -> None:
    assert call(train.main, "--config", "configs/quickstart.yaml") == 0
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    table = page[page.index("| file | what it is |") :].partition("\n\n")[0]
    listed = {name.rstrip("/") for line in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", line.split("|")[1])}
    written = {path.name for path in (project / "runs" / "quickstart").iterdir() if not path.name.startswith(".")}
    assert listed == written


def test_a_student_is_scored_and_restores_as_the_pages_say(project: Path, call: Callable[..., int]) -> None:
    best = "runs/quickstart/student_best.pth"
    assert call(train.main, "--config", "configs/quickstart.yaml") == 0
    assert call(evaluate.main, "--config", "configs/quickstart.yaml", "--weights", best, "--csv", "scores.csv") == 0
    assert call(restore.main, "--weights", best, "photos/", "--out", "restored", "--compare") == 0
    assert call(export.main, "--weights", best, "--out", "student.safetensors") == 0
    assert (project / "student.safetensors").is_file()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git, which applies the changes")
def test_the_examples_of_extending_fit_the_source_and_train(project: Path) -> None:
    copy = project / "copy"
    for name in SOURCE:
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, target)
    changes = blocks("extending.md", "diff")
    assert len(changes) == 2
    for change in changes:
        applied = subprocess.run(["git", "apply", "-"], cwd=copy, input=change, text=True, capture_output=True)
        assert applied.returncode == 0, f"docs/extending.md does not fit the source any more: {applied.stderr}"
    (copy / "dncnn").mkdir()
    (copy / "dncnn" / "__init__.py").touch()
    (copy / "dncnn" / "model.py").write_text(blocks("extending.md", "python")[0])
    program = """
from pathlib import Path
import distill, torch
from distill.config import load_config
from distill.evaluate import evaluate
from distill.train import train

assert str(Path.cwd()) in distill.__file__
keys = ["student={arch: dncnn, width: 4, depth: 3}", "stages.0.fft=0.1", "stages.0.epochs=1", "run.dir=run"]
config = load_config("quickstart.yaml", keys)
trained, read = train(config).mean("student"), evaluate(config).mean("student")
assert trained == read
assert '"fft": ' in Path("run/metrics.jsonl").read_text()
"""
    shutil.copy("configs/quickstart.yaml", copy / "quickstart.yaml")
    environment = os.environ | {"PYTHONPATH": str(copy)}
    ended = subprocess.run([sys.executable, "-c", program], cwd=copy, env=environment, text=True, capture_output=True)
    assert ended.returncode == 0, ended.stderr
