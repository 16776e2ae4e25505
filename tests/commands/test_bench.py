"""The benchmark as a user runs it: small shapes, every kind of measurement once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from distill import bench

SMALL = {
    "rounds": 1,
    "steps": 4,
    "teacher_shapes": [[2, 32, 48], [1, 8, 8]],
    "teacher_forms": ["reference", "ours", "ours_kernels"],
    "student_shapes": [[1, 32, 32]],
    "student_widths": [8],
}


@pytest.fixture
def config_file(tiny_tree: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**tiny_tree, "bench": SMALL}))
    return path


def test_everything_is_measured_and_written(
    config_file: Path, tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    files = tmp_path / "bench.json", tmp_path / "bench.png"
    assert call(bench.main, "--config", config_file, "--json", files[0], "--chart", files[1]) == 0
    report = json.loads(files[0].read_text())
    rows = {(row["network"], row["form"], *row["shape"]): row for row in report["forward"]}
    teacher, student = "teacher (embedded)", "student (unet, width 8)"
    assert list(rows) == [
        (teacher, "reference", 2, 32, 48),
        (teacher, "ours", 2, 32, 48),
        (teacher, "reference", 1, 8, 8),
        (teacher, "ours", 1, 8, 8),
        (student, "as trained, NCHW", 1, 32, 32),
        (student, "as trained, NCHW, keeping pages", 1, 32, 32),
        (student, "ours", 1, 32, 32),
    ]
    ours = rows[teacher, "ours", 2, 32, 48]
    assert ours["images_per_s"] == pytest.approx(2e3 / ours["ms"])
    assert ours["times_as_fast"] == pytest.approx(rows[teacher, "reference", 2, 32, 48]["ms"] / ours["ms"])
    assert 0 < ours["largest_difference"] < 1e-4
    assert 0 < rows[student, "ours", 1, 32, 32]["largest_difference"] < 1e-4
    # A form that fails is named, and costs no other.
    assert "at least 16x16" in rows[teacher, "ours", 1, 8, 8]["failure"]
    assert rows[teacher, "reference", 1, 8, 8]["failure"] is None
    assert rows[teacher, "ours", 1, 8, 8]["ms"] is None

    loop = report["loop"]
    parts = loop["degrade_augment"][0] + loop["teacher"][0] + loop["student_step"][0]
    assert loop["overhead"] == pytest.approx(loop["online"][0] / parts)

    printed = capsys.readouterr().out
    for text in ("GFLOP/s float32", f"{teacher}, fp32, 2x3x32x48", "failed: ", "online step", "filling a cache"):
        assert text in printed
    assert Image.open(files[1]).size[0] == 1080


def test_forms_of_a_gpu_alone_leave_nothing_to_measure_here(
    config_file: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        assert call(bench.main, "--config", config_file, "--only", "teacher", "--set", "bench.teacher_forms=[ours_eager]") == 0
    assert "bench.teacher_forms: ours_eager: not for this device, or not installed; left out" in caplog.text
    assert "ours_eager" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "teachers"], "the parts are teacher, student, loop"),
        (["--set", "teacher.mode=none", "stages=[{name: a, epochs: 1, kd: 0.0}]"], "there is no teacher to measure"),
        (["--set", "bench.teacher_shapes=[[1, 2]]"], "bench.teacher_shapes.0"),
    ],
)
def test_a_mistake_is_one_line(
    config_file: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert call(bench.main, "--config", config_file, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
