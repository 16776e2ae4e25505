"""Files that earlier versions wrote load with the same content.

`b9feb99/` was written by the commit of that name, before the rooms had their present names: sharp and blurry images, a teacher
cache, its pack, and the folder of a run of six steps that was stopped after three. `expected.json` holds what that commit's own
readers gave: sha256 of tensors, as `digest` computes them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.cache import verify_cache
from distill.config import Config, load_config
from distill.data.sources import training_sources
from distill.data.triplets import ImageFile
from distill.networks.student import build_student
from distill.networks.student_files import read_student
from distill.networks.teacher import build_teacher
from distill.reporting.reading import read_run
from distill.teacher_cache.store import TeacherCache
from distill.train import train
from distill.training.resume import read_saved, resume_run
from distill.training.state import new_training_state

FILES = Path(__file__).parent / "b9feb99"
EXPECTED = json.loads((FILES / "expected.json").read_text())
CPU = torch.device("cpu")


def digest(tree: Any) -> str:
    """sha256 of all arrays and tensors in nested dictionaries and lists, their dtypes, shapes and keys."""
    total = hashlib.sha256()

    def add(node: Any) -> None:
        if isinstance(node, Tensor):
            node = node.detach().cpu().contiguous().numpy()
        if isinstance(node, np.ndarray):
            total.update(f"{node.dtype} {node.shape}".encode())
            total.update(np.ascontiguousarray(node).tobytes())
        elif isinstance(node, dict):
            for key in sorted(node, key=str):
                total.update(str(key).encode())
                add(node[key])
        elif isinstance(node, Sequence) and not isinstance(node, str):
            for entry in node:
                add(entry)

    add(tree)
    return total.hexdigest()


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The old run's configuration, in a copy of the old files, whose paths are relative."""
    shutil.copytree(FILES, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return load_config("run/config.yaml")


def images_of(config: Config) -> list[ImageFile]:
    (source,) = training_sources(config.data)
    assert source.images is not None
    return source.images


def test_a_checkpoint_loads_with_the_same_tensors(config: Config) -> None:
    state = new_training_state(build_student(config.student, config.run.seed), config.optimizer, CPU)
    saved = read_saved(Path("run"))
    assert saved is not None
    plan = resume_run(saved, Path("run"), state, 4, build_teacher(config.teacher, CPU), config)
    assert state.ema is not None
    found = {name: digest(part.state_dict()) for name, part in vars(state).items() if name in ("student", "ema", "optimizer")}
    assert found == {name: EXPECTED[name] for name in found}
    assert asdict(plan.at(state.step)) == EXPECTED["plan"] | {"reuse": 1, "patch": config.data.patch}
    assert state.best == ("psnr", EXPECTED["best_psnr"])
    for key in ("step", "validated_step"):
        assert getattr(state, key) == EXPECTED[key]


def test_a_student_loads_with_the_same_tensors() -> None:
    student, about = read_student(FILES / "run" / "student_best.pth")
    assert digest(student.state_dict()) == EXPECTED["student_file"]
    assert {key: value for key, value in about.items() if key != "config"} == EXPECTED["about"]


@pytest.mark.parametrize("folder", ["cache", "pack"])
def test_a_cache_and_its_pack_are_valid_and_load_the_same_images(config: Config, folder: str) -> None:
    config = config.model_copy(update={"teacher": config.teacher.model_copy(update={"cache": folder})})
    cache: TeacherCache = verify_cache(config)
    assert {image.stem: digest(list(vars(cache.read(image)).values())) for image in images_of(config)} == EXPECTED[folder]


def test_a_run_folder_is_read(config: Config) -> None:
    run = read_run(Path("run"))
    assert [[record["kind"], record["step"]] for record in run.records] == EXPECTED["records"]
    assert [record["rejected_updates"] for record in run.of("train")] == [0, 0, 0]


def test_a_run_goes_on_and_ends(config: Config) -> None:
    evaluation = train(config)
    assert torch.load("run/student_checkpoint.pth", weights_only=True)["step"] == 6
    assert len(evaluation.images) == 3
