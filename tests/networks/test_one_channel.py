"""A Restormer of one channel restores grey pictures, and others only if it is asked to, channel by channel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from distill import restore as restore_command
from distill.config import ConfigError, TeacherConfig
from distill.export import export
from distill.networks.adapters import ColoursError
from distill.networks.onnx_export import ExportError
from distill.networks.teacher import Teacher, build_teacher, identify
from distill.synthesis.dead_leaves import dead_leaves
from restormer.model import Restormer


@pytest.fixture
def grey_network(tmp_path: Path) -> Restormer:
    torch.manual_seed(0)
    network = Restormer(1, 1, dim=4, num_blocks=[1] * 4, num_refinement_blocks=0, heads=[1, 1, 2, 2]).eval()
    torch.save({"params": network.state_dict()}, tmp_path / "grey.pth")
    return network


def teacher_of(tmp_path: Path, each_channel: bool = False) -> Teacher:
    teacher = build_teacher(TeacherConfig(weights=str(tmp_path / "grey.pth"), each_channel=each_channel), torch.device("cpu"))
    assert teacher is not None
    return teacher


@torch.no_grad()
def restored(network: Restormer, image: Tensor) -> Tensor:
    return network(image).clamp(0, 1)


@pytest.mark.parametrize("each_channel", [False, True])
def test_a_grey_picture_is_restored_as_one_channel(tmp_path: Path, grey_network: Restormer, each_channel: bool) -> None:
    grey = torch.rand(2, 1, 33, 40)
    found = teacher_of(tmp_path, each_channel)(grey.expand(2, 3, 33, 40))
    # A larger batch sums in another order.
    torch.testing.assert_close(found, restored(grey_network, grey).expand(2, 3, 33, 40), atol=1e-5, rtol=0)
    assert float((found - grey).abs().mean()) > 0.01


def test_colours_are_refused_or_restored_channel_by_channel(tmp_path: Path, grey_network: Restormer) -> None:
    image = torch.rand(2, 3, 33, 40)
    with pytest.raises(ColoursError, match=r"this picture has colours; teacher\.each_channel: true"):
        teacher_of(tmp_path)(image)
    expected = torch.cat([restored(grey_network, channel) for channel in image.split(1, dim=1)], dim=1)
    torch.testing.assert_close(teacher_of(tmp_path, each_channel=True)(image), expected, atol=1e-5, rtol=0)


def test_each_channel_is_refused_where_it_says_nothing(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"--each-channel: the network of .*embedded.* has three channels"):
        restore_command.restore([str(tmp_path / "a.png")], "embedded", tmp_path / "out", each_channel=True)
    with pytest.raises(ConfigError, match=r"teacher\.each_channel: the network of embedded has three channels"):
        build_teacher(TeacherConfig(weights="embedded", each_channel=True), torch.device("cpu"))


def test_its_identity_says_its_channels(tmp_path: Path, grey_network: Restormer) -> None:
    assert identify(teacher_of(tmp_path)).architecture["inp_channels"] == 1


def test_two_channels_are_refused(tmp_path: Path, grey_network: Restormer) -> None:
    with pytest.raises(ValueError, match="not 1 in, 3 out"):
        Restormer(1, 3, dim=4)


def test_export_refuses_it_by_name(tmp_path: Path, grey_network: Restormer) -> None:
    for suffix in (".onnx", ".safetensors"):
        with pytest.raises(ExportError, match=r"a Restormer of one channel is not exported|a \.safetensors file holds"):
            export(tmp_path / "grey.pth", tmp_path / f"out{suffix}")
        assert not (tmp_path / f"out{suffix}").exists()


def test_restore_refuses_colours_by_picture_unless_asked(
    tmp_path: Path, grey_network: Restormer, call: Callable[..., int], caplog: pytest.LogCaptureFixture
) -> None:
    pixels = dead_leaves(40, np.random.default_rng(0))
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "colours.png")
    Image.fromarray(pixels).convert("L").save(tmp_path / "in" / "grey.png")
    words = ["--weights", tmp_path / "grey.pth", tmp_path / "in", "--out", tmp_path / "out", "--device", "cpu"]
    assert call(restore_command.main, *words) == 2
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["grey.png"]
    assert "--each-channel" in caplog.text
    assert call(restore_command.main, *words, "--each-channel") == 0
    found = np.asarray(Image.open(tmp_path / "out" / "colours.png")).astype(float)
    channels = torch.from_numpy(pixels).permute(2, 0, 1)[:, None] / 255
    expected = restored(grey_network, channels)[:, 0].permute(1, 2, 0).numpy() * 255
    assert np.abs(found - expected).max() < 0.51  # rounded to 8 bits
