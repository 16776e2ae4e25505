"""One optimisation step, from a batch of uint8 patches to updated weights.

`make_images` does what a batch needs once: it makes the blur, augments, and asks the teacher. `training_step` then updates the
student. With `teacher.reuse`, several steps use the same images, which `turn_again` turns for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distill.config import AugmentConfig, Config, StageConfig
from distill.data.batch import Batch, unpack
from distill.networks.teacher import Teacher
from distill.networks.vgg import VggFeatures
from distill.synthesis import augment
from distill.synthesis.eight_bit import to_float
from distill.training.losses import distillation_loss, sharp_samples
from distill.training.state import TrainingState
from distill.training.update import apply_update, gradient_averaged, mean_of_parts, predict, replace_failed


@dataclass(frozen=True)
class Images:
    """What a step learns from: images on the device, (B, 3, P, P) in [0, 1]."""

    sharp: Tensor | None
    """None if no sample has a sharp image."""
    blurry: Tensor
    target: Tensor | None
    """The teacher's images. None if the stage does not learn from them."""
    has_sharp: list[bool]
    online: bool
    """Whether the teacher made `target` just now. Its images may then have values that are not finite."""

    def turned_again(self, batch: Batch, repeat: int, config: AugmentConfig) -> Images:
        """The same images, flipped and turned anew for the `repeat`-th step that uses them again. For `repeat` 0, as they are."""
        if repeat == 0:
            return self
        sharp, blurry, target = augment.turn_again([self.sharp, self.blurry, self.target], config, batch.draws, repeat)
        assert blurry is not None
        return replace(self, sharp=sharp, blurry=blurry, target=target)


def make_images(batch: Batch, teacher: Teacher | None, stage: StageConfig, config: Config) -> Images:
    """The images of a batch, or of this rank's part of one, whose pixels are on the device. The teacher restores the blurry
    images in `optimizer.accumulate` parts."""
    sharp, blurry = unpack(batch, config.degrade)
    cached = None if batch.teacher is None else to_float(batch.teacher)
    images = augment.augment([sharp, blurry, cached], config.augment, batch.draws)
    sharp, augmented, target = images
    assert augmented is not None
    online = target is None and teacher is not None and stage.needs_target(config.vgg)
    if online:
        assert teacher is not None
        target = torch.cat([teacher(part) for part in augmented.chunk(config.optimizer.accumulate)])
    return Images(sharp, augmented, target, batch.has_sharp, online)


def training_step(
    images: Images,
    state: TrainingState,
    vgg: VggFeatures | None,
    stage: StageConfig,
    lr: float,
    config: Config,
    sharp_in_step: int | None = None,
) -> dict[str, Tensor]:
    """Does one step. Changes `state`. `sharp_in_step` is how many samples of the whole step have a sharp image; None: every rank
    has as many as this one.

    Returns the terms of the loss, `gradient_norm`, and `finite` (1 if the update was applied, 0 if it was rejected). If the
    teacher ran, also `teacher_failed`, the share of its images that were not finite. All are 0-dimensional tensors on the
    device, averaged over the ranks. The host has not waited for them.
    """
    parts = config.optimizer.accumulate
    have_sharp = sharp_samples(images.has_sharp, sharp_in_step, parts, state.ranks.count, images.blurry.device)
    # The forward pass changes BatchNorm's buffers. If the update is rejected, they get these values back.
    buffers = [buffer.clone() for buffer in state.student.buffers()]
    measured: list[dict[str, Tensor]] = []
    for sharp, blurry, target, samples in zip(
        _chunks(images.sharp, parts), images.blurry.chunk(parts), _chunks(images.target, parts), have_sharp, strict=True
    ):
        with gradient_averaged(state, last=len(measured) == parts - 1):
            prediction = predict(state, blurry)
            target, failed = replace_failed(target, prediction) if images.online else (target, {})
            terms = distillation_loss(prediction, sharp, target, stage, vgg, samples)
            state.scaler.scale(terms["loss"] / parts).backward()
        measured.append({name: term.detach() for name, term in terms.items()} | failed)
    means = mean_of_parts(measured, state.ranks)
    return means | apply_update(state, means, buffers, lr, config.optimizer)


def _chunks(images: Tensor | None, parts: int) -> Sequence[Tensor | None]:
    return [None] * parts if images is None else images.chunk(parts)
