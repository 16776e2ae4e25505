"""One optimisation step, from a batch of uint8 patches to updated weights."""

from __future__ import annotations

import copy
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from distill.config import Config, OptimizerConfig, StageConfig
from distill.data.datasets import Batch
from distill.networks.teacher import Teacher
from distill.runtime.ranks import Ranks
from distill.synthesis.augment import augment
from distill.synthesis.degrade import degrade, to_float
from distill.training.losses import VggFeatures, distillation_loss, needs_target


class DivergedError(ValueError):
    """Update after update that is not finite: more steps would not mend it."""


@dataclass
class TrainingState:
    """All that a step changes; with the resolved configuration, all that a checkpoint holds."""

    step: int
    student: nn.Module
    replica: nn.Module
    """The student as a step calls it: among several ranks, inside what averages its gradient over them."""
    ranks: Ranks
    ema: nn.Module | None
    """The student with moving averages for weights, BatchNorm buffers included."""
    optimizer: torch.optim.Adam
    scaler: torch.amp.GradScaler
    amp_dtype: torch.dtype | None
    teacher_failed: Tensor
    """On the device: above 0 once an image of the teacher's was not finite. Not its complement: a mean of zeros is exactly zero,
    and one of ones need not be one."""
    best_psnr: float = float("-inf")
    validated_step: int = 0
    """The step that was validated last: a run that was stopped in the middle of a validation begins with it."""

    @property
    def kept(self) -> nn.Module:
        """What is validated and written as the model: the averaged weights where there are any."""
        return self.ema if self.ema is not None else self.student


def new_training_state(
    student: nn.Module, config: OptimizerConfig, device: torch.device, ranks: Ranks | None = None
) -> TrainingState:
    """Step 0 on the device; the student in channels_last, its average a copy. All ranks get the first one's weights."""
    ranks = ranks or Ranks()
    student = student.to(device).to(memory_format=torch.channels_last)
    if ranks.count > 1 and device.type == "cuda":
        student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
    amp_dtype = _amp_dtype(config, device)
    return TrainingState(
        step=0,
        student=student,
        # Buffers are the same on all ranks after every step, by SyncBatchNorm or by `Ranks.average`.
        replica=DistributedDataParallel(student, broadcast_buffers=False) if ranks.count > 1 else student,
        ranks=ranks,
        ema=copy.deepcopy(student).requires_grad_(False).eval() if config.ema is not None else None,
        # Fused: one kernel, and it can skip an update on the device's own decision.
        optimizer=torch.optim.Adam(student.parameters(), lr=config.lr, fused=True),
        scaler=torch.amp.GradScaler(device.type, enabled=amp_dtype == torch.float16),
        amp_dtype=amp_dtype,
        teacher_failed=torch.zeros((), device=device),
    )


def _amp_dtype(config: OptimizerConfig, device: torch.device) -> torch.dtype | None:
    if config.amp == "off" or device.type != "cuda":
        return None
    if config.amp == "auto":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if config.amp == "bf16" else torch.float16


