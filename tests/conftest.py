"""What several tests need: small photographs in a folder, and a configuration that trains in seconds."""

from __future__ import annotations

import copy
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from distill.command import SIGNALS, run_command
from distill.config import Config, parse_config
from distill.networks import teacher
from distill.scoring import half_precision
from distill.synthesis.dead_leaves import dead_leaves

TINY = {
    "run": {"dir": "unset", "device": "cpu", "log_steps": 2},
    "data": {"sharp": "unset", "patch": 32, "batch": 4, "images_per_epoch": 16, "workers": 0, "val": {"sharp": "unset"}},
    "degrade": [{"kind": "gaussian_blur", "sigma": [0.8, 2.4]}],
    "augment": {},
    "vgg": {},
    "teacher": {"mode": "online", "weights": "embedded", "check": "off"},
    "student": {"arch": "unet", "width": 4, "depth": 2},
    "stages": [{"name": "v1", "epochs": 2, "l1": 1.0, "kd": 1.0}],
    "optimizer": {"lr": 1.0e-3},
    "eval": {"crop": 64},
    "bench": {},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def sharp_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six synthetic images of 72x64 and larger, one of them in a subfolder."""
    folder = tmp_path_factory.mktemp("sharp")
    (folder / "sub").mkdir()
    for index in range(6):
        pixels = dead_leaves(80, np.random.default_rng(index))[: 64 + index]
        Image.fromarray(pixels).save(folder / ("sub" if index == 5 else ".") / f"{index}.png")
    return folder


@pytest.fixture
def tiny_tree(sharp_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """The nested dictionary of a configuration that trains in seconds; a test changes what it is about."""
    tree: dict[str, Any] = copy.deepcopy(TINY)
    tree["run"]["dir"] = str(tmp_path / "run")
    tree["data"]["sharp"] = tree["data"]["val"]["sharp"] = str(sharp_folder)
    return tree


@pytest.fixture
def tiny_config(tiny_tree: dict[str, Any]) -> Callable[..., Config]:
    """`tiny_config(data={"batch": 8})` is the tiny configuration with these keys changed, section by section."""

    def make(**sections: Any) -> Config:
        changed = {name: {**tiny_tree[name], **value} if isinstance(value, dict) else value for name, value in sections.items()}
        return parse_config(tiny_tree | changed)

    return make


@pytest.fixture
def pairs_tree(tiny_tree: dict[str, Any], sharp_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """The tiny configuration with a folder of blurry images beside the sharp ones, and a cache folder that is not there yet."""
    blurry = tmp_path / "blurry"
    for path in sharp_folder.rglob("*.png"):
        target = blurry / path.relative_to(sharp_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        pixels = gaussian_filter(np.asarray(Image.open(path)).astype(np.float32), (1.5, 1.5, 0))
        Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(target)
    tiny_tree["data"]["blurry"] = str(blurry)
    tiny_tree["teacher"] |= {"mode": "cached", "cache": str(tmp_path / "cache")}
    return tiny_tree


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`call(command.main, "--config", path)` runs a command in this process and returns its exit status."""

    def run(main: Callable[[], None], *arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        try:
            run_command(main)
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    return run


@pytest.fixture(autouse=True)
def _without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run as on a CPU without instructions for bf16: what a run times must not decide what a test sees."""
    for module in (half_precision, teacher):
        monkeypatch.setattr(module, "multiplies_bf16", lambda device: False)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws without a seed of its own is the same in whatever order tests run."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _restore_signals() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)
