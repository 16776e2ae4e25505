"""A step some of whose samples have no sharp image: what each sample learns, and that it learns what it would learn alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distill.config import Config, StageConfig, VggConfig
from distill.data.batch import Batch
from distill.data.datasets import TrainingPatches
from distill.data.loader import training_loader
from distill.networks.student import build_student
from distill.networks.teacher import build_teacher
from distill.networks.vgg import VggFeatures
from distill.runtime.ranks import Ranks
from distill.training.log import RunLog
from distill.training.losses import distillation_loss, sharp_samples
from distill.training.state import TrainingState, new_training_state
from distill.training.step import make_images, training_step

CPU = torch.device("cpu")
BOTH = StageConfig(name="s", epochs=1, l1=1.0, kd=1.0)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_l1_is_over_the_samples_with_a_sharp_image_and_kd_over_all() -> None:
    """By hand, from each sample's own mean absolute differences."""
    prediction, sharp, target = (images(4, seed) for seed in range(3))
    (samples,) = sharp_samples([True, False, False, True], None, 1, 1, CPU)
    terms = distillation_loss(prediction, sharp, target, BOTH, None, samples)
    to_sharp, to_teacher = ((prediction - other).abs().mean((1, 2, 3)).tolist() for other in (sharp, target))
    assert terms["l1"].item() == pytest.approx((to_sharp[0] + to_sharp[3]) / 2)
    assert terms["kd"].item() == pytest.approx(sum(to_teacher) / 4)
    assert terms["loss"].item() == pytest.approx(terms["l1"].item() + terms["kd"].item())


@pytest.mark.parametrize("term", ["l1", "vgg"])
def test_a_sample_learns_from_its_sharp_image_what_it_would_learn_without_the_others(term: str) -> None:
    vgg = VggFeatures(VggConfig(weights="random")) if term == "vgg" else None
    stage = StageConfig(name="s", epochs=1, l1=float(term == "l1"), kd=0.0, vgg=float(term == "vgg"))
    prediction, sharp = images(4, 0).requires_grad_(), images(4, 1)
    has_sharp = [True, False, True, False]
    (samples,) = sharp_samples(has_sharp, None, 1, 1, CPU)
    distillation_loss(prediction, sharp, None, stage, vgg, samples)["loss"].backward()
    alone = prediction.detach()[has_sharp].requires_grad_()
    distillation_loss(alone, sharp[has_sharp], None, stage, vgg)["loss"].backward()
    assert prediction.grad is not None
    assert alone.grad is not None
    if term == "l1":
        assert torch.equal(prediction.grad[has_sharp], alone.grad)
    else:  # the convolutions' sums depend on the size of the batch
        assert torch.allclose(prediction.grad[has_sharp], alone.grad, rtol=1e-4, atol=1e-9)
    assert not prediction.grad[[not has for has in has_sharp]].any()


def test_parts_and_ranks_add_up_to_the_whole_step() -> None:
    """Four parts, as of two ranks with two each; the third has no sample with a sharp image."""
    prediction, sharp = images(8, 0), images(8, 1)
    has_sharp = [True, False, True, True, False, False, False, True]
    (whole,) = sharp_samples(has_sharp, None, 1, 1, CPU)
    stage = StageConfig(name="s", epochs=1, l1=1.0, kd=0.0)
    expected = distillation_loss(prediction, sharp, None, stage, None, whole)["l1"]
    parts = [*sharp_samples(has_sharp[:4], 4, 2, 2, CPU), *sharp_samples(has_sharp[4:], 4, 2, 2, CPU)]
    assert [part is not None and part.which is None for part in parts] == [False, False, True, False]
    terms = [
        distillation_loss(p, None if part is not None and part.which is None else s, None, stage, None, part)["l1"]
        for p, s, part in zip(prediction.chunk(4), sharp.chunk(4), parts, strict=True)
    ]
    assert torch.stack(terms).mean().item() == pytest.approx(expected.item())


def test_without_a_sharp_image_in_the_step_there_is_no_such_term() -> None:
    (samples,) = sharp_samples([False] * 4, None, 1, 1, CPU)
    assert set(distillation_loss(images(4), None, images(4, 1), BOTH, None, samples)) == {"kd", "loss"}


def test_with_a_sharp_image_for_every_sample_the_loss_is_as_ever() -> None:
    assert sharp_samples([True] * 4, None, 2, 1, CPU) == [None, None]
    assert sharp_samples([True] * 4, 8, 2, 2, CPU) == [None, None]
    assert sharp_samples([True] * 4, 5, 2, 2, CPU) != [None, None]  # another rank's samples lack them


@pytest.fixture
def mixed(tiny_config: Callable[..., Config], sharp_folder: Path) -> Callable[..., Config]:
    """Sharp images, pairs, and twice as many samples without sharp images."""

    def make(**sections: dict[str, object]) -> Config:
        folder = str(sharp_folder)
        sources = [{"sharp": folder}, {"sharp": folder, "blurry": folder}, {"blurry": folder, "parts": 2}]
        data = {"sharp": None, "sources": sources} | sections.pop("data", {})
        return tiny_config(data=data, student={"norm": "none"}, **sections)

    return make


def step(config: Config, batch: Batch | None = None) -> tuple[dict[str, Tensor], TrainingState]:
    batch = batch or next(training_loader(TrainingPatches(config), 0, 1, pin=False))
    state = new_training_state(build_student(config.student, config.run.seed), config.optimizer, CPU)
    stage, teacher = config.stages[0], build_teacher(config.teacher, CPU)
    return training_step(make_images(batch, teacher, stage, config), state, None, stage, 1e-3, config), state


def test_accumulated_parts_are_one_step(mixed: Callable[..., Config]) -> None:
    """With four parts, two of one sample each have no sharp image."""
    whole, alone = step(mixed())
    parts, accumulated = step(mixed(optimizer={"accumulate": 4}))
    for name in ("l1", "kd", "loss", "gradient_norm"):
        assert parts[name].item() == pytest.approx(whole[name].item(), rel=1e-4)
    for one, other in zip(alone.student.parameters(), accumulated.student.parameters(), strict=True):
        assert torch.allclose(one, other, atol=2e-6)


def test_a_step_without_sharp_images_is_logged_beside_one_with_them(mixed: Callable[..., Config], tmp_path: Path) -> None:
    """A mean is over the steps that have the term."""
    config = mixed()
    batch = next(training_loader(TrainingPatches(config), 0, 1, pin=False))
    assert batch.has_sharp == [True, True, False, False]
    assert batch.has_blurry == [False, True, True, True]
    without = replace(batch, sharp=None, has_sharp=[False] * 4, has_blurry=[True] * 4)
    measured = [step(config, one)[0] for one in (without, batch)]
    assert "l1" not in measured[0]
    with RunLog(tmp_path, 0, Ranks()) as log:
        for number, terms in enumerate(measured):
            log.add(terms, images=4, names=[str(number)])
        record = log.flush(2)
    assert record["l1"] == pytest.approx(measured[1]["l1"].item())
    assert record["kd"] == pytest.approx((measured[0]["kd"].item() + measured[1]["kd"].item()) / 2)
