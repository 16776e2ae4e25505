"""A student's file says which network it holds, and what is known of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from distill.config import UNetConfig
from distill.networks.student_files import FORMAT, load_student, read_student, save_student, student_safetensors
from restormer.weight_files import WeightsError
from unet.model import UNet

UNET = {"width": 4, "depth": 2, "residual": True, "norm": "batch"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"state_dict": None}, "holds a NoneType, not a state dict"),
        ({"state_dict": {7: torch.zeros(1)}}, "holds keys that are no names of tensors"),
        ({"state_dict": {"enc1.block.0.weight": 7}}, "enc1.block.0.weight is a int"),
        ({"arch": "vit"}, "a student of an unknown kind"),
        ({"architecture": [1]}, "a student of an unknown kind"),
        ({"architecture": UNET | {"residual": "yes"}}, "a student of an unknown kind"),
        ({"format": "?", "state_dict": None, "model": 7, "optimizer": 7}, "format is a str, not a tensor"),
    ],
)
def test_a_student_file_of_something_else_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = tmp_path / "student.pth"
    content = {"format": FORMAT, "arch": "unet", "architecture": UNET, "state_dict": UNet(width=4, depth=2).state_dict()}
    torch.save(content | change, path)
    with pytest.raises(WeightsError, match=rf"student\.pth: {reason}"):
        load_student(path)


@pytest.mark.parametrize("said", [{"width": 10**12}, {"depth": 10**9}, {"width": -1}, {"norm": ["none"]}])
def test_a_student_is_what_its_weights_are_of_whatever_stands_beside_them(tmp_path: Path, said: dict[str, Any]) -> None:
    state = UNet(width=4, depth=2).state_dict()
    content = {"format": FORMAT, "arch": "unet", "architecture": UNET | said, "state_dict": state}
    torch.save(content, tmp_path / "student.pth")
    loaded = load_student(tmp_path / "student.pth")
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())


def test_a_file_that_says_nothing_is_read_as_before(tmp_path: Path) -> None:
    state = UNet(width=4, depth=2).state_dict()
    torch.save({"format": FORMAT, "arch": "unet", "architecture": UNET, "state_dict": state}, tmp_path / "student.pth")
    loaded, about = read_student(tmp_path / "student.pth")
    assert about == {}
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"arch": "unet", "architecture": "{"}, "its metadata is not JSON"),
        ({"arch": "unet", "architecture": "[" * 100_000}, "its metadata is not JSON"),
        ({"arch": "unet", "architecture": "[1]"}, "a student of an unknown kind"),
        ({"arch": "unet"}, "a student of an unknown kind"),
        ({}, "a student of an unknown kind"),
    ],
)
def test_safetensors_that_say_something_else_are_refused(tmp_path: Path, metadata: dict[str, str], reason: str) -> None:
    save_file(UNet(width=4, depth=2).state_dict(), tmp_path / "student.safetensors", {"format": FORMAT} | metadata)
    with pytest.raises(WeightsError, match=rf"student\.safetensors: {reason}"):
        load_student(tmp_path / "student.safetensors")


def test_what_a_file_says_of_itself_comes_back(tmp_path: Path) -> None:
    about = {"stage": "v1", "step": 8, "validation_student_psnr": 28.5}
    save_student(tmp_path / "student.pth", UNet(width=4, depth=2), UNetConfig(width=4, depth=2), about)
    (tmp_path / "student.safetensors").write_bytes(student_safetensors(UNet(width=4, depth=2), about))
    assert read_student(tmp_path / "student.pth")[1] == about
    assert read_student(tmp_path / "student.safetensors")[1] == about