def training_step(
    batch: Batch,
    state: TrainingState,
    teacher: Teacher | None,
    vgg: VggFeatures | None,
    stage: StageConfig,
    lr: float,
    config: Config,
) -> dict[str, Tensor]:
    """One step on a batch, or a rank's part of it, whose images are on the device. Changes `state`.

    Returns each loss term, the gradient's norm, whether the update was `finite`, and where the teacher was asked the share of its
    images that were not (`teacher_failed`): means over all ranks, as tensors on the device that nobody has waited for.
    """
    sharp, blurry = prepare(batch, config)
    cached = [] if batch.teacher is None else [to_float(batch.teacher)]
    sharp, blurry, *cached = augment([sharp, blurry, *cached], config.augment, batch.draws)

    parts = config.optimizer.accumulate
    buffers = [buffer.clone() for buffer in state.student.buffers()]
    measurements: list[dict[str, Tensor]] = []
    targets = cached[0].chunk(parts) if cached else [None] * parts
    for sharp_part, blurry_part, target in zip(sharp.chunk(parts), blurry.chunk(parts), targets, strict=True):
        asked = target is None and teacher is not None and needs_target(stage, config.vgg)
        if asked:
            assert teacher is not None
            target = teacher(blurry_part)
        with _gradient_shared(state, last=len(measurements) == parts - 1):
            with torch.autocast(blurry.device.type, state.amp_dtype, enabled=state.amp_dtype is not None):
                prediction = state.replica(blurry_part)
            target, usable = _usable(target, prediction) if asked else (target, None)
            terms = distillation_loss(prediction, sharp_part, target, stage, vgg)
            state.scaler.scale(terms["loss"] / parts).backward()
        measurements.append({name: term.detach() for name, term in terms.items()})
        if usable is not None:
            measurements[-1]["teacher_failed"] = (~usable).float().mean()

    means = {name: torch.stack([terms[name] for terms in measurements]).mean() for name in measurements[0]}
    means = state.ranks.mean(means)
    if "teacher_failed" in means:
        state.teacher_failed = torch.maximum(state.teacher_failed, means["teacher_failed"])
    return means | _update(state, means["loss"], buffers, lr, config.optimizer)


def _gradient_shared(state: TrainingState, last: bool) -> AbstractContextManager[None]:
    """Among several ranks, gradients are averaged once a step, in the last part's backward pass."""
    if isinstance(state.replica, DistributedDataParallel) and not last:
        return state.replica.no_sync()
    return nullcontext()


def _usable(target: Tensor | None, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """The teacher's images, and which of them are finite (B,). The prediction itself stands in for one that is not: its distance
    and its gradient are then 0."""
    assert target is not None
    finite = target.isfinite().flatten(1).all(dim=1)
    return torch.where(finite[:, None, None, None], target, prediction.detach().to(target.dtype)), finite


def prepare(batch: Batch, config: Config) -> tuple[Tensor, Tensor]:
    """(sharp, blurry) in [0, 1], channels_last, from uint8 images on the device; blurry is made here where none came along."""
    sharp = to_float(batch.sharp)
    blurry = degrade(sharp, config.degrade, batch.draws) if batch.blurry is None else to_float(batch.blurry)
    return sharp, blurry


def _update(state: TrainingState, loss: Tensor, buffers: list[Tensor], lr: float, config: OptimizerConfig) -> dict[str, Tensor]:
    """Clips and applies the gradient. An update that is not finite changes nothing, and that is decided on the device."""
    optimizer, student = state.optimizer, state.student
    state.scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(student.parameters(), config.clip_norm or float("inf"))
    # The loss as well: L1's gradient is a sign, finite even where the target is infinite.
    finite = norm.isfinite() & loss.isfinite()

    for group in optimizer.param_groups:
        group["lr"] = lr
    # The fused step leaves weights and moments alone where found_inf is 1; it is how GradScaler tells it.
    optimizer.grad_scale, optimizer.found_inf = None, (~finite).float()  # type: ignore[attr-defined]
    optimizer.step()
    state.scaler.update()
    optimizer.zero_grad(set_to_none=True)
    if norm.device.type != "cuda":  # where SyncBatchNorm has done it
        state.ranks.average(student.buffers())
    for buffer, before in zip(student.buffers(), buffers, strict=True):
        buffer.copy_(torch.where(finite, buffer, before))
    state.step += 1
    if state.ema is not None and config.ema is not None:
        # Short runs would otherwise keep the start's random weights in their average.
        decay = min(config.ema, state.step / (state.step + 10))
        _average(state.ema, student, (1 - decay) * finite)
    return {"gradient_norm": norm.detach(), "finite": finite.float()}


@torch.no_grad()
def _average(ema: nn.Module, student: nn.Module, weight: Tensor) -> None:
    """Moves every floating tensor of `ema` towards the student's by the 0-dimensional `weight`; counters are copied."""
    for old, new in zip(ema.state_dict().values(), student.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, weight.to(old.dtype))
        else:
            old.copy_(new)


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Of the update number `step` (from 0) among `total_steps`: a linear warm-up, then constant or half a cosine."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
