"""The commands of the documents, the configurations and the commands' help run, those of each place one after the other in a
folder of its own, as a reader would run them. Networks, patches and steps are made small, weights that would be downloaded are
replaced, and run folders from elsewhere are stood in for."""

from __future__ import annotations

import glob
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import TrainHere
from scipy.ndimage import gaussian_filter
from shell_commands import ROOT, Command, all_commands, is_ours, make_parser, split_ours

from distill.config import GENERAL, Config, load_config, load_study
from distill.studies import processes
from distill.synthesis.dead_leaves import dead_leaves
from unet.model import UNet

pytestmark = pytest.mark.slow

PLACES = {place: commands for place, commands in all_commands().items() if place != "CONTRIBUTING.md"}  # .ci/run's own steps
SHARP_FOLDERS = (
    *(f"PHOTOS/{name}" for name in ("train", "val", "test", "kodak24", "bsds500_train", "bsds500_val")),
    *("photos", "PAIRS/train/sharp", "PAIRS/val/sharp", "data/DIV2K_train_HR", "data/DIV2K_valid_HR"),
    *(f"data/GOPRO_Large/{part}/street/sharp" for part in ("train", "test")),
)
ORIGINAL_PARTS = ("train/train", "train/test", "benchmark")
RUN = re.compile(r"(?:^|[= ])(runs/\w+)")
WIDTH, DEPTH = 4, 2


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Sharp and blurry images of 48x48, with Kodak's names."""
    sharp, blurry = tmp_path_factory.mktemp("sharp"), tmp_path_factory.mktemp("blurry")
    for number in range(1, 13):
        pixels = dead_leaves(48, np.random.default_rng(number))
        Image.fromarray(pixels).save(sharp / f"kodim{number:02}.png")
        blurred = gaussian_filter(pixels.astype(np.float32), (1.5, 1.5, 0))
        Image.fromarray(blurred.round().astype(np.uint8)).save(blurry / f"kodim{number:02}.png")
    return sharp, blurry


