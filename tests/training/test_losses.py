"""Each loss term equals a value computed by hand, and its weight scales its gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from distill.config import StageConfig, VggConfig
from distill.networks.vgg import VggFeatures
from distill.training.losses import distillation_loss


def stage(l1: float = 0.0, kd: float = 0.0, vgg: float = 0.0) -> StageConfig:
    return StageConfig(name="s", epochs=1, l1=l1, kd=kd, vgg=vgg)


@pytest.fixture
def images() -> tuple[Tensor, Tensor, Tensor]:
    """(prediction, sharp, target), (1, 3, 2, 2): 12 values, so that the means below can be done in the head."""
    prediction = torch.zeros(1, 3, 2, 2)
    prediction[0, 0] = torch.tensor([[0.5, 0.5], [0.25, 0.0]])
    sharp = torch.zeros(1, 3, 2, 2)
    sharp[0, 0, 0, 0] = 0.25  # |0.25| + |0.5| + |0.25| = 1, over 12
    target = prediction.clone()
    target[0, 2] = 0.75  # 4 * 0.75 = 3, over 12
    return prediction.requires_grad_(), sharp, target


def test_l1_and_kd_are_mean_absolute_differences(images: tuple[Tensor, Tensor, Tensor]) -> None:
    terms = distillation_loss(*images, stage(l1=1.0, kd=1.0), None)
    assert terms["l1"].item() == pytest.approx(1 / 12)
    assert terms["kd"].item() == pytest.approx(3 / 12)
    assert terms["loss"].item() == pytest.approx(4 / 12)


def test_the_loss_is_the_weighted_sum(images: tuple[Tensor, Tensor, Tensor]) -> None:
    assert distillation_loss(*images, stage(l1=2.0, kd=0.5), None)["loss"].item() == pytest.approx(2 / 12 + 0.5 * 3 / 12)


def test_a_weight_of_zero_computes_nothing(images: tuple[Tensor, Tensor, Tensor]) -> None:
    prediction, sharp, _ = images
    assert set(distillation_loss(prediction, sharp, None, stage(l1=1.0), None)) == {"l1", "loss"}


@pytest.mark.parametrize("term", ["l1", "kd", "vgg"])
def test_doubling_a_weight_doubles_that_terms_gradient(term: str) -> None:
    vgg = VggFeatures(VggConfig(weights="random"))
    generator = torch.Generator().manual_seed(0)
    prediction, sharp, target = (torch.rand(1, 3, 16, 16, generator=generator) for _ in range(3))
    gradients = []
    for weight in (0.7, 1.4):
        leaf = prediction.clone().requires_grad_()
        distillation_loss(leaf, sharp, target, stage(**{term: weight}), vgg)["loss"].backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    assert float(gradients[0].abs().sum()) > 0
    torch.testing.assert_close(gradients[1], 2 * gradients[0])


def test_half_precision_predictions_are_compared_in_float32() -> None:
    prediction = torch.full((1, 3, 8, 8), 0.1, dtype=torch.bfloat16)
    terms = distillation_loss(prediction, torch.zeros(1, 3, 8, 8), None, stage(l1=1.0), None)
    assert terms["l1"].dtype == torch.float32
    assert float(terms["l1"]) == float(prediction[0, 0, 0, 0])


@pytest.mark.parametrize("against", ["sharp", "teacher"])
def test_vgg_compares_with_what_it_is_told(against: Any) -> None:
    vgg = VggFeatures(VggConfig(weights="random", against=against))
    generator = torch.Generator().manual_seed(0)
    prediction, sharp, target = (torch.rand(1, 3, 16, 16, generator=generator) for _ in range(3))
    reference = sharp if against == "sharp" else target
    expected = (vgg(prediction) - vgg(reference)).abs().mean()
    assert float(distillation_loss(prediction, sharp, target, stage(vgg=1.0), vgg)["vgg"]) == pytest.approx(float(expected))
