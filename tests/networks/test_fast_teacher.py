"""A GPU's teacher gives the same images however it is made fast, and does without what fails there."""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from distill.benchmark.workloads import photograph
from distill.config import Config
from distill.data.batch import on_device
from distill.data.datasets import TrainingPatches
from distill.data.loader import training_loader
from distill.networks import fast_teacher
from distill.networks.fast_teacher import MAX_DIFFERENCE, speed_up, speed_up_for_training
from distill.networks.teacher import Teacher
from distill.runtime.ranks import Ranks
from restormer import kernels
from restormer.model import Restormer
from restormer.weights import load_restormer

SMALL = {"dim": 8, "num_blocks": [1, 1, 1, 1], "heads": [1, 1, 1, 1], "num_refinement_blocks": 1}
Form = Callable[[Tensor], Tensor]


def small_network() -> Restormer:
    return Restormer(**SMALL)  # type: ignore[arg-type]


def test_on_a_cpu_nothing_changes(tiny_config: Callable[..., Config]) -> None:
    teacher = Teacher(load_restormer("embedded"))
    blurry = photograph([4, 32, 32])
    before = teacher(blurry)
    teacher.replay((4, 3, 32, 32), lambda image: image)  # of an earlier stage, say
    speed_up_for_training(teacher, tiny_config(teacher={"compile": True}), Ranks())
    assert torch.equal(teacher(blurry), before)


@pytest.mark.parametrize(
    ("accumulate", "ranks", "micro_batch", "images"), [(1, 1, None, 8), (2, 1, None, 4), (2, 2, None, 2), (1, 2, 3, 3)]
)
def test_it_is_recorded_for_what_a_step_gives_it(
    tiny_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    accumulate: int,
    ranks: int,
    micro_batch: int | None,
    images: int,
) -> None:
    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr(fast_teacher, "speed_up", lambda teacher, shape, compile_blocks: shapes.append(shape))
    config = tiny_config(data={"batch": 8}, optimizer={"accumulate": accumulate}, teacher={"micro_batch": micro_batch})
    speed_up_for_training(Teacher(small_network()), config, Ranks(0, ranks))
    assert shapes == [(images, 3, 32, 32)]


SAMPLE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (lambda x: 1 / 0, "fails here: ZeroDivisionError"),
        (lambda x: x + 0.11, "changes its correction by 10.0 % here"),
        (lambda x: x * float("nan"), "changes its correction by nan % here"),
        (lambda x: SAMPLE + 0.1, "changes its correction by"),  # a graph that read nothing but what it was recorded with
        (lambda x: x + 0.1 * (1 + 0.5 * MAX_DIFFERENCE[torch.float32]), None),
    ],
)
def test_what_fails_or_differs_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, form: Form, message: str | None
) -> None:
    def record(network: object, sample: Tensor, compile_blocks: bool) -> Form:
        form(sample)
        return form

    monkeypatch.setattr(fast_teacher, "_capture", record)
    image = SAMPLE.flip(-1)
    example = fast_teacher._Example(image, image + 0.1, MAX_DIFFERENCE[torch.float32])
    with caplog.at_level(logging.WARNING):
        tried = fast_teacher._try("kernels", small_network(), SAMPLE, example, False)
    if message is None:
        assert tried is form
        assert not caplog.records
    else:
        assert tried is None
        assert f"goes without kernels: it {message}" in caplog.text


@pytest.mark.parametrize(
    ("compile_blocks", "seconds", "taken"),
    [
        (True, {"compiled blocks": 1.19, "Triton kernels": 1.0}, "compiled blocks"),
        (True, {"compiled blocks": 1.21, "Triton kernels": 1.0}, "Triton kernels"),
        (True, {"compiled blocks": 1.0}, "compiled blocks"),
        (True, {"a CUDA graph": 1.0}, "a CUDA graph"),
        (False, {"compiled blocks": 0.1, "a CUDA graph": 2.0, "Triton kernels": 1.0}, "Triton kernels"),
        (True, {"Triton kernels": 1.0}, None),
    ],
)
def test_the_fastest_form_that_works_is_taken(
    monkeypatch: pytest.MonkeyPatch, compile_blocks: bool, seconds: dict[str, float], taken: str | None
) -> None:
    def form(name: str) -> Any:
        return name if name in seconds else None

    monkeypatch.setattr(fast_teacher, "_try", lambda what, *_, **__: form(what))
    monkeypatch.setattr(fast_teacher, "_time", lambda what, sample: seconds[what])
    monkeypatch.setattr(kernels, "AVAILABLE", True)
    teacher = Teacher(small_network(), torch.float16)
    assert fast_teacher._fastest(teacher, SAMPLE, compile_blocks) == taken


def error_of(teacher: Teacher, exact: Restormer, shape: list[int]) -> float:
    """RMS difference over the RMS of the correction."""
    blurry = photograph(shape).cuda()
    with torch.no_grad():
        expected = exact(blurry).clamp(0, 1)
    return float((teacher(blurry) - expected).square().mean().sqrt() / (expected - blurry).square().mean().sqrt())


@pytest.mark.gpu
@pytest.mark.parametrize("compile_blocks", [False, True])
def test_a_fast_teacher_gives_the_same_images_on_a_gpu(compile_blocks: bool, caplog: pytest.LogCaptureFixture) -> None:
    """fp16 against fp32, whose difference on photographs is 0.7 % of the correction without any of this."""
    torch.backends.cudnn.allow_tf32 = False
    exact = load_restormer("embedded").cuda().eval()
    teacher = Teacher(copy.deepcopy(exact), torch.float16, micro_batch=2).cuda()
    with caplog.at_level(logging.WARNING):
        speed_up(teacher, (2, 3, 64, 64), compile_blocks)
    assert not caplog.records
    assert teacher._replayed is not None
    gc.collect()
    torch.cuda.empty_cache()
    taken = torch.full((2**26,), float("nan"), device="cuda")  # memory that a graph must not need any more
    for shape in ([4, 64, 64], [3, 64, 64], [1, 96, 80]):  # recorded twice; recorded, and another; another
        assert error_of(teacher, exact, shape) < 0.01, shape
    assert bool(taken.isnan().all())


@pytest.mark.gpu
@pytest.mark.skipif(not kernels.AVAILABLE, reason="needs triton")
def test_kernels_give_the_same_images_on_a_gpu() -> None:
    torch.backends.cudnn.allow_tf32 = False
    exact = load_restormer("embedded").cuda().eval()
    half = exact.padded_copy()
    half.use_kernels()
    assert error_of(Teacher(half, torch.float16).cuda(), exact, [2, 64, 96]) < 0.01


@pytest.mark.gpu
def test_batches_copied_beside_the_steps_arrive_whole(tiny_config: Callable[..., Config]) -> None:
    """The device is kept busy, so that copies run ahead; what a step sees must not be overwritten by the next copy."""
    dataset = TrainingPatches(tiny_config(data={"patch": 64}))
    expected = [batch.sharp for batch in training_loader(dataset, 0, 20, pin=False)]
    busy, sums = torch.randn(2048, 2048, device="cuda"), []
    for batch in on_device(training_loader(dataset, 0, 20, pin=True), torch.device("cuda")):
        for _ in range(10):
            busy = (busy @ busy).clamp(-1, 1)
        sums.append(batch.sharp.long().sum())
    assert [int(total) for total in sums] == [int(images.long().sum()) for images in expected]
