"""One optimisation step, from a batch of uint8 patches to updated weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from distill.config import Config, StageConfig
from distill.data.batch import Batch, unpack
from distill.networks.teacher import Teacher
from distill.networks.vgg import VggFeatures
from distill.synthesis.augment import augment
from distill.synthesis.eight_bit import to_float
from distill.training.losses import distillation_loss, sharp_samples
from distill.training.state import TrainingState
from distill.training.update import apply_update, gradient_averaged, mean_of_parts, predict, replace_failed


def training_step(
    batch: Batch,
    state: TrainingState,
    teacher: Teacher | None,
    vgg: VggFeatures | None,
    stage: StageConfig,
    lr: float,
    config: Config,
    sharp_in_step: int | None = None,
) -> dict[str, Tensor]:
    """Does one step on a batch, or on this rank's part of one; its images are on the device. Changes `state`. `sharp_in_step` is
    how many samples of the whole step have a sharp image; None: every rank has as many as this one.

    Returns the terms of the loss, `gradient_norm`, and `finite` (1 if the update was applied, 0 if it was rejected). If the
    teacher ran, also `teacher_failed`, the share of its images that were not finite. All are 0-dimensional tensors on the
    device, averaged over the ranks. The host has not waited for them.
    """
    images = unpack(batch, config.degrade)
    known = None if batch.teacher is None else to_float(batch.teacher)
    sharp, blurry, cached = augment([*images, known], config.augment, batch.draws)
    assert blurry is not None

    asks_teacher = cached is None and teacher is not None and stage.needs_target(config.vgg)
    parts = config.optimizer.accumulate
    have_sharp = sharp_samples(batch.has_sharp, sharp_in_step, parts, state.ranks.count, blurry.device)
    # The forward pass changes BatchNorm's buffers. If the update is rejected, they get these values back.
    buffers = [buffer.clone() for buffer in state.student.buffers()]
    measured: list[dict[str, Tensor]] = []
    for sharp_part, blurry_part, target, samples in zip(
        _chunks(sharp, parts), blurry.chunk(parts), _chunks(cached, parts), have_sharp, strict=True
    ):
        if asks_teacher:
            assert teacher is not None
            target = teacher(blurry_part)
        with gradient_averaged(state, last=len(measured) == parts - 1):
            prediction = predict(state, blurry_part)
            target, failed = replace_failed(target, prediction) if asks_teacher else (target, {})
            terms = distillation_loss(prediction, sharp_part, target, stage, vgg, samples)
            state.scaler.scale(terms["loss"] / parts).backward()
        measured.append({name: term.detach() for name, term in terms.items()} | failed)
    means = mean_of_parts(measured, state.ranks)
    return means | apply_update(state, means, buffers, lr, config.optimizer)


def _chunks(images: Tensor | None, parts: int) -> Sequence[Tensor | None]:
    return [None] * parts if images is None else images.chunk(parts)
