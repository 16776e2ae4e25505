"""Devices and dtypes of a step on a GPU, checked without one. (The backward pass and noise need a real one.)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from pretended_gpu import on_gpu, pretended_gpu

from distill.config import Config
from distill.data.datasets import TrainingPatches
from distill.data.loader import training_loader
from distill.networks.student import build_student
from distill.networks.teacher import Teacher
from distill.networks.vgg import VggFeatures
from distill.training.losses import distillation_loss
from distill.training.step import make_images
from restormer.weights import load_restormer

DEGRADE = [
    {"kind": "gaussian_blur", "sigma": [0.5, 3.0]},
    {"kind": "defocus", "radius": [0.8, 4.0]},
    {"kind": "motion_blur", "length": [3, 15]},
    {"kind": "rescale", "factor": [1, 4]},
    {"kind": "jpeg", "quality": [30, 95]},
]
AUGMENT = {"gamma": [0.5, 2.0], "brightness": [-0.2, 0.2], "shuffle_channels": 0.5}
GPU = torch.device("cuda", 0)


@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_stays_on_its_device(tiny_config: Callable[..., Config], amp: torch.dtype, accumulate: int) -> None:
    stage = {"name": "v1", "epochs": 1, "l1": 1.0, "kd": 1.0, "vgg": 0.1}
    config = tiny_config(
        degrade=DEGRADE,
        augment=AUGMENT,
        stages=[stage],
        vgg={"weights": "random", "resize": 32},
        optimizer={"accumulate": accumulate},
        teacher={"mode": "online", "weights": "embedded", "reuse": 2},
    )
    (batch,) = training_loader(TrainingPatches(config), 0, 1, pin=False)
    networks: list[Any] = [
        Teacher(load_restormer("embedded"), torch.float16),
        build_student(config.student, 0),
        VggFeatures(config.vgg),
    ]
    with pretended_gpu():
        teacher, student, vgg = (on_gpu(network) for network in networks)
        assert batch.sharp is not None
        batch = replace(batch, sharp=torch.empty(batch.sharp.shape, dtype=torch.uint8, device="cuda"))
        images = make_images(batch, teacher, config.stages[0], config).turned_again(batch, 1, config.augment)
        for image in (images.sharp, images.blurry, images.target):
            assert image is not None
            assert (image.device, image.dtype, image.shape) == (GPU, torch.float32, batch.sharp.shape)
        with torch.autocast("cuda", amp):
            prediction = student(images.blurry)
        assert (prediction.device, prediction.dtype) == (GPU, torch.float32)  # the correction is added to a float32 image
        terms = distillation_loss(prediction, images.sharp, images.target, config.stages[0], vgg)
    assert terms.keys() == {"l1", "kd", "vgg", "loss"}
    assert {(term.device, term.dtype, term.shape) for term in terms.values()} == {(GPU, torch.float32, ())}


def test_a_tensor_left_on_the_cpu_is_noticed() -> None:
    with pretended_gpu():
        image = torch.empty(1, 3, 16, 16, device="cuda")
        with pytest.raises(RuntimeError, match="device"):
            image + torch.zeros(3, 16, 16)
