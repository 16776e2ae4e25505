"""A student goes on from the original project's resume file as the original itself would have."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distill.config import Config, ConfigError
from distill.networks.student import build_student
from distill.train import train
from distill.training.state import TrainingState, continue_optimizer, new_training_state
from restormer.weight_files import WeightsError
from restormer.weights import load_restormer
from unet.model import UNet

CPU = torch.device("cpu")


ORIGINAL_ORDER = ["enc1", "enc2", "enc3", "bottleneck", "up3", "up2", "up1", "dec3", "dec2", "dec1", "final"]


ORIGINAL_STUDENT = {"width": 4, "depth": 4, "residual": False, "norm": "batch"}


class Original(nn.Module):
    """The original's modules in the order in which it registers them, which is that of its keys and of its optimiser."""

    def __init__(self) -> None:
        super().__init__()
        unet = UNet(**ORIGINAL_STUDENT)  # type: ignore[arg-type]
        for name in ORIGINAL_ORDER:
            self.add_module(name, unet.get_submodule(name))


def random_gradients(model: nn.Module, seed: int) -> None:
    """The same for a parameter of the same name, in any order of the parameters."""
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(seed * 1000 + sum(name.encode()))
        parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))


@pytest.fixture
def original() -> tuple[Original, torch.optim.Adam]:
    """After three steps."""
    torch.manual_seed(0)
    model = Original()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(3):
        random_gradients(model, step)
        optimizer.step()
    return model, optimizer


@pytest.fixture
def resume_file(original: tuple[Original, torch.optim.Adam], tmp_path: Path) -> Path:
    model, optimizer = original
    content = {"epoch": 4, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(content, tmp_path / "student_checkpoint.pth")
    return tmp_path / "student_checkpoint.pth"


def continued(config: Config) -> TrainingState:
    state = new_training_state(build_student(config.student, config.run.seed), config.optimizer, CPU)
    continue_optimizer(state.optimizer, state.student, config.student)
    return state


def test_the_next_step_is_the_one_the_original_would_take(
    original: tuple[Original, torch.optim.Adam], resume_file: Path, tiny_config: Callable[..., Config]
) -> None:
    state = continued(tiny_config(student=ORIGINAL_STUDENT | {"init": str(resume_file)}))
    model, optimizer = original
    expected = dict(model.named_parameters())
    for step in (3, 4):
        for network, its in ((model, optimizer), (state.student, state.optimizer)):
            random_gradients(network, step)
            its.step()
        for name, parameter in state.student.named_parameters():
            torch.testing.assert_close(parameter, expected[name], atol=1e-6, rtol=1e-5, msg=name)


def test_a_u_net_does_not_start_from_a_restormer(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    torch.save(load_restormer("embedded").state_dict(), tmp_path / "teacher.pth")
    with pytest.raises(ConfigError, match="is of another network than student describes"):
        build_student(tiny_config(student={"init": str(tmp_path / "teacher.pth")}).student, seed=0)


def test_weights_alone_start_adam_anew(resume_file: Path, tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    torch.save(torch.load(resume_file, weights_only=True)["model"], tmp_path / "student_model_v1.pth")
    state = continued(tiny_config(student=ORIGINAL_STUDENT | {"init": str(tmp_path / "student_model_v1.pth")}))
    assert state.optimizer.state_dict()["state"] == {}


@pytest.mark.parametrize("damage", ["fewer parameters", "another shape", "no moments", "no step", "steps", "not a state"])
def test_an_optimizer_state_of_another_network_is_refused(
    resume_file: Path, tiny_config: Callable[..., Config], damage: str
) -> None:
    content: dict[str, Any] = torch.load(resume_file, weights_only=True)
    if damage == "fewer parameters":
        content["optimizer"]["param_groups"][0]["params"].pop()
    elif damage == "another shape":
        content["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)
    elif damage == "no moments":
        content["optimizer"]["state"][0] = {"momentum_buffer": torch.zeros(3)}
    elif damage == "no step":
        del content["optimizer"]["state"][0]["step"]
    elif damage == "steps":
        content["optimizer"]["state"][0]["step"] = torch.zeros(2)
    else:
        content["optimizer"] = [1, 2]
    torch.save(content, resume_file)
    with pytest.raises(WeightsError, match=r"student_checkpoint\.pth: its optimizer state is not"):
        continued(tiny_config(student=ORIGINAL_STUDENT | {"init": str(resume_file)}))


def test_a_run_continues_it(resume_file: Path, tiny_config: Callable[..., Config], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    config = tiny_config(student=ORIGINAL_STUDENT | {"init": str(resume_file)})
    train(config)
    assert "going on after its epoch 4, with Adam's moments" in caplog.text
    saved = torch.load(Path(config.run.dir) / "student_checkpoint.pth", weights_only=True)
    assert float(saved["optimizer"]["state"][0]["step"]) == 3 + 8
