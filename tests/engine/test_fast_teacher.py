"""A GPU's teacher gives the same images however it is made fast, and does without what fails there."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distill.config import Config
from distill.engine import fast_teacher
from distill.engine.fast_teacher import MAX_DIFFERENCE, speed_up, speed_up_for_training
from distill.engine.teacher import Teacher
from distill.engine.workloads import photograph
from restormer import kernels
from restormer.weights import load_restormer

Form = Callable[[Tensor], Tensor]


def test_on_a_cpu_nothing_changes(tiny_config: Callable[..., Config]) -> None:
    teacher = Teacher(load_restormer("embedded"))
    blurry = photograph([4, 32, 32])
    before = teacher(blurry)
    speed_up_for_training(teacher, tiny_config(teacher={"compile": True}))
    assert torch.equal(teacher(blurry), before)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda x: 1 / 0, "fails here: ZeroDivisionError"),
        (lambda x: x + 0.11, "changes its correction by 10.0 % here"),
        (lambda x: x * float("nan"), "changes its correction by nan % here"),
        (lambda x: x + 0.1 * (1 + 0.5 * MAX_DIFFERENCE), None),
    ],
)
def test_what_fails_or_differs_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, form: Form, message: str | None
) -> None:
    """For a network that adds 0.1."""

    def record(network: object, sample: Tensor, compile_blocks: bool) -> Form:
        form(sample)
        return form

    monkeypatch.setattr(fast_teacher, "_record", record)
    sample = torch.rand(1, 3, 16, 16)
    with caplog.at_level(logging.WARNING):
        tried = fast_teacher._try("kernels", load_restormer("embedded"), sample, False, lambda x: x + 0.1)
    if message is None:
        assert tried is form
        assert not caplog.records
    else:
        assert tried is None
        assert f"goes without kernels: it {message}" in caplog.text


@pytest.mark.gpu
@pytest.mark.parametrize("compile_blocks", [False, True])
def test_a_fast_teacher_gives_the_same_images_on_a_gpu(compile_blocks: bool) -> None:
    """fp16 against fp32, whose difference on photographs is 0.7 % of the correction without any of this."""
    device = torch.device("cuda")
    network = load_restormer("embedded").to(device)
    teacher = Teacher(copy.deepcopy(network), torch.float16, micro_batch=2).to(device)
    speed_up(teacher, (2, 3, 64, 64), compile_blocks)
    for shape in ([4, 64, 64], [3, 64, 64], [1, 96, 80]):  # recorded twice; recorded, and another; another
        blurry = photograph(shape).to(device)
        with torch.no_grad():
            exact = network(blurry).clamp(0, 1)
        error = (teacher(blurry) - exact).square().mean().sqrt() / (exact - blurry).square().mean().sqrt()
        assert float(error) < 0.01, shape


@pytest.mark.gpu
@pytest.mark.skipif(not kernels.AVAILABLE, reason="needs triton")
def test_kernels_give_the_same_images_on_a_gpu() -> None:
    network = load_restormer("embedded").to("cuda").padded_copy()
    half = copy.deepcopy(network).half()
    half.use_kernels(True)
    blurry = photograph([2, 64, 96]).cuda()
    with torch.no_grad():
        exact, restored = network(blurry), half(blurry)
    error = (restored - exact).square().mean().sqrt() / (exact - blurry).square().mean().sqrt()
    assert float(error) < 0.01
