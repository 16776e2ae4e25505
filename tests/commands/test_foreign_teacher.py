"""Every command treats a teacher that spandrel built like any other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_networks import network, save_network
from PIL import Image
from running import records, write_config
from torch import nn

from distill import cache as cache_command
from distill import evaluate as evaluate_command
from distill import report as report_command
from distill import restore as restore_command
from distill import train as train_command
from distill.benchmark.roofline import cost
from distill.benchmark.workloads import photograph, reference_network, teacher_forward, teacher_network
from distill.config import TeacherConfig
from distill.networks.teacher import build_teacher

Call = Callable[..., int]


def teacher_file(path: Path, name: str) -> str:
    """A network that changes its image a little."""
    made = network(name)
    last = [module for module in made.modules() if isinstance(module, nn.Conv2d)][-1]
    with torch.no_grad():
        last.weight.mul_(0.1)
    torch.save({"params": made.state_dict()}, path)
    return str(path)


def test_a_run_with_a_nafnet_goes_all_the_way(
    tiny_tree: dict[str, Any], tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str], sharp_folder: Path
) -> None:
    """Trained online, scored, reported, and both networks restore a file."""
    weights = teacher_file(tmp_path / "nafnet.pth", "NAFNet")
    tiny_tree["teacher"] |= {"weights": weights, "check": "warn", "micro_batch": 3}
    config, run = write_config(tiny_tree, tmp_path / "config.yaml"), tmp_path / "run"
    assert call(train_command.main, "--config", config) == 0
    losses = records(run, "train")
    assert all(np.isfinite(record["kd"]) and record["kd"] > 0 for record in losses)
    capsys.readouterr()
    assert call(evaluate_command.main, "--config", config) == 0
    assert "teacher  " in capsys.readouterr().out
    assert call(report_command.main, run) == 0
    page = (run / "report.html").read_text()
    assert "network in the file" in page
    assert "pictures are missing" not in page
    for file, out in ((weights, "teacher"), (run / "student_model_v1.pth", "student")):
        assert call(restore_command.main, "--weights", file, sharp_folder / "0.png", "--out", tmp_path / out) == 0
    found = np.asarray(Image.open(tmp_path / "teacher" / "0.png")).astype(float)
    blurry = torch.from_numpy(np.array(Image.open(sharp_folder / "0.png"))).permute(2, 0, 1)[None] / 255
    teacher = build_teacher(TeacherConfig(weights=weights), torch.device("cpu"))
    assert teacher is not None
    assert np.abs(found - teacher(blurry)[0].permute(1, 2, 0).numpy() * 255).max() < 0.51  # rounded to 8 bits


def test_a_cache_says_which_network_made_it(
    pairs_tree: dict[str, Any], tmp_path: Path, call: Call, capfd: pytest.CaptureFixture[str]
) -> None:
    """Trained from stored images. A NAFNet's cache and a Restormer's refuse each other's teacher."""
    weights = teacher_file(tmp_path / "nafnet.pth", "NAFNet")
    for name, chosen in (("nafnet", weights), ("restormer", "embedded")):
        tree = pairs_tree | {"teacher": pairs_tree["teacher"] | {"weights": chosen, "cache": str(tmp_path / name)}}
        assert call(cache_command.main, "--config", write_config(tree, tmp_path / f"{name}.yaml")) == 0
    assert json.loads((tmp_path / "nafnet" / "manifest.json").read_text())["teacher"]["architecture"] == {"arch": "NAFNet"}
    assert call(train_command.main, "--config", tmp_path / "nafnet.yaml") == 0
    capfd.readouterr()
    for name, other, says in (("nafnet", "restormer", "NAFNet, not Restormer"), ("restormer", "nafnet", "Restormer, not NAFNet")):
        for command in (train_command, cache_command):
            overrides = [f"teacher.cache={tmp_path / name}", f"run.dir={tmp_path / 'x'}"]
            assert call(command.main, "--config", tmp_path / f"{other}.yaml", "--set", *overrides) == 2
            assert f"made by another network than teacher.weights: {says}" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["DRUNet", "RetinexFormer"])
def test_other_architectures_teach_online(tiny_tree: dict[str, Any], tmp_path: Path, call: Call, name: str) -> None:
    tiny_tree["teacher"]["weights"] = teacher_file(tmp_path / "teacher.pth", name)
    tiny_tree["stages"][0]["epochs"] = 1
    assert call(train_command.main, "--config", write_config(tiny_tree, tmp_path / "config.yaml")) == 0
    assert records(tmp_path / "run", "train")[-1]["kd"] > 0


@pytest.mark.parametrize("form", ["reference", "ours"])
def test_bench_times_it(tmp_path: Path, form: str) -> None:
    settings = TeacherConfig(weights=str(save_network(tmp_path / "w.pth", "DnCNN")))
    found = teacher_forward(settings, False, form, "fp32", [2, 40, 33], torch.device("cpu"))()  # type: ignore[arg-type]
    teacher = build_teacher(settings, torch.device("cpu"))
    assert teacher is not None
    torch.testing.assert_close(found.clamp(0, 1), teacher(photograph([2, 40, 33])), atol=1e-5, rtol=0)


def test_bench_counts_its_operations(tmp_path: Path) -> None:
    settings = TeacherConfig(weights=str(save_network(tmp_path / "w.pth", "DnCNN")))
    counted = cost(reference_network(teacher_network(settings, False)), (2, 3, 40, 33), torch.float32)
    # Eight 3x3 convolutions: 3 -> 4 channels, six of 4 -> 4, and 4 -> 3. A product and a sum count as two.
    assert counted.flop == 2 * 9 * (3 * 4 + 6 * 4 * 4 + 4 * 3) * 2 * 40 * 33