@pytest.fixture
def project(images: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with the project's configurations and programs, and with photographs where the documents have theirs."""
    sharp, blurry = images
    for name in ("configs", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for folder in SHARP_FOLDERS:
        shutil.copytree(sharp, tmp_path / folder)
        if folder.startswith(("PAIRS", "data/GOPRO")):
            name = "blur" if "GOPRO" in folder else "blurry"
            shutil.copytree(blurry, tmp_path / Path(folder).with_name(name))
    shutil.copytree(blurry, tmp_path / "PHOTOS" / "blurry")
    shutil.copy(blurry / "kodim01.png", tmp_path / "blurry.png")
    (tmp_path / "more" / "here").mkdir(parents=True)
    for name in ("scan.tif", "more/here/one.jpg"):
        Image.open(blurry / "kodim02.png").save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def add_original_project(project: Path, images: tuple[Path, Path]) -> None:
    """The folders and files of the original project."""
    sharp, blurry = images
    for part in ORIGINAL_PARTS:
        for source, kind in ((sharp, "data/sharp"), (blurry, "data/blurry"), (sharp, "outputs/teacher_output")):
            shutil.copytree(source, project / kind / part)
    student = UNet(width=WIDTH, depth=DEPTH, norm="batch", residual=False)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-4)
    student(torch.rand(1, 3, 32, 32)).mean().backward()
    optimizer.step()
    (project / "checkpoints").mkdir()
    torch.save(student.state_dict(), project / "checkpoints" / "student_model_v2.pth")
    torch.save(
        {"epoch": 3, "model": student.state_dict(), "optimizer": optimizer.state_dict()},
        project / "checkpoints" / "student_checkpoint.pth",
    )


def smaller(config: Config) -> list[str]:
    """Overrides with which the same run takes about a second, on a CPU, with nothing downloaded."""
    overrides = ["run.device=cpu", "data.patch=32", "data.batch=2", "data.images_per_epoch=4", "data.workers=0"]
    overrides += ["eval.crop=32", "vgg.weights=random", "vgg.resize=32"]
    overrides += [f"stages.{index}.epochs=1" for index in range(len(config.stages))]
    overrides += ["teacher.precision=fp32", "teacher.compile=false"]
    if config.student.arch == "unet" and config.student.init != GENERAL:
        overrides += [f"student.width={WIDTH}", f"student.depth={DEPTH}"]
        overrides += [f"student.blocks={[1] * DEPTH}"] if config.student.block == "residual" else []
    if config.teacher.weights == "motion_deblurring":
        overrides += ["teacher.weights=embedded"]
    overrides += ["bench.rounds=1", "bench.steps=4", "bench.network=teacher", "bench.teacher_forms=[reference,ours]"]
    overrides += ["bench.precisions=[fp32]", "bench.teacher_shapes=[[1,32,32]]", "bench.student_shapes=[[1,32,32]]"]
    overrides += ["bench.student_peers=[]"]
    return overrides


def shrunk(name: str, words: list[str]) -> list[str]:
    arguments = make_parser(name).parse_intermixed_args(words)
    if name == "prepare":
        return [*words, "--patch", "32", "--workers", "1"]
    if getattr(arguments, "config", None) is None:
        return words
    if name == "study":
        study = load_study(arguments.config, arguments.set)
        shared = [*study.set, *smaller(load_config(study.base, study.set))]
        return [*words, "--set", f"set={json.dumps(shared)}", "seeds=[0]", "match=steps", "minutes=null"]
    return [*words, "--set", *smaller(load_config(arguments.config, arguments.set))]


class Reader:
    """Runs commands in the current folder."""

    def __init__(self, call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
        self.call, self.capsys = call, capsys

    def run(self, command: Command) -> None:
        for folder in re.findall(RUN, " ".join(word for word in command.words if not word.startswith("run.dir="))):
            self._supply_run(folder)
        if is_ours(command):
            self._run_ours(command)
        elif command.words[0] == "python":
            words = [found for word in command.words[1:] for found in sorted(glob.glob(word)) or [word]]  # as a shell
            self._check(command, subprocess.run([sys.executable, *words], capture_output=True, text=True))
        else:
            assert command.words[0] in ("pip", "pytest"), "run by .ci/run"

    def _run_ours(self, command: Command) -> None:
        launcher, name, words = split_ours(command)
        words = shrunk(name, words)
        if "--config" in words:
            self._supply_patches(name, words)
        if launcher[0] == "torchrun":
            alone = {"8": "2", "4": "1", "FIRST_HOST:29500": "localhost:0"}  # one machine with two processes
            start = [sys.executable, "-m", "torch.distributed.run", *(alone.get(word, word) for word in launcher[1:])]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
            started = [*start, "-m", f"distill.{name}", *words]
            self._check(command, subprocess.run(started, capture_output=True, text=True, env=environment))
        else:
            self._call(name, words)

    def _supply_patches(self, name: str, words: list[str]) -> None:
        if name == "study":
            return
        arguments = make_parser(name).parse_intermixed_args(words)
        sharp = Path(str(load_config(arguments.config, arguments.set).data.sharp))
        if sharp.parts[-3:] == ("sharp", "train", "train") and not sharp.exists():
            given = ["--sharp", "photos", "--out", str(sharp.parents[2]), "--degrade", "configs/photos_online.yaml"]
            self._call("prepare", shrunk("prepare", given))

    def _supply_run(self, folder: str) -> None:
        """A finished run of that name, where no earlier command of the place has left it."""
        if Path(folder).exists():
            return
        config = Path("configs") / f"{Path(folder).name}.yaml"
        given = ["--config", str(config if config.exists() else "configs/photos_online.yaml")]
        images = ["data.sharp=photos", "data.blurry=null", "data.val.sharp=photos", "data.val.blurry=null"]
        overrides = [*images, "degrade=[{kind: gaussian_blur, sigma: [0.8, 2.4]}]", "teacher.mode=online", f"run.dir={folder}"]
        if "teacher" in folder:
            overrides[-2] = "teacher.mode=none"
        self._call("train", shrunk("train", [*given, "--set", *overrides]))

    def _call(self, name: str, words: list[str]) -> None:
        status = self.call(importlib.import_module(f"distill.{name}").main, *words)
        said = self.capsys.readouterr()
        assert status == 0, f"python -m distill.{name} {' '.join(words)}\n{said.err}"

    @staticmethod
    def _check(command: Command, ended: subprocess.CompletedProcess[str]) -> None:
        assert ended.returncode == 0, f"{' '.join(command.words)}\n{ended.stderr}"


@pytest.mark.parametrize("place", PLACES)
def test_the_commands_of_a_place_run(
    place: str,
    project: Path,
    images: tuple[Path, Path],
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "Popen", TrainHere)
    if place == "migrating.md":
        add_original_project(project, images)
    reader = Reader(call, capsys)
    for command in PLACES[place]:
        reader.run(command)
