"""One step: who changes and who does not, what a bad update leaves, and what accumulation means."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill.config import AugmentConfig, Config, OptimizerConfig
from distill.data.batch import Batch, on_device, unpack
from distill.data.datasets import TrainingPatches
from distill.data.loader import training_loader
from distill.networks.fast_teacher import speed_up_for_training
from distill.networks.student import build_student
from distill.networks.teacher import Teacher, build_teacher
from distill.networks.vgg import VggFeatures
from distill.runtime.ranks import Ranks
from distill.training.plan import learning_rate
from distill.training.state import TrainingState, new_training_state
from distill.training.step import make_images, training_step

CPU = torch.device("cpu")


def first_batch(config: Config) -> Batch:
    return next(training_loader(TrainingPatches(config), 0, 1, pin=False))


def new_state(config: Config) -> TrainingState:
    return new_training_state(build_student(config.student, config.run.seed), config.optimizer, CPU)


def one_step(
    batch: Batch, state: TrainingState, teacher: nn.Module | None, config: Config, vgg: VggFeatures | None = None
) -> dict[str, Tensor]:
    stage = config.stages[0]
    images = make_images(batch, teacher, stage, config)  # type: ignore[arg-type]
    return training_step(images, state, vgg, stage, 1e-3, config)


def run(
    config: Config, state: TrainingState, teacher: nn.Module | None, steps: int = 1, batch: Batch | None = None
) -> dict[str, Tensor]:
    for _ in range(steps):
        measured = one_step(batch or first_batch(config), state, teacher, config)
    return measured


def values(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture
def teacher(tiny_config: Callable[..., Config]) -> Teacher:
    built = build_teacher(tiny_config().teacher, CPU)
    assert built is not None
    return built


def test_the_student_learns_and_the_teacher_never_changes(tiny_config: Callable[..., Config], teacher: Teacher) -> None:
    config = tiny_config()
    state, before = new_state(config), values(teacher)
    start = values(state.student)
    teacher.train()
    measured = run(config, state, teacher, steps=3)
    assert not same(start, values(state.student))
    assert same(before, values(teacher))
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    optimised = {id(p) for group in state.optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in state.student.parameters()}
    assert set(measured) == {"l1", "kd", "loss", "gradient_norm", "finite", "teacher_failed"}
    assert float(measured["finite"]) == 1
    assert state.step == 3


def test_repeating_a_batch_lowers_its_loss(tiny_config: Callable[..., Config], teacher: Teacher) -> None:
    config = tiny_config(student={"width": 8, "norm": "none"})
    state, batch = new_state(config), first_batch(config)
    start = float(run(config, state, teacher, batch=batch)["loss"])
    assert float(run(config, state, teacher, steps=120, batch=batch)["loss"]) < 0.98 * start


def test_without_kd_the_teacher_is_not_asked(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config(stages=[{"name": "v1", "epochs": 1, "l1": 1.0, "kd": 0.0}])

    class Counts(nn.Module):
        calls = 0

        def forward(self, blurry: Tensor) -> Tensor:
            self.calls += 1
            return blurry

    teacher = Counts()
    measured = run(config, new_state(config), teacher)
    assert teacher.calls == 0
    assert "kd" not in measured


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_bad_update_changes_nothing_but_the_step(tiny_config: Callable[..., Config], teacher: Teacher, poison: float) -> None:
    config = tiny_config(optimizer={"ema": 0.9})
    state = new_state(config)
    run(config, state, teacher, steps=2)
    student, ema = values(state.student), values(state.ema)  # type: ignore[arg-type]
    moments = copy.deepcopy(state.optimizer.state_dict()["state"])

    hook = state.student.register_forward_hook(lambda _, __, prediction: prediction * poison)
    measured = run(config, state, teacher)
    hook.remove()
    assert float(measured["finite"]) == 0
    assert state.step == 3
    assert same(student, values(state.student))  # weights and BatchNorm's buffers, its counter included
    assert same(ema, values(state.ema))  # type: ignore[arg-type]
    for key, slots in state.optimizer.state_dict()["state"].items():
        assert all(torch.equal(slots[name], moments[key][name]) for name in slots)

    assert float(run(config, state, teacher)["finite"]) == 1
    assert not same(student, values(state.student))


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("against", ["sharp", "teacher"])
def test_a_patch_whose_teacher_is_not_finite_loses_that_term_alone(
    tiny_config: Callable[..., Config], teacher: Teacher, poison: float, against: str
) -> None:
    """The gradient is that of the other patches' kd, over the same number of patches, and of everybody's L1."""
    config = tiny_config(stages=[{"name": "v1", "epochs": 1, "vgg": 0.5}], vgg={"weights": "random", "against": against})
    vgg, batch = VggFeatures(config.vgg), first_batch(config)

    def measure(spoilt: bool) -> tuple[dict[str, Tensor], TrainingState]:
        state = new_state(config)

        def spoil(_: nn.Module, __: Any, restored: Tensor) -> Tensor:
            # Row 1 is lost, or else is what stands in for it: the prediction, which is the blurry image before the first step.
            row = torch.full_like(restored[1:2], poison) if spoilt else unpack(batch, config.degrade)[1][1:2]
            return torch.cat([restored[:1], row, restored[2:]])

        plain = config.model_copy(update={"augment": AugmentConfig(flip=False, rotate=False)})
        hook = teacher.network.register_forward_hook(spoil)
        measured = one_step(batch, state, teacher, plain, vgg)
        hook.remove()
        return measured, state

    (lost, state), (expected, same_state) = measure(True), measure(False)
    assert float(lost["finite"]) == 1
    assert float(lost["teacher_failed"]) == float(state.teacher_failed) == 0.25
    assert float(expected["teacher_failed"]) == 0
    assert {name: float(lost[name]) for name in ("l1", "kd", "vgg", "loss", "gradient_norm")} == {
        name: float(expected[name]) for name in ("l1", "kd", "vgg", "loss", "gradient_norm")
    }
    assert same(values(state.student), values(same_state.student))


def test_accumulation_changes_memory_and_not_the_step(tiny_config: Callable[..., Config], teacher: Teacher) -> None:
    results = []
    for parts in (1, 2, 4):
        config = tiny_config(student={"norm": "none"}, optimizer={"accumulate": parts})
        state = new_state(config)
        nn.init.normal_(state.student.final.weight, generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr, arg-type]
        measured = run(config, state, teacher)
        results.append((float(measured["loss"]), float(measured["gradient_norm"])))
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-4)


def test_clipping_bounds_the_gradient_that_is_applied(tiny_config: Callable[..., Config]) -> None:
    moved = []
    for clip in (None, 1e-12):
        # Adam is blind to the gradient's scale until its epsilon matters: a gradient of 1e-12 barely moves a weight.
        config = tiny_config(
            teacher={"mode": "none"}, stages=[{"name": "a", "epochs": 1, "kd": 0.0}], optimizer={"clip_norm": clip}
        )
        state = new_state(config)
        before = values(state.student)
        measured = run(config, state, None)
        assert float(measured["gradient_norm"]) > 1e-3  # reported before clipping
        moved.append(float((values(state.student)["final.weight"] - before["final.weight"]).abs().max()))
    assert moved[0] == pytest.approx(1e-3, rel=0.05)
    assert moved[1] < 1e-6


def test_the_average_follows_the_student_with_its_buffers(tiny_config: Callable[..., Config], teacher: Teacher) -> None:
    config = tiny_config(optimizer={"ema": 0.5})
    state = new_state(config)
    assert state.ema is not None
    expected = values(state.ema)
    for _ in range(12):
        run(config, state, teacher)
        decay = min(0.5, state.step / (state.step + 10))
        for key, value in state.student.state_dict().items():
            expected[key] = expected[key] * decay + value * (1 - decay) if value.is_floating_point() else value.clone()
    for key, value in state.ema.state_dict().items():
        torch.testing.assert_close(value, expected[key], atol=1e-6, rtol=1e-5, msg=key)
    assert state.kept is state.ema


@pytest.mark.parametrize("bias", [False, True])
def test_a_restormer_student_starts_as_the_identity_and_learns(tiny_config: Callable[..., Config], bias: bool) -> None:
    small = {"arch": "restormer", "dim": 8, "num_blocks": [1, 1, 1, 1], "heads": [1, 1, 1, 1], "num_refinement_blocks": 0}
    small["bias"] = bias
    tree: dict[str, Any] = {"teacher": {"mode": "none"}, "stages": [{"name": "a", "epochs": 1, "kd": 0.0}]}
    config = tiny_config(**tree)
    config = Config.model_validate({**config.model_dump(mode="json"), "student": small})
    state, batch = new_state(config), first_batch(config)
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(state.student(image), image)
    start = float(run(config, state, None, batch=batch)["loss"])
    assert float(run(config, state, None, steps=40, batch=batch)["loss"]) < start


def test_the_schedules() -> None:
    constant = OptimizerConfig(lr=1.0, warmup_steps=4)
    assert [learning_rate(constant, step, 100) for step in (0, 1, 3, 4, 99)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    cosine = OptimizerConfig(lr=1.0, schedule="cosine", warmup_steps=10)
    assert learning_rate(cosine, 10, 110) == 1.0
    assert learning_rate(cosine, 60, 110) == pytest.approx(0.5)
    assert learning_rate(cosine, 109, 110) < 0.001


NO_NOISE = [
    {"kind": "gaussian_blur", "sigma": [0.5, 3.0], "probability": 0.7},
    {"kind": "defocus", "radius": [0.8, 4.0], "probability": 0.7},
    {"kind": "motion_blur", "length": [3, 15]},
    {"kind": "rescale", "factor": [1, 4]},
    {"kind": "jpeg", "quality": [30, 95]},
]
NOISE = [{"kind": "noise", "sigma": [0, 20]}]
EVERY_AUGMENTATION = {"gamma": [0.5, 2.0], "brightness": [-0.2, 0.2], "shuffle_channels": 0.5}
IN_PARTS = {"accumulate": 2, "clip_norm": 1.0, "ema": 0.9}


def test_a_step_reads_nothing_back(tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """On the meta device, which has no values to read: `.item()`, `bool()` and `.cpu()` of a result raise there. (Noise is left
    out, because that device has no random numbers.)"""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # neither it nor the fused kernel
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: None)  # knows the meta device
    config = tiny_config(degrade=NO_NOISE, augment=EVERY_AUGMENTATION, optimizer=IN_PARTS, teacher={"micro_batch": 1})
    device = torch.device("meta")
    state = new_training_state(build_student(config.student, config.run.seed), config.optimizer, device)
    teacher = build_teacher(config.teacher, device)
    measured = one_step(first_batch(config).to(device), state, teacher, config)
    assert measured.keys() == {"l1", "kd", "loss", "gradient_norm", "finite", "teacher_failed"}
    assert all(value.device == device for value in measured.values())
    assert state.step == 1


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_a_step_waits_for_nothing_on_a_gpu(tiny_config: Callable[..., Config], amp: str) -> None:
    """From the batch's arrival to the end of the optimiser step, with the recorded teacher, on the path that training takes. The
    first steps may, when libraries initialise themselves."""
    config = tiny_config(
        degrade=NO_NOISE + NOISE, augment=EVERY_AUGMENTATION, optimizer=IN_PARTS | {"amp": amp}, teacher={"micro_batch": 1}
    )
    device = torch.device("cuda")
    state = new_training_state(build_student(config.student, config.run.seed), config.optimizer, device)
    teacher = build_teacher(config.teacher, device)
    assert teacher is not None
    speed_up_for_training(teacher, config, Ranks())
    for number, batch in enumerate(on_device(training_loader(TrainingPatches(config), 0, 4, pin=True), device)):
        torch.cuda.set_sync_debug_mode("error" if number >= 2 else "default")
        try:
            one_step(batch, state, teacher, config)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_learns_on_a_gpu(tiny_config: Callable[..., Config], amp: str) -> None:
    config = tiny_config(run={"device": "cuda"}, optimizer={"amp": amp})
    device = torch.device("cuda")
    state = new_training_state(build_student(config.student, config.run.seed), config.optimizer, device)
    teacher = build_teacher(config.teacher, device)
    batch = first_batch(config).to(device)
    losses = [float(one_step(batch, state, teacher, config)["loss"]) for _ in range(40)]
    assert losses[-1] < losses[0]
