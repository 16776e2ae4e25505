"""The teacher stays frozen whatever is done to it, and is measured before it is believed."""

from __future__ import annotations

import pytest
import torch
from tiny_networks import Function
from torch import nn

from distill.config import TeacherConfig
from distill.networks.teacher import Teacher, build_teacher
from restormer.weights import load_restormer


@pytest.fixture
def teacher() -> Teacher:
    return Teacher(load_restormer("embedded"))


def test_train_mode_and_gradients_do_not_reach_it(teacher: Teacher) -> None:
    holder = nn.ModuleList([teacher])
    holder.train()
    assert not any(module.training for module in teacher.modules())
    blurry = torch.rand(1, 3, 16, 16, requires_grad=True)
    target = teacher(blurry)
    assert not target.requires_grad
    # it can be saved for a backward pass, which an inference tensor cannot
    (blurry * target).sum().backward()
    assert torch.equal(blurry.grad, target)  # type: ignore[arg-type]


def test_its_image_is_clamped(teacher: Teacher) -> None:
    extreme = torch.randint(0, 2, (1, 3, 32, 32)).float()
    with torch.no_grad():  # as the teacher does it: with gradients the network sums in another order
        raw = teacher.network(extreme)
    assert float(raw.max()) > 1 or float(raw.min()) < 0
    assert torch.equal(teacher(extreme), raw.clamp(0, 1))


def test_micro_batches_change_no_result(teacher: Teacher) -> None:
    blurry = torch.rand(5, 3, 32, 32)
    whole = teacher(blurry)
    teacher.micro_batch = 2
    # a matrix product of another size may sum in another order
    torch.testing.assert_close(teacher(blurry), whole, atol=1e-5, rtol=0)


def test_no_teacher_is_none() -> None:
    assert build_teacher(TeacherConfig(mode="none"), torch.device("cpu")) is None


def test_automatic_precision_is_full_on_a_cpu_and_half_warns(caplog: pytest.LogCaptureFixture) -> None:
    cpu = torch.device("cpu")
    built = build_teacher(TeacherConfig(weights="embedded"), cpu)
    assert built is not None
    assert built.dtype == torch.float32
    assert not caplog.records
    half = build_teacher(TeacherConfig(weights="embedded", precision="bf16"), cpu)
    assert half is not None
    assert half.network.output.weight.dtype == torch.bfloat16  # type: ignore[union-attr]
    assert "slower" in caplog.text


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_a_recorded_form_stands_in_for_its_shape_alone(micro_batch: int | None) -> None:
    """It gives the same memory at each call, as a CUDA graph does."""
    teacher = Teacher(Function(lambda x: x + 0.25), micro_batch=micro_batch)
    memory = torch.empty(2, 3, 8, 8)
    teacher.replay(tuple(memory.shape), lambda x: memory.copy_(x).add_(0.5))
    images = torch.linspace(0, 0.4, 4).view(4, 1, 1, 1).expand(4, 3, 8, 8)
    expected = images + (0.5 if micro_batch else 0.25)
    torch.testing.assert_close(teacher(images), expected)
    torch.testing.assert_close(teacher(images[:, :, :4]), images[:, :, :4] + 0.25)
    kept = teacher(images[:2])
    teacher(images[2:])
    torch.testing.assert_close(kept, images[:2] + 0.5)
    teacher.use_precision("fp32")  # the form was recorded in another
    torch.testing.assert_close(teacher(images[:2]), images[:2] + 0.25)
